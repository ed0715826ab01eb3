"""Fetching URLs over HTTP: one session, a name override, a deadline a URL, retries, and a reason for each failure."""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from pydantic import BaseModel, ConfigDict, Field, field_validator


class FetchConfig(BaseModel):
    """How politely and how patiently to fetch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_agent: str = Field("headwater/0.1", description="who we say we are; add an address where you can be reached")
    resolve: dict[str, str] = Field({}, description="host pattern to ADDRESS:PORT, in place of DNS")
    allow_private_hosts: bool = Field(False, description="also fetch from private and loopback addresses")
    concurrency: int = Field(16, ge=1, description="requests in flight a shard")
    per_host: int = Field(8, ge=1, description="requests in flight to one host a shard")
    deadline: float = Field(10.0, gt=0, description="seconds for one request, from connecting to the last byte")
    retries: int = Field(2, ge=0, description="further tries after 429, 5xx or a broken connection")
    backoff: float = Field(0.5, ge=0, description="seconds before the first retry, doubled for each further one")
    max_retry_after: float = Field(30.0, ge=0, description="seconds of Retry-After that are waited for at most")
    max_redirects: int = Field(5, ge=0, description="redirects that are followed at most")
    max_bytes: int = Field(20_000_000, ge=1, description="largest body that is read")
    opt_out: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex", "noml"),
        description="X-Robots-Tag directives that are obeyed",
    )

    @field_validator("resolve")
    @classmethod
    def _endpoints(cls, resolve: dict[str, str]) -> dict[str, str]:
        for target in resolve.values():
            _endpoint(target)
        return resolve


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one URL: the body where `reason` is `ok`, else why there is none."""

    reason: str
    body: bytes = b""
    message: str | None = None


# A timeout is final: the deadline is what one URL may cost, and a body that never ends would cost it again.
RETRIED = frozenset({"http_429", "http_5xx", "connection"})


async def fetch_all(
    urls: Sequence[str], config: FetchConfig, take: Callable[[int, Fetched], Awaitable[None]]
) -> None:
    """Fetch every URL and await `take(position, result)` for it; never raises for a single URL.

    A request keeps its permit until its result is taken, so that at most `concurrency` bodies are held at once.
    """
    # The semaphores are the only limits: the deadline would run while a request waits for one of the connector's.
    connector = aiohttp.TCPConnector(resolver=OverridingResolver(config), limit=0)
    # Pictures are compressed already, and a small compressed body can unpack to a large one.
    headers = {"User-Agent": config.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
    permits = asyncio.Semaphore(config.concurrency)
    hosts: dict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(config.per_host))
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=config.deadline),
        headers=headers,
        # What one URL sets must not change the answer to another.
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=() if config.allow_private_hosts else (_refuse_private_literals,),
    ) as session:

        async def one(index: int) -> None:
            async with hosts[_host(urls[index])], permits:
                await take(index, await fetch(session, urls[index], config))

        await asyncio.gather(*(one(index) for index in range(len(urls))))


async def fetch(session: aiohttp.ClientSession, url: str, config: FetchConfig) -> Fetched:
    """One URL with its retries: 404, 410 and opt-outs are final; 429 waits as long as the server asks."""
    for attempt in range(config.retries + 1):
        result, wait = await _once(session, url, config)
        if result.reason not in RETRIED or attempt == config.retries:
            return result
        pause = config.backoff * 2**attempt if wait is None else min(wait, config.max_retry_after)
        await asyncio.sleep(pause)
    return result


async def _once(session: aiohttp.ClientSession, url: str, config: FetchConfig) -> tuple[Fetched, float | None]:
    """One request, and the seconds that the server asks to wait before another."""
    try:
        async with session.get(url, max_redirects=config.max_redirects) as response:
            if response.status != 200:
                return _refused(response), _retry_after(response)
            if is_opted_out(response.headers.getall("X-Robots-Tag", []), config.opt_out):
                return Fetched("opt_out"), None
            return await _body(response, config.max_bytes), None
    except TimeoutError:
        return Fetched("timeout"), None
    except aiohttp.TooManyRedirects:
        return Fetched("redirects"), None
    except (aiohttp.InvalidUrlRedirectClientError, aiohttp.NonHttpUrlRedirectClientError):
        return Fetched("redirects", message="Redirect to an unusable address"), None
    except PrivateAddressError:
        return Fetched("private_address"), None
    except (aiohttp.InvalidURL, UnicodeError) as error:
        return Fetched("bad_url", message=f"unusable URL: {error}"), None
    except aiohttp.ClientConnectorDNSError as error:
        reason = "private_address" if isinstance(error.os_error, PrivateAddressError) else "dns"
        return Fetched(reason), None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Fetched("connection", message=f"Connection error: {type(error).__name__}"), None


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> Fetched:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(65536):
        size += len(part)
        if size > max_bytes:
            return Fetched("too_many_bytes")
        parts.append(part)
    return Fetched("ok", b"".join(parts))


def _refused(response: aiohttp.ClientResponse) -> Fetched:
    # The phrase is the server's to choose; bytes that are not text would not go into a table.
    phrase = (response.reason or "").encode("utf-8", "replace").decode()
    message = f"HTTP Error {response.status}: {phrase}"
    if response.status in (404, 410, 429):
        return Fetched(f"http_{response.status}", message=message)
    return Fetched("http_5xx" if response.status >= 500 else "http_4xx", message=message)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds in the Retry-After header; dates and nonsense are ignored, and the back-off decides."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() else None


def is_opted_out(headers: Sequence[str], directives: Sequence[str]) -> bool:
    """Whether any X-Robots-Tag header holds one of `directives`, for any agent.

    Values such as `unavailable_after: 25 Jun 2010 15:00:00 PST, noai` contain colons of their own, so each
    comma-separated piece is tried with and without what stands before its last colon. That errs towards refusing.
    """
    pieces = [piece.strip().lower() for header in headers for piece in header.split(",")]
    words = {word for piece in pieces for word in (piece, piece.rpartition(":")[2].strip())}
    return not words.isdisjoint(directives)


class PrivateAddressError(aiohttp.ClientError, OSError):
    """A host that leads into a private network."""


async def _refuse_private_literals(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware for each request and redirect: addresses written in a URL never pass the resolver."""
    try:
        address = ipaddress.ip_address(request.url.host or "")
    except ValueError:
        return await handler(request)
    if not _is_public(address):
        raise PrivateAddressError(f"{address} is a private address")
    return await handler(request)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_global


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class OverridingResolver(AbstractResolver):
    """DNS with overrides (`*.test` to 127.0.0.1:8080) that refuses private addresses otherwise."""

    def __init__(self, config: FetchConfig) -> None:
        self._overrides = [(pattern, *_endpoint(target)) for pattern, target in config.resolve.items()]
        self._allow_private = config.allow_private_hosts
        self._dns = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of `host`; PrivateAddressError where all of them are private."""
        for pattern, address, override_port in self._overrides:
            if fnmatch.fnmatch(host, pattern):
                return [
                    ResolveResult(
                        hostname=host, host=address, port=override_port, family=socket.AF_INET, proto=0, flags=0
                    )
                ]
        found = await self._dns.resolve(host, port, family)
        allowed = [r for r in found if self._allow_private or _is_public(ipaddress.ip_address(r["host"]))]
        if found and not allowed:
            raise PrivateAddressError(f"{host} has private addresses only")
        return allowed

    async def close(self) -> None:
        """Nothing is held open."""
        await self._dns.close()


def _endpoint(target: str) -> tuple[str, int]:
    address, _, port = target.rpartition(":")
    try:
        return str(ipaddress.ip_address(address)), int(port)
    except ValueError as error:
        raise ValueError(f"{target!r} is not ADDRESS:PORT, for example 127.0.0.1:8080") from error
