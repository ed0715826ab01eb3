"""Which addresses may be asked at all: nothing that leads into a private network, however it is written.

A URL is judged twice. `refused` reads its text before any request, since an address that is written in a URL never
passes a resolver; `GuardedResolver` judges what a name leads to and hands on those very addresses, so that a name
which changes its answer between check and connection gains nothing. Both are asked again for every redirect.
"""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipelines.store.reasons import REASONS
from pipelines.web.config import FetchConfig, endpoint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOKUPS = 32  # names looked up at once; the system's resolver waits seconds for a dead one
KNOWN_FOR = 300.0  # seconds for which an answer is kept, also the answer that there is no such name
KNOWN_NAMES = 65_536
# The DNS's own answers that there is nothing; all other failures are its own troubles, and pass.
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})

# Only these hold addresses that the public internet routes (RFC 4291 and IANA's registry).
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `ipaddress` calls global, in some or all Python versions, and is not a server of pictures.
_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's metadata and DNS service
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # protocol assignments, with Teredo
        "3fff::/20",  # documentation (RFC 9637)
    )
)
# Never delegated in the public DNS: RFC 6761, RFC 6762 with its appendix G, RFC 8375, ICANN's `internal`; `svc` is
# what Kubernetes adds.
_PRIVATE_SUFFIXES = (
    *("localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan", "svc"),
    *("home.arpa", "in-addr.arpa", "ip6.arpa"),
)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class PrivateAddressError(aiohttp.ClientError, OSError):
    """A host name that leads into a private network and nowhere else."""


def refused(url: str | URL, config: FetchConfig) -> tuple[str, str] | None:
    """Reason (`bad_url`, `private_address`) and message where `url` must not be asked for; None where it may.

    A name that passes may still lead to a private address: that is the resolver's to find out, or the proxy's
    where there is one.
    """
    try:
        parsed = URL(url)
        host = parsed.raw_host
    except ValueError:
        return _bad("it cannot be parsed")
    if parsed.scheme not in ("http", "https"):
        return _bad("not http or https")
    if "@" in parsed.raw_authority:
        return _bad("it holds credentials")
    if not host:
        return _bad("no host")
    return _refused_host(unquote(host).lower(), config)


def is_public(address: Address) -> bool:
    """Whether `address`, and the IPv4 address inside it if it carries one, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in _PUBLIC_V6 and address.is_global
    return address.is_global and not address.is_multicast


def override_of(host: str, config: FetchConfig) -> tuple[str, int] | None:
    """Address and port that `config.resolve` names for `host`, by its first pattern that fits."""
    name = host.rstrip(".").lower()
    return next((endpoint(to) for pattern, to in config.resolve.items() if fnmatch.fnmatch(name, pattern)), None)


def is_literal(host: str) -> bool:
    """Whether `host` is an address, or would be one for some program, and not a name to look up."""
    return ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def _bad(why: str) -> tuple[str, str]:
    return "bad_url", f"{REASONS['bad_url'][1]}: {why}"


def _private(what: str) -> tuple[str, str]:
    return "private_address", f"{REASONS['private_address'][1]}: {what}"


def _refused_host(host: str, config: FetchConfig) -> tuple[str, str] | None:
    name = host.rstrip(".")
    labels = name.split(".")
    if is_literal(host):
        return _refused_literal(host, config)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return _bad("not a host name")
    # A proxy looks names up by itself and knows nothing of overrides.
    if config.allow_private_hosts or (override_of(host, config) and not config.proxy):
        return None
    if len(labels) == 1 or name.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES)):
        return _private("a name of local networks")
    return None


def _refused_literal(host: str, config: FetchConfig) -> tuple[str, str] | None:
    """Judge an address written in a URL. Odd spellings are refused even of public ones: programs read them apart."""
    try:
        address = _address(host)
    except (OSError, ValueError):
        return _bad("not an address")
    if not config.allow_private_hosts and not is_public(address):
        return _private("an address in the URL")
    if isinstance(address, ipaddress.IPv4Address) and str(address) != host:
        return _bad("an address in an unusual spelling")
    return None


def _address(host: str) -> Address:
    """The address that the system would read in `host`; OSError or ValueError where it would read none."""
    if ":" in host:
        return ipaddress.IPv6Address(host)
    # The system's reader takes decimal, octal, hexadecimal and short forms.
    return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address are carried on to: mapped, NAT64, 6to4, ISATAP."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    number = int(address)
    # ISATAP's interface identifier is 0000:5efe or 0200:5efe, then the address (RFC 5214).
    if address in _NAT64 or (number >> 32) & 0xFDFF_FFFF == 0x5EFE:
        return ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a lookup found, or the error it ended with, and until when that is believed (the loop's time)."""

    addresses: tuple[str, ...]
    error: OSError | None
    until: float


class GuardedResolver(AbstractResolver):
    """The system's DNS with overrides, a memory, and no private addresses.

    One lookup a name at a time; names that do not exist are remembered too, so that the thousandth picture of a
    dead host costs nothing. Overrides and the proxy's own name may lead to private addresses: the user chose them.
    Belongs to one event loop.
    """

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._proxy = URL(config.proxy).host if config.proxy else None
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="dns")
        self._known: dict[tuple[str, int], _Answer] = {}
        self._pending: dict[tuple[str, int], asyncio.Task[_Answer]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host` that may be asked; PrivateAddressError where it has only others, gaierror for none."""
        override = override_of(host, self._config)
        if override:
            return [_result(host, *override)]
        answer = await self._answer(host.rstrip(".").lower(), family)
        if answer.error:
            raise type(answer.error)(*answer.error.args)
        return [_result(host, address, port) for address in answer.addresses]

    async def close(self) -> None:
        """Let lookups in flight end by themselves; none begins after this."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, host: str, family: int) -> _Answer:
        key = (host, family)
        known = self._known.get(key)
        if known and known.until > asyncio.get_running_loop().time():
            return known
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._look_up(host, family))
            task.add_done_callback(lambda _: self._pending.pop(key, None))
        # One request that runs out of time must not end the lookup for the others.
        return await asyncio.shield(task)

    async def _look_up(self, host: str, family: int) -> _Answer:
        loop = asyncio.get_running_loop()
        allow = self._config.allow_private_hosts or host == self._proxy
        keep = KNOWN_FOR
        addresses: tuple[str, ...] = ()
        error: OSError | None = None
        try:
            found = await loop.run_in_executor(self._threads, _system_lookup, host, family)
            addresses = tuple(text for text in found if allow or is_public(ipaddress.ip_address(text)))
            if not addresses:
                error = PrivateAddressError(f"{host} has private addresses only")
        except socket.gaierror as failure:
            error = failure
            keep = KNOWN_FOR if failure.errno in NO_SUCH_NAME else 0.0
        answer = _Answer(addresses, error, loop.time() + keep)
        if len(self._known) >= KNOWN_NAMES:
            self._known.pop(next(iter(self._known)))
        self._known[host, family] = answer
        return answer


def _system_lookup(host: str, family: int) -> list[str]:
    """Addresses of a name in the system's order; gaierror where there are none."""
    try:
        found = socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from error
    return list(dict.fromkeys(str(to[0]) for *_, to in found))


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
