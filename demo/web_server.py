"""The server side of the demo web: what each planted record answers over HTTP.

All fictitious hosts are served by one listener; the Host header and the path name the record. Answers depend on the
record alone, except that failures before success are counted a URL: the server fails the first `times` requests it
ever gets for it, so a client that starts again meets fewer failures, never more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TextIO
from urllib.parse import unquote, urlsplit

from aiohttp import web

from demo.pictures import html_page, render, truncate
from demo.web_record import Record

CONTROL_HOST = "control.test"  # answers what the server is, to whoever started it
SLOW_SECONDS, SLOW_PIECES = 1.5, 10
ENDLESS_PAUSE = 0.25
RETRY_AFTER = "1"

_UNSERVED = ("dns", "bad_url", "bad_row", "duplicate_row")


@dataclass(frozen=True, slots=True)
class Route:
    """A record, and how many of its redirects lead to this address."""

    record: Record
    hop: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `manner` is how its body is sent: whole, slow, endless, or only the first `share` of it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: str = "whole"
    share: float = 1.0


@dataclass(slots=True)
class Site:
    """Everything a request may touch: routes, where to render, the log, who we are, failures so far by URL, and when
    the last request came."""

    routes: dict[tuple[str, str], Route]
    executor: Executor
    log: TextIO
    identity: dict[str, int]
    failed: Counter[str] = field(default_factory=Counter)
    asked_at: float = field(default_factory=time.monotonic)


def make_routes(records: Iterable[Record]) -> dict[tuple[str, str], Route]:
    """(host, decoded path and query) → route, for every address that the records can lead to."""
    routes = {}
    for record in (r for r in records if r.plant not in _UNSERVED):
        routes[_key(record.url)] = Route(record)
        hops = record.times if record.plant == "redirect" else int(record.param == "pair")
        for hop in range(1, hops + 1):
            routes[_key(hop_url(record, hop))] = Route(record, hop)
    return routes


def hop_url(record: Record, hop: int) -> str:
    """The address to which the record's redirect number `hop` (from 1) leads; hop 0 is its own."""
    if hop == 0:
        return record.url
    parts = urlsplit(record.url)
    host = parts.hostname if hop % 2 == 0 else f"cdn.{record.source}-mirror.test"
    query = f"?{parts.query}" if parts.query else ""
    return f"http://{host}/moved/{hop}{parts.path}{query}"


def make_app(site: Site) -> web.Application:
    """The aiohttp application; any other method than GET is refused."""

    async def handle(request: web.Request) -> web.StreamResponse:
        site.asked_at = time.monotonic()
        host = request.host.partition(":")[0].lower()
        if host == CONTROL_HOST:
            return web.json_response(site.identity)
        route = site.routes.get((host, unquote(request.raw_path)))
        if request.method != "GET":
            answer = Answer(405, headers={"Allow": "GET"})
        elif route is None:
            answer = Answer(404, b"not found\n", {"Content-Type": "text/plain"})
        else:
            answer = await decide(site, route, host)
        # Written before the body, so that bodies that never end are in the log too.
        site.log.write(f"{time.time():.3f}\t{host}\t{request.raw_path}\t{answer.status}\n")
        site.log.flush()
        return await _send(request, answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


async def decide(site: Site, route: Route, host: str) -> Answer:
    """What the server answers to one request for a record's address."""
    record, plant = route.record, route.record.plant
    if plant in ("http_404", "http_410"):
        return Answer(int(plant[-3:]), html_page(host), {"Content-Type": "text/html"})
    if _still_fails(site, record):
        is_busy = plant.startswith("http_429")
        status = 429 if is_busy else int(record.param)
        headers = {"Content-Type": "text/html"} | ({"Retry-After": RETRY_AFTER} if is_busy else {})
        return Answer(status, html_page(host), headers)
    if plant == "redirect_loop":
        following = 1 - route.hop if record.param == "pair" else 0
        return Answer(302, headers={"Location": hop_url(record, following)})
    if plant == "redirect" and route.hop < record.times:
        return Answer(int(record.param), headers={"Location": hop_url(record, route.hop + 1)})
    if plant == "html":
        return Answer(200, html_page(host), {"Content-Type": record.param})
    data, content_type = await asyncio.get_running_loop().run_in_executor(site.executor, render, record)
    return _picture(record, data, content_type)


def _still_fails(site: Site, record: Record) -> bool:
    """Whether this request is one that fails; counts it, if failures of the URL end at some time."""
    if record.plant in ("http_429", "http_5xx"):
        return True
    if record.plant not in ("http_429_then_ok", "http_5xx_then_ok") or site.failed[record.url] >= record.times:
        return False
    site.failed[record.url] += 1
    return True


def _picture(record: Record, data: bytes, content_type: str) -> Answer:
    headers = {"Content-Type": content_type}
    if record.plant == "truncated":
        return Answer(200, truncate(data, float(record.param)), headers)
    if record.plant == "short_body":
        return Answer(200, data, headers, "short", float(record.param))
    if record.plant == "slow_body":
        return Answer(200, data, headers, "slow")
    if record.plant == "endless_body":
        return Answer(200, data, headers, "endless")
    if record.plant == "opt_out":
        headers["X-Robots-Tag"] = record.param
    elif record.plant == "odd_content_type":
        headers["Content-Type"] = record.param
    return Answer(200, data, headers)


async def _send(request: web.Request, answer: Answer) -> web.StreamResponse:
    if answer.manner == "whole":
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if answer.manner != "endless":
        response.content_length = len(answer.body)
    try:
        await response.prepare(request)
        if answer.manner == "short":
            await response.write(answer.body[: int(len(answer.body) * answer.share)])
            if request.transport is not None:
                request.transport.close()
        elif answer.manner == "slow":
            await _drip(response, answer.body)
        else:
            await response.write(answer.body)
            while True:
                await asyncio.sleep(ENDLESS_PAUSE)
                await response.write(bytes(64))
    except ConnectionResetError:
        pass  # the client has had enough, which is what these bodies are for
    return response


async def _drip(response: web.StreamResponse, body: bytes) -> None:
    step = -(-len(body) // SLOW_PIECES)
    for start in range(0, len(body), step):
        await asyncio.sleep(SLOW_SECONDS / SLOW_PIECES)
        await response.write(body[start : start + step])


def _key(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return (parts.hostname or "", unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path))
