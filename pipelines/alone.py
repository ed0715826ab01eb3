"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from filters.errors import InputError


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of the folder while the block runs; InputError, saying `what` runs, if one is in it.

    The lock ends with its process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{what}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: a {what} is running here; wait for it, or choose another --root") from None
        yield
