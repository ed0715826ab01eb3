"""Local files that get their names once they are whole; what killed writers left is taken away, and nothing else.

Until then a file is hidden, and named after who writes it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_FORGOTTEN = 3600.0  # seconds without a byte, after which another machine's writer counts as dead


@cache
def host() -> str:
    """This machine since it was started: its name and, where the system tells, the number of the start."""
    return f"{platform.node()}/{_BOOT.read_text().strip() if _BOOT.exists() else ''}"


@contextlib.contextmanager
def published(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Where to write the local file `path`, or make the link, that gets its name at the end, in one step.

    Until then it lies beside its place, or in `folder`, on the same disk. Neither has to be there.
    """
    folder = folder or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}" if folder == path.parent else path.name
    if path.parent not in (folder, folder.parent):
        name = _short(os.path.relpath(path, folder))  # far from its place several files may have the same name
    temporary = folder / f"{name}.{_short(host())}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        yield temporary
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        for left in folder.glob(f"{glob.escape(name)}.*"):
            if not _is_written(left, left.name.removeprefix(f"{name}.").split(".")):
                left.unlink(missing_ok=True)


def _is_written(path: Path, words: list[str]) -> bool:
    """Whether the writer lives that a temporary file's name tells of by `words`: machine, process, number."""
    if len(words) == 2 or len(words) > 3:
        return True  # of a file whose name goes on
    if len(words) == 1 or not words[1].isdecimal():
        return False
    if words[0] != _short(host()):
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


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
