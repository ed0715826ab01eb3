"""Files that are made once from a manifest and then memory-mapped by every process that trains on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filters.errors import HeadwaterError

_VERSION = 1  # of what the files hold; those of another version are not looked at


def scratch_folder(parent: Path | None, digest: str) -> Path:
    """The folder for what is made from the manifest with this digest, below `parent`.

    None is a folder of this user in the system's temporary folder. HeadwaterError where it cannot be made, or belongs
    to somebody else.
    """
    try:
        if parent is None:
            parent = Path(tempfile.gettempdir()) / f"headwater-{os.getuid()}"
            parent.mkdir(mode=0o700, exist_ok=True)
            if parent.stat().st_uid != os.getuid():
                raise HeadwaterError(f"{parent} belongs to another user; name another folder for the loader's files")
        folder = parent / f"{digest[:32]}-v{_VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(parent, error) from error
    return folder


def made(path: Path, build: Callable[[Path], None], is_whole: Callable[[Path], bool]) -> Path:
    """`path`, a file or folder that `build` makes under another name if it is not there, or not whole.

    Several processes may ask at once: one makes it, the others wait. HeadwaterError where it cannot be written.
    """
    if is_whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as alone:
            if is_whole(path):
                return path
            for left in path.parent.glob("*.tmp") if alone else ():
                _remove(left)  # of processes that were killed
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
            try:
                build(temporary)
                _sync(temporary)
                _publish(temporary, path, is_whole)
            finally:
                _remove(temporary)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    return path


def allocate(path: Path, size: int) -> None:
    """A file of `size` bytes: to write to a mapping on a disk that is full would end the process."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)


def _sync(path: Path) -> None:
    """Bring a file, or a folder's files, to the disk: a name that outlives a power cut must not stand for zeros."""
    for file in path.iterdir() if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(temporary: Path, path: Path, is_whole: Callable[[Path], bool]) -> None:
    if path.is_dir():
        # What is there is broken; a folder that is not empty cannot be replaced in one step.
        broken = path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp"))
        _remove(broken)
    try:
        temporary.replace(path)
    except OSError:
        if not is_whole(path):  # or else another process was faster, where there are no locks
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False on the few file systems without locks, where work may be done twice."""
    with (folder / ".lock").open("w") as file:
        alone = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            alone = False
        yield alone


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(folder: Path | None, error: OSError) -> HeadwaterError:
    why = error.strerror or error
    return HeadwaterError(f"{folder}: the loader's files cannot be written there ({why}); make room or name another")
