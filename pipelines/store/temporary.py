"""Local files that are being written: hidden, named after who writes them, and taken away once nobody does."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipelines.store.fingerprint import fingerprint

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FORGOTTEN = 3600.0  # seconds without a byte, after which another machine's writer counts as dead


@cache
def host() -> str:
    """This machine since it was started: its name and, where the system tells, the number of the start."""
    return f"{platform.node()}/{_BOOT.read_text().strip() if _BOOT.exists() else ''}"


@contextlib.contextmanager
def published(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Where to write the local file `path`, or make the link, that gets its name at the end, in one step.

    Until then it lies in `folder`, which by default is a hidden one beside it.
    """
    # In a folder of their own, which stays small: to look for what is left beside 100,000 shards takes longer than to
    # write one.
    folder = folder or path.parent / ".writing"
    folder.mkdir(parents=True, exist_ok=True)
    # Far from its place several files may have the same name.
    name = path.name if folder.parent == path.parent else fingerprint(os.path.relpath(path, folder))
    temporary = folder / f"{name}.{fingerprint(host())}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        yield temporary
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        # Those of earlier writers too: a killed process leaves its own behind.
        for left in folder.glob(f"{glob.escape(name)}.*"):
            if not _is_written(left, left.name.removeprefix(f"{name}.").split(".")):
                left.unlink(missing_ok=True)


def _is_written(path: Path, words: list[str]) -> bool:
    """Whether the writer lives that a temporary file's name tells of by `words`: machine, process, number."""
    if len(words) == 2 or len(words) > 3:
        return True  # of a file whose name goes on
    if len(words) == 1 or not words[1].isdecimal():
        return False
    if words[0] != fingerprint(host()):
        with contextlib.suppress(FileNotFoundError):
            return time.time() - path.lstat().st_mtime < _FORGOTTEN
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another account's
    return True
