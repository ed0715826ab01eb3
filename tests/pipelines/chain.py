"""What the tests of the jobs share: a small dump, a picture server on loopback, a downloaded root."""

from __future__ import annotations

import http.server
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image


def picture(number: int, side: int = 48) -> bytes:
    """A PNG of random blocks, different for each number."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def cc12m_dump(folder: Path, rows: int, host: str = "pictures.test") -> Path:
    """A headerless CC12M TSV of `rows` records; the folder it is in."""
    dump = folder / "cc12m"
    dump.mkdir(parents=True, exist_ok=True)
    lines = [f"http://{host}/{i}.png\ta picture of number {i}\n" for i in range(rows)]
    (dump / "cc12m.tsv").write_text("".join(lines), encoding="utf-8")
    return dump


class _Pictures(http.server.BaseHTTPRequestHandler):
    """`/N.png` gives picture N; the server's `faults` maps a path to (status, headers, body) instead.

    Whole addresses, as a proxy is asked for, are answered by their path.
    """

    def do_GET(self) -> None:
        server: Any = self.server
        path = urlsplit(self.path).path
        server.seen.append(path)
        server.cookies.append(self.headers.get("Cookie"))
        time.sleep(server.delay)
        faults = server.faults.get(path)
        if faults:
            status, headers, body = faults.pop(0) if len(faults) > 1 else faults[0]
        elif path == "/robots.txt":
            status, headers, body = 404, {}, b""
        else:
            status, headers, body = 200, {"Content-Type": "image/png"}, picture(int(path[1:].split(".")[0]))
        self.send_response(status, server.phrase if status == 404 else None)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the tests read `seen`."""


@contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[None]:
    """Let a server answer in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def picture_server(faults: dict[str, list[tuple[int, dict[str, str], bytes]]] | None = None) -> Iterator[Any]:
    """A real HTTP server on loopback; `.seen` lists the paths it was asked for, `.resolve` is the name override."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    server.seen, server.cookies, server.faults = [], [], faults or {}
    server.delay, server.phrase = 0.0, None
    server.resolve = {"*.test": f"127.0.0.1:{server.server_address[1]}"}
    with serving(server):
        yield server
