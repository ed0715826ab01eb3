"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from filters.errors import InputError


@contextlib.contextmanager
def alone(folder: Path, what: str, where: str | None = None) -> Iterator[str]:
    """Keep other processes out of the folder while the block runs; InputError, saying that `what` runs `where` (in
    the folder if not given), if one is in it.

    Yields what tells the lock from all others of this machine. It ends with its process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{what}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{where or folder}: a {what} is running here; wait for it, or choose another --root"
            ) from None
        file = os.fstat(lock.fileno())
        yield f"{file.st_dev}:{file.st_ino}"
