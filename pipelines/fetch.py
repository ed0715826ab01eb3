"""Fetching URLs over HTTP: one session, a name override, a deadline a URL, retries, and a reason for each failure."""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from pydantic import BaseModel, ConfigDict, Field

from filters.errors import ConfigError


class FetchConfig(BaseModel):
    """How politely and how patiently to fetch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_agent: str = Field("headwater/0.1", description="who we say we are; add an address where you can be reached")
    resolve: dict[str, str] = Field({}, description="host pattern to ADDRESS:PORT, in place of DNS")
    allow_private_hosts: bool = Field(False, description="also fetch from private and loopback addresses")
    concurrency: int = Field(16, ge=1, description="requests in flight a shard")
    per_host: int = Field(8, ge=1, description="connections to one host a shard")
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


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one URL: the body where `reason` is `ok`, else why there is none."""

    reason: str
    body: bytes = b""
    message: str | None = None


# A timeout is final: the deadline is what one URL may cost, and a body that never ends would cost it again.
RETRIED = frozenset({"http_429", "http_5xx", "connection"})


async def fetch_all(urls: Sequence[str], config: FetchConfig) -> AsyncIterator[tuple[int, Fetched]]:
    """Yield (position, result) for each URL as it finishes; never raises for a single URL."""
    connector = aiohttp.TCPConnector(resolver=OverridingResolver(config), limit_per_host=config.per_host)
    timeout = aiohttp.ClientTimeout(total=config.deadline)
    headers = {"User-Agent": config.user_agent, "Accept": "image/*,*/*;q=0.5"}
    permits = asyncio.Semaphore(config.concurrency)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def one(index: int) -> tuple[int, Fetched]:
            async with permits:
                return index, await fetch(session, urls[index], config)

        for finished in asyncio.as_completed([asyncio.ensure_future(one(i)) for i in range(len(urls))]):
            yield await finished


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
    except aiohttp.InvalidURL as error:
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
    message = f"HTTP Error {response.status}: {response.reason}"
    if response.status in (404, 410, 429):
        return Fetched(f"http_{response.status}", message=message)
    return Fetched("http_5xx" if response.status >= 500 else "http_4xx", message=message)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds in the Retry-After header; dates and nonsense are ignored, and the back-off decides."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() else None


def is_opted_out(headers: Sequence[str], directives: Sequence[str]) -> bool:
    """Whether any X-Robots-Tag header holds one of `directives`, for any agent.

    Values such as `unavailable_after: 25 Jun 2010 15:00:00 PST, noai` contain colons of their own, so each
    comma-separated piece is tried with and without what stands before its last colon. That errs towards refusing.
    """
    pieces = [piece.strip().lower() for header in headers for piece in header.split(",")]
    words = {word for piece in pieces for word in (piece, piece.rpartition(":")[2].strip())}
    return not words.isdisjoint(directives)


class PrivateAddressError(OSError):
    """A host name that leads into a private network."""


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
        allowed = [r for r in found if self._allow_private or ipaddress.ip_address(r["host"]).is_global]
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
        raise ConfigError(f"resolve: {target!r} is not ADDRESS:PORT, for example 127.0.0.1:8080") from error
