"""One HTTP request and what came of it: no retries, no redirects, no waiting for a turn."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from pipelines.web import robots
from pipelines.web.addresses import GuardedResolver, PrivateAddressError
from pipelines.web.config import FetchConfig
from pipelines.web.refusals import refusal

# Bytes that may arrive before reading is paused; most pictures fit, and pausing costs two system calls.
READ_AHEAD = 2**20
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Reply:
    """The answer to one request; `location` is where a redirect leads, `wait` the seconds of Retry-After."""

    reason: str
    body: bytes = b""
    message: str | None = None
    location: str | None = None
    wait: float | None = None


class Connection:
    """What a slot of a host is: one request at a time, and one connection, which is kept for the same origin.

    A session of its own is cheap (some 10 µs), and closing it closes its connection, so that none is left open to a
    host that another worker is to ask. All share the resolver's memory and aiohttp's TLS context.
    """

    def __init__(self, config: FetchConfig, resolver: GuardedResolver) -> None:
        self._config, self._resolver = config, resolver
        self._session: aiohttp.ClientSession | None = None
        self._origin: URL | None = None

    async def session_for(self, url: URL) -> aiohttp.ClientSession:
        """A session whose only connection, if it has one, leads to the origin of `url`."""
        if self._session is None or url.origin() != self._origin:
            await self.close()
            self._session, self._origin = _open_session(self._config, self._resolver), url.origin()
        return self._session

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._session is not None:
            await self._session.close()


def _open_session(config: FetchConfig, resolver: GuardedResolver) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    # Pictures are compressed already, and a small compressed body can unpack to a large one.
    headers = {"User-Agent": config.agent(), "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        # What one URL sets must not change the answer to another.
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=READ_AHEAD,
    )


async def request(connection: Connection, url: URL, config: FetchConfig, *, seconds: float, is_rules: bool) -> Reply:
    """Ask for `url`, for at most `seconds`; never raises for what a server or the network does.

    A request for a robots.txt (`is_rules`) is read as far as its rules count, whatever its headers say about use as
    a picture.
    """
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=config.stall, sock_read=config.stall)
    session = await connection.session_for(url)
    try:
        async with session.get(url, allow_redirects=False, timeout=timeout, proxy=config.proxy) as response:
            return await _read(response, config, is_rules)
    except TimeoutError:
        return Reply("timeout")
    except PrivateAddressError:
        return Reply("private_address")
    except aiohttp.ClientConnectorDNSError as error:
        return Reply("private_address" if isinstance(error.os_error, PrivateAddressError) else "dns")
    except (aiohttp.InvalidURL, UnicodeError) as error:
        return Reply("bad_url", message=f"unusable URL: {error}")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Reply("connection", message=f"Connection error: {type(error).__name__}")


async def _read(response: aiohttp.ClientResponse, config: FetchConfig, is_rules: bool) -> Reply:
    status = response.status
    if not 200 <= status < 300 and status not in REDIRECTS:
        return _failed(response)
    refused = None if is_rules else refusal(response.headers, config)
    if refused:
        return Reply(refused[0], message=refused[1])
    if status in REDIRECTS:
        location = response.headers.get("Location")
        return Reply("redirects", message="Redirect to nowhere", location=location)
    if is_rules:
        return await _body(response, robots.MAX_BYTES)
    if (response.content_length or 0) > config.max_bytes:
        return Reply("too_many_bytes")
    return await _body(response, config.max_bytes)


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> Reply:
    """The body, or as much of it as was read when it turned out to be too long."""
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        size += len(part)
        parts.append(part)
        if size > max_bytes:
            return Reply("too_many_bytes", b"".join(parts)[:max_bytes])
    return Reply("ok", parts[0] if len(parts) == 1 else b"".join(parts))


def _failed(response: aiohttp.ClientResponse) -> Reply:
    # The phrase is the server's to choose; bytes that are not text would not go into a table.
    phrase = (response.reason or "").encode("utf-8", "replace").decode()
    status = response.status
    kind = str(status) if status in (404, 410, 429) else "5xx" if status >= 500 else "4xx"
    wait = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
    return Reply(f"http_{kind}", message=f"HTTP Error {status}: {phrase}", wait=wait)


def backoff(url: str, attempt: int, config: FetchConfig) -> float:
    """Seconds to wait before another try after the one of number `attempt`, from 0: doubled each time, half to one
    and a half times that, by `url`, so that what failed together does not come back together."""
    return config.backoff * 2.0**attempt * random.Random(f"{url} {attempt}").uniform(0.5, 1.5)


def retry_after(text: str, now: datetime) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or an HTTP date; None for neither."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
