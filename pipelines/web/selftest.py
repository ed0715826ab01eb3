"""Before a large job: do DNS and the proxy answer, and fast enough?"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import aiohttp
from yarl import URL

from filters.errors import InputError
from pipelines.web.addresses import (
    LOOKUPS,
    NO_SUCH_NAME,
    GuardedResolver,
    PrivateAddressError,
    is_literal,
    override_of,
    refused,
)
from pipelines.web.config import FetchConfig

PATIENCE = 5.0  # seconds after which a lookup or a request counts as unanswered
SLOW = 0.25  # seconds for the median lookup that are worth a word
PROXIED = 3  # hosts that the proxy is tried with, each by http and https
# Exists as long as the DNS does: tells dead host names from a DNS that is out of reach.
CONTROL = "a.root-servers.net"

_RESOLVER = "a caching resolver on each node (unbound, dnsmasq, systemd-resolved)"

Outcome = Literal["found", "absent", "private", "silent"]


@dataclass(frozen=True, slots=True)
class _Lookup:
    host: str
    outcome: Outcome
    seconds: float


def check(hosts: Sequence[str], config: FetchConfig) -> list[str]:
    """Look up a seeded sample of the job's host names, or ask the proxy for them; lines that say what was found.

    No lines where no name needs a lookup. A line that reports trouble also says what to try. Takes about `PATIENCE`
    seconds at most. InputError only where nothing at all can work: no DNS, private answers only, no usable proxy.
    """
    passing = sorted({host.rstrip(".").lower() for host in hosts if refused(_url("http", host), config) is None})
    names = [host for host in passing if not is_literal(host) and override_of(host, config) is None]
    sample = random.Random(0).sample(names, min(len(names), LOOKUPS))
    if not sample:
        return []
    if config.proxy:
        return asyncio.run(_check_proxy(sample[:PROXIED], config))
    lookups = asyncio.run(_look_up_all(sample, config))
    lines = _report(lookups)
    if all(lookup.outcome != "found" for lookup in lookups) and len(names) == len(passing):
        _raise_if_hopeless(lookups, config)
    return lines


async def _look_up_all(hosts: Sequence[str], config: FetchConfig) -> list[_Lookup]:
    resolver = GuardedResolver(config)
    try:
        return await asyncio.gather(*(_look_up(resolver, host) for host in hosts))
    finally:
        await resolver.close()


async def _look_up(resolver: GuardedResolver, host: str) -> _Lookup:
    loop = asyncio.get_running_loop()
    start = loop.time()
    outcome: Outcome = "found"
    try:
        async with asyncio.timeout(PATIENCE):
            await resolver.resolve(host)
    except PrivateAddressError:
        outcome = "private"
    except OSError as error:
        outcome = "absent" if isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME else "silent"
    return _Lookup(host, outcome, loop.time() - start)


def _report(lookups: Sequence[_Lookup]) -> list[str]:
    by: dict[Outcome, list[_Lookup]] = {"found": [], "absent": [], "private": [], "silent": []}
    for lookup in lookups:
        by[lookup.outcome].append(lookup)
    median = statistics.median(lookup.seconds for lookup in lookups)
    slowest = max(lookup.seconds for lookup in lookups)
    lines = [
        f"DNS: {len(by['found'])} of {len(lookups)} sampled host names have an address "
        f"(median {1000 * median:.0f} ms a lookup, slowest {1000 * slowest:.0f} ms)"
    ]
    if by["silent"]:
        lines.append(
            f"DNS: {_some(by['silent'])} got no answer: try {_RESOLVER}, other DNS servers, or fewer workers"
        )
    elif median > SLOW:
        lines.append(f"DNS: a worker looks up {LOOKUPS / median:.0f} names a second at this pace: try {_RESOLVER}")
    if 2 * len(by["absent"]) > len(lookups):
        lines.append(
            f"DNS: {_some(by['absent'])} do not exist: old dumps lose hosts, but if these open in a browser, "
            "try other DNS servers or set fetch.proxy"
        )
    if by["private"]:
        lines.append(
            f"DNS: {_some(by['private'])} lead into private networks and are refused: "
            "set fetch.allow_private_hosts if the servers are your own"
        )
    return lines


def _raise_if_hopeless(lookups: Sequence[_Lookup], config: FetchConfig) -> None:
    """InputError where the DNS does not work at all, or answers everything with private addresses."""
    if all(lookup.outcome == "private" for lookup in lookups):
        raise InputError(
            f"{_some(lookups)} lead into private networks, which is all that was sampled: use other DNS servers, "
            "set fetch.proxy, or set fetch.allow_private_hosts if the servers are your own"
        )
    (control,) = asyncio.run(_look_up_all([CONTROL], config))
    if control.outcome in ("absent", "silent"):
        unused = urllib.request.getproxies().get("http")
        hint = f" (the environment names {_without_secrets(unused)}, which is not used by itself)" if unused else ""
        raise InputError(
            f"{_some(lookups)} cannot be looked up, nor can {CONTROL}: check the network and DNS servers of this "
            f"machine, or set fetch.proxy{hint}"
        )


def _some(lookups: Sequence[_Lookup]) -> str:
    """How many names, and a few of them."""
    names = ", ".join(lookup.host for lookup in lookups[:3])
    return f"{len(lookups)} sampled names ({names}{', …' if len(lookups) > 3 else ''})"


async def _check_proxy(hosts: Sequence[str], config: FetchConfig) -> list[str]:
    """Ask the proxy for robots.txt of each host, which every crawler may read, by http and by https."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(config), use_dns_cache=False)
    headers = {"User-Agent": config.agent()}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        troubles = {
            scheme: await asyncio.gather(*(_try_proxy(session, _url(scheme, host), config) for host in hosts))
            for scheme in ("http", "https")
        }
    reached = " and ".join(f"{found.count('')} of {len(hosts)} by {scheme}" for scheme, found in troubles.items())
    lines = [f"proxy {_without_secrets(config.proxy)}: of the sampled hosts it reached {reached}"]
    for scheme, found in troubles.items():
        if all(found):
            lines.append(
                f"proxy: no {scheme} request came through ({', '.join(sorted(set(found)))}): "
                "see what the proxy lets pass, or try another"
            )
    return lines


async def _try_proxy(session: aiohttp.ClientSession, url: str, config: FetchConfig) -> str:
    """What stood in the way of an answer, empty where one came; InputError where the proxy itself is of no use."""
    proxy = _without_secrets(config.proxy)
    try:
        async with session.get(url, proxy=config.proxy, allow_redirects=False) as response:
            status = response.status
    except aiohttp.ClientHttpProxyError as error:
        if error.status != 407:
            return f"CONNECT answered with status {error.status}"
        status = error.status
    except (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError) as error:
        raise InputError(f"the proxy {proxy} cannot be reached ({error}): check fetch.proxy") from error
    except TimeoutError:
        return f"no answer within {PATIENCE:.0f} s"
    except (aiohttp.ClientError, OSError) as error:
        return type(error).__name__
    if status == 407:
        raise InputError(f"the proxy {proxy} asks for a password: set fetch.proxy=http://NAME:PASSWORD@HOST:PORT")
    # What a proxy answers in place of a host that it cannot reach.
    return f"status {status}" if status in (502, 503, 504) else ""


def _url(scheme: str, host: str) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}/robots.txt"


def _without_secrets(proxy: str | None) -> str:
    try:
        return str(URL(proxy or "").with_user(None))
    except ValueError:
        return "in fetch.proxy"
