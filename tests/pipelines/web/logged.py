"""A server on loopback that writes down when each request came, and how many connections were open."""

from __future__ import annotations

import http.server
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Log:
    """What the server saw; times are of the monotonic clock, which all processes of a machine share."""

    port: int = 0
    answers: dict[str, list[Reply]] = field(default_factory=dict)
    delay: float = 0.0
    seen: list[tuple[float, str, str]] = field(default_factory=list)  # time, host, path
    open: Counter[str] = field(default_factory=Counter)  # connections that have asked for a host
    most_open: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)  # requests in flight
    most_busy: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    cookies: set[str | None] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def resolve(self) -> dict[str, str]:
        """The name override that leads here."""
        return {"*.test": f"127.0.0.1:{self.port}"}

    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [path for _, _, path in self.seen]

    def times(self, host: str, path: str = "") -> list[float]:
        """When `host` was asked, for paths that begin with `path`."""
        return [at for at, to, asked in self.seen if to == host and asked.startswith(path)]

    def busiest_second(self) -> dict[str, int]:
        """The most requests that a host got in any window of one second."""
        by_host: dict[str, list[float]] = defaultdict(list)
        for at, host, _ in self.seen:
            by_host[host].append(at)
        return {host: max(sum(a <= b < a + 1 for b in times) for a in times) for host, times in by_host.items()}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; without this the second waits for the client's acknowledgement.
    disable_nagle_algorithm = True
    host = ""

    def setup(self) -> None:
        super().setup()
        self.log.connections += 1

    def finish(self) -> None:
        super().finish()
        with self.log.lock:
            self.log.open[self.host] -= 1

    @property
    def log(self) -> Log:
        server: Any = self.server
        log: Log = server.log
        return log

    def do_GET(self) -> None:
        now, host, log = time.monotonic(), self.headers["Host"], self.log
        with log.lock:
            log.seen.append((now, host, self.path))
            log.cookies.add(self.headers.get("Cookie"))
            if not self.host:
                self.host = host
                log.open[host] += 1
            log.busy[host] += 1
            log.most_open[host] = max(log.most_open[host], log.open[host])
            log.most_busy[host] = max(log.most_busy[host], log.busy[host])
            status, headers, body = self._answer()
        time.sleep(log.delay)
        # Before the answer is sent: what the client sends next must not meet this request still counted.
        with log.lock:
            log.busy[host] -= 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> Reply:
        answers = self.log.answers.get(self.path)
        if not answers:
            return (404, {}, b"") if self.path == "/robots.txt" else (200, {}, b"picture")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the tests read the log."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def logged_server(answers: dict[str, list[Reply]] | None = None, delay: float = 0.0) -> Iterator[Log]:
    """The server: `answers` maps a path to its replies (the last one stays), all others are 200; no robots.txt."""
    server: Any = _Server(("127.0.0.1", 0), _Handler)
    server.log = Log(server.server_address[1], answers or {}, delay)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
