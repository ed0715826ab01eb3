"""Faults that strike a command which runs: each says whether it found something to strike."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ON_RAY = ("worker", "raylet", "node")
HERE = ("driver", "disk", "store", "two", "clock")
STALL = 1.0  # seconds
DELAY = 0.05  # seconds until the picture server answers


class Struck(NamedTuple):
    """What a fault has to do with: the command, the mark of its processes, its root, the picture server."""

    process: subprocess.Popen[bytes]
    mark: str
    root: Path
    server: Any
    clock: Path

    @property
    def runs(self) -> bool:
        """Whether the command has not ended yet."""
        return self.process.poll() is None


def family(mark: str) -> list[psutil.Process]:
    """The living processes that were started with a trial's mark in their environment, and no others."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HEADWATER_CHAOS") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def is_called(process: psutil.Process, word: str) -> bool:
    """Whether a process's name or program has `word` in it."""
    with contextlib.suppress(psutil.Error):
        return any(word in text for text in (process.name(), *process.cmdline()[:1]))
    return False


def end(mark: str) -> None:
    """Kill what is left of a trial."""
    for _ in range(20):
        left = family(mark)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


class Failing(dict[str, list[tuple[int, dict[str, str], bytes]]]):
    """The faults of a picture server that has none of its pictures just now."""

    def get(self, path: str, _default: object = None) -> Any:
        """An error for every picture."""
        return None if path == "/robots.txt" else [(503, {}, b"")]


def kill_driver(struck: Struck) -> bool:
    """The command itself; what it started is left to itself."""
    struck.process.kill()
    return struck.process.wait() == -signal.SIGKILL  # it may have ended by itself


def _kill_one(word: str, struck: Struck) -> bool:
    for process in family(struck.mark):
        with contextlib.suppress(psutil.Error):
            if is_called(process, word) and struck.runs:
                process.kill()
                return True
    return False


def kill_node(struck: Struck) -> bool:
    """Every process of the command and of its Ray: stopped first, so that none sees another die."""
    if not struck.runs or not any(is_called(process, "raylet") for process in family(struck.mark)):
        return False
    for process in family(struck.mark):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    # By its own handle: psutil would take its exit code for itself.
    killed = kill_driver(struck)
    end(struck.mark)
    return killed


def fail_store(struck: Struck) -> bool:
    """The command stalls, then its root takes no bytes for as long; the picture server stalls and then errors."""
    server = struck.server
    if not struck.runs:
        return False
    if "download" in struck.process.args:  # type: ignore[operator]
        seen = len(server.seen)
        # Shorter than a request may be silent: what is given up as timed out is a result, for `download --retry`.
        server.delay = 2.0
        time.sleep(STALL)
        server.delay, server.faults = DELAY, Failing()
        time.sleep(STALL)
        server.faults = {}
        return len(server.seen) > seen
    stopped = family(struck.mark)
    for signalled in (signal.SIGSTOP, signal.SIGCONT):
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signalled)
        time.sleep(STALL if signalled == signal.SIGSTOP else 0)
    with _read_only(struck.root) as done:
        time.sleep(STALL)
        return (done and struck.runs) or struck.process.poll() not in (0, None)


@contextlib.contextmanager
def _read_only(root: Path) -> Iterator[bool]:
    """A mounted root is read-only, or full where a file is open for writing; another loses its rights."""
    if not root.is_mount():
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield os.geteuid() != 0  # the superuser writes all the same
        for folder in folders:
            folder.chmod(0o755)
        return
    there = os.statvfs(root)
    full = f"remount,size={max(1, there.f_blocks - there.f_bfree) * there.f_frsize}"
    yield _run("mount", "-o", "remount,ro", str(root)) or _run("mount", "-o", full, str(root))
    _run("mount", "-o", "remount,rw", str(root))
    limit_disk(root, 0)


def change_clock(struck: Struck) -> bool:
    """From now on the command's clock is three days slow, or forty days fast; its monotonic clock goes on."""
    if not struck.runs:
        return False
    struck.clock.write_text("-3d" if struck.process.pid % 2 else "+40d")
    return True


def _run(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@functools.cache
def can_mount() -> bool:
    """Whether a small file system can be mounted here; if not, a limit on the size of a file stands in for a full
    disk."""
    with tempfile.TemporaryDirectory() as folder:
        done = _run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        return done and _run("umount", folder)


@contextlib.contextmanager
def disk(folder: Path, mounted: bool) -> Iterator[Path]:
    """An empty folder for a root, on a file system of its own if asked for and permitted."""
    folder.mkdir(parents=True)
    mounted = mounted and _run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    yield folder
    if mounted:
        _run("umount", "-l", str(folder))


def limit_disk(folder: Path, size: int) -> None:
    """Let a mounted root hold `size` bytes; 0 for as many as ever."""
    _run("mount", "-o", f"remount,size={size or 1 << 30}", str(folder))


STRIKES: dict[str, Callable[[Struck], bool]] = {
    "driver": kill_driver,
    "worker": functools.partial(_kill_one, "_RayWorker"),
    "raylet": functools.partial(_kill_one, "raylet"),
    "node": kill_node,
    "store": fail_store,
    "clock": change_clock,
}
