"""A real S3 server on loopback, in a process of its own, with a bucket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

BUCKET = "bucket"
_STARTED = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class Server:
    """The running server; `requests` counts what it was asked for."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    def requests(self, method: str, ending: str) -> int:
        """Requests so far by method, for objects whose names match the regular expression `ending` at their end."""
        pattern = re.compile(rf"{method} /{BUCKET}/\S*/{ending}(\?\S*)? HTTP")
        return len(pattern.findall(self._log.read_text()))


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Start it, and let this process and those that it starts find it, with a cache in `folder`."""
    log = folder / "server.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
    try:
        url = _address(process, log)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1", "HEADWATER_CACHE": str(folder / "cache"),
                "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            }.items():  # fmt: skip
                patch.setenv(name, value)
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
            forget_servers()
            yield Server(url, log)
    finally:
        process.terminate()
        process.wait()


def forget_servers() -> None:
    """Let the next root in a bucket look for its server and credentials anew."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := _STARTED.search(log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server has ended: {log.read_text()}")
