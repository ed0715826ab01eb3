"""The fetcher over real HTTP on loopback: reasons, redirects, retries, deadlines, and what is held meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psutil
import pytest

from pipelines.web.config import FetchConfig, HostLimit
from pipelines.web.fetch import Fetched, Fetcher
from pipelines.web.hosts import local_limits
from pipelines.web.request import backoff, retry_after
from tests.pipelines.web.fetching import fetched
from tests.pipelines.web.logged import Log, Reply, logged_server

FREE = HostLimit(concurrency=8, rate=None)


def settings(log: Log, **more: Any) -> FetchConfig:
    fast: dict[str, Any] = {"backoff": 0.01, "limit": FREE, "robots": False, **more}
    return FetchConfig(resolve=log.resolve, **fast)


def reasons(urls: Sequence[str], config: FetchConfig) -> list[str]:
    return [result.reason for result in fetched(urls, config)]


def urls_of(*paths: object, host: str = "a.test") -> list[str]:
    return [f"http://{host}/{path}" for path in paths]


def redirect(target: str) -> list[Reply]:
    return [(302, {"Location": target}, b"")]


ANSWERS: dict[str, list[Reply]] = {
    "/0": [(404, {}, b"")],
    "/1": [(410, {}, b"")],
    "/2": [(503, {}, b""), (200, {}, b"late")],
    "/3": [(500, {}, b"")],
    "/4": [(429, {"Retry-After": "0"}, b""), (200, {}, b"asked again")],
    "/5": [(429, {}, b"")],
    "/6": [(200, {"X-Robots-Tag": "noai"}, b"not ours")],
    "/7": redirect("/70"),
    "/8": redirect("/8"),
    "/9": [(403, {}, b"")],
    "/10": [(304, {}, b"")],
    "/11": [(203, {}, b"changed on its way")],
    "/12": redirect("ftp://a.test/1.png"),
    "/13": redirect("http://[::1"),
    "/14": redirect("/6"),
    "/15": [(302, {}, b"")],
    "/16": redirect("http://i.imgur.com/removed.png"),
}
REASONS = {
    0: "http_404", 1: "http_410", 2: "ok", 3: "http_5xx", 4: "ok", 5: "http_429", 6: "opt_out", 7: "ok",
    8: "redirects", 9: "http_4xx", 10: "http_4xx", 11: "ok", 12: "bad_url", 13: "redirects", 14: "opt_out",
    15: "redirects", 16: "placeholder",
}  # fmt: skip


def test_every_answer_has_its_reason() -> None:
    with logged_server({path: list(replies) for path, replies in ANSWERS.items()}) as log:
        results = fetched(urls_of(*REASONS), settings(log))
    assert {number: result.reason for number, result in zip(REASONS, results, strict=True)} == REASONS
    assert [number for number, result in enumerate(results) if result.redirected] == [7, 8, 12, 13, 14, 16]
    assert results[0].message == "HTTP Error 404: Not Found"
    assert (results[2].body, results[4].body, results[7].body) == (b"late", b"asked again", b"picture")
    assert {result.body for result in results if result.reason != "ok"} == {b""}
    counts = {number: log.paths().count(f"/{number}") for number in REASONS}
    assert counts == {number: {2: 2, 3: 3, 4: 2, 5: 3, 6: 2, 8: 6}.get(number, 1) for number in REASONS}


def test_urls_that_are_never_asked_for() -> None:
    with logged_server() as log:
        urls = ["ftp://a.test/1", "http://", "http://[::1", "no url", "http://u:p@a.test/", "http://127.0.0.1/", ""]
        assert reasons(urls, settings(log)) == ["bad_url"] * 5 + ["private_address", "bad_url"]
        assert reasons(["https://i.imgur.com/removed.png"], settings(log)) == ["placeholder"]
        assert log.seen == []


def test_a_host_that_does_not_exist_or_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    config = FetchConfig(resolve={"*.test": f"127.0.0.1:{port}"}, backoff=0.01)
    results = fetched([*urls_of(1), "http://nosuchhost.invalid/"], config)
    assert [result.reason for result in results] == ["connection", "dns"]
    assert results[0].message == "robots.txt: Connection error: ClientConnectorError"


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[Log]:
    """A server whose every connection is handed to `talk` in a thread of its own, after one request was read."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,)).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                talk(connection)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Log(listener.getsockname()[1])
    finally:
        # Wakes the thread that waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def drip(connection: socket.socket) -> None:
    """A byte now and then, for ever: never silent, never done."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.05)


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def cut(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"\x00\x01SSH-2.0 hello\r\n\r\n")


def huge_header(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (drip, "timeout"),
        (silent, "timeout"),
        (endless, "too_many_bytes"),
        (cut, "connection"),
        (garbage, "connection"),
        (huge_header, "connection"),
    ],
)
def test_servers_that_misbehave_end_in_time(talk: Callable[[socket.socket], None], reason: str) -> None:
    with raw_server(talk) as log:
        config = settings(log, deadline=0.6, stall=0.3, retries=1, max_bytes=10**6)
        began = time.monotonic()
        assert reasons(urls_of(1, 2), config) == [reason] * 2
        assert time.monotonic() - began < 0.6 * 10


def test_a_body_that_is_announced_too_long_is_not_read() -> None:
    with logged_server({"/1": [(200, {}, b"x" * 2000)], "/2": [(200, {}, b"x" * 1000)]}) as log:
        assert reasons(urls_of(1, 2), settings(log, max_bytes=1000)) == ["too_many_bytes", "ok"]


def test_the_deadline_counts_all_requests_of_a_url_and_no_waiting() -> None:
    """Each answer takes a third of the deadline: a chain of five cannot be followed, five URLs in a row can be."""
    chain = {f"/{n}": redirect(f"/{n + 1}") for n in range(5)}
    with logged_server(chain, delay=0.2) as log:
        one_by_one = HostLimit(concurrency=1, rate=None)
        config = settings(log, deadline=0.6, limit=one_by_one)
        assert reasons(urls_of(0), config) == ["timeout"]
        assert reasons(urls_of(*range(10, 15)), config) == ["ok"] * 5


def test_the_deadline_counts_the_retries_of_a_url() -> None:
    with logged_server({"/1": [(503, {}, b"")]}, delay=0.2) as log:
        assert reasons(urls_of(1), settings(log, deadline=0.7, retries=50, backoff=0.0))[0] in ("http_5xx", "timeout")
        assert 2 <= len(log.seen) <= 4


def test_retries_wait_longer_each_time_and_alike_in_every_run() -> None:
    with logged_server({"/1": [(503, {}, b"")]}) as log:
        config = settings(log, backoff=0.1)
        assert reasons(urls_of(1), config) == ["http_5xx"]
    waits = [backoff(urls_of(1)[0], attempt, config) for attempt in range(2)]
    times = [at for at, _, _ in log.seen]
    assert all(later - at >= wait for (at, later), wait in zip(pairwise(times), waits, strict=True))
    many = [backoff(url, 3, config) / 0.8 for url in urls_of(*range(200))]
    assert 0.5 <= min(many) < 0.6
    assert 1.4 < max(many) <= 1.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 01 Nov 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Nov-26 12:01:00 GMT", 60.0),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
        ("9" * 400, 999_999_999.0),
    ],
)
def test_retry_after_holds_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after(text, datetime(2026, 11, 1, 12, tzinfo=UTC)) == seconds


def test_cookies_do_not_travel_and_connections_do() -> None:
    """One connection serves all of a host's URLs in a call; none stays open after it."""
    seen: list[str | None] = []
    with logged_server({"/1": [(200, {"Set-Cookie": "a=b"}, b"picture")]}) as log:
        config = settings(log, limit=HostLimit(concurrency=1, rate=None))

        async def take(index: int, result: Fetched) -> None:
            seen.append(result.reason)

        async def run() -> None:
            fetcher = Fetcher(config, local_limits(config))
            await fetcher.fetch_all(urls_of(*range(1, 21)), take)
            assert log.connections == 1
            await fetcher.fetch_all(urls_of(*range(1, 21)), take)
            await fetcher.close()

        asyncio.run(run())
    assert seen == ["ok"] * 40
    assert log.connections == 2
    assert log.cookies == {None}


def test_a_slot_has_one_connection_however_many_ports_its_host_has() -> None:
    """As after a redirect from http to https of the same host, and with a dot at the end of its name."""
    most: list[int] = []

    async def take(index: int, result: Fetched) -> None:
        assert result.reason == "ok"
        open_now = [
            to for to in psutil.Process().net_connections("tcp") if to.raddr and to.raddr.port == log.port
        ]  # fmt: skip
        most.append(sum(to.status == psutil.CONN_ESTABLISHED for to in open_now))

    async def run(config: FetchConfig) -> None:
        fetcher = Fetcher(config, local_limits(config))
        hosts = ("a.test", "a.test:81", "a.test.", "a.test:82")
        await fetcher.fetch_all([f"http://{hosts[n % 4]}/{n}" for n in range(12)], take)
        await fetcher.close()

    with logged_server() as log:
        asyncio.run(run(settings(log, limit=HostLimit(concurrency=1, rate=None))))
    assert max(most) == 1
    assert len(most) == 12


def test_a_pause_in_taking_does_not_stop_the_network_until_too_much_is_held() -> None:
    """With room for three bodies and a taker that never comes, four are fetched; then all, when it comes."""
    body = b"x" * 1000
    gate = asyncio.Event()
    taken: list[int] = []

    async def take(index: int, result: Fetched) -> None:
        await gate.wait()
        taken.append(index)

    async def run(config: FetchConfig, log: Log) -> None:
        fetcher = Fetcher(config, local_limits(config))
        fetching = asyncio.create_task(fetcher.fetch_all(urls_of(*range(20)), take))
        while len(log.seen) < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(log.seen) == 4
        gate.set()
        await fetching
        await fetcher.close()

    with logged_server({f"/{n}": [(200, {}, body)] for n in range(20)}) as log:
        asyncio.run(run(settings(log, held_bytes=3500, concurrency=1), log))
    assert sorted(taken) == list(range(20))


def test_what_the_taker_raises_ends_the_call_and_the_fetcher_lives_on() -> None:
    async def broken(index: int, result: Fetched) -> None:
        raise RuntimeError("disk full")

    async def fine(index: int, result: Fetched) -> None:
        pass

    async def run(config: FetchConfig) -> None:
        fetcher = Fetcher(config, local_limits(config))
        with pytest.raises(RuntimeError, match="disk full"):
            await fetcher.fetch_all(urls_of(*range(50)), broken)
        await fetcher.fetch_all(urls_of(*range(50)), fine)
        await fetcher.close()

    with logged_server() as log:
        asyncio.run(run(settings(log)))


def test_a_proxy_is_asked_for_every_url() -> None:
    """The proxy is on loopback; names in URLs are its to look up."""
    with logged_server({"http://pictures.example/1": [(200, {}, b"through the proxy")]}) as log:
        config = FetchConfig(proxy=f"http://127.0.0.1:{log.port}", robots=False)
        assert fetched(["http://pictures.example/1"], config)[0].body == b"through the proxy"


def test_many_hosts_and_refusals_do_not_slow_each_other() -> None:
    """2,000 URLs of 500 hosts, three quarters of them refused before any request: far from a poll for each."""
    with logged_server() as log:
        urls = [f"http://h{n % 500}.test/{n}" if n % 4 == 0 else f"ftp://h{n}.test/" for n in range(2000)]
        found = reasons(urls, settings(log, robots=True))
    assert found.count("ok") == 500
    assert found.count("bad_url") == 1500
    assert len(log.seen) == 500 + 125


def test_nothing_to_fetch() -> None:
    assert fetched([], FetchConfig()) == []
