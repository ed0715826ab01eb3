"""What goes wrong with a store, as one line for its user."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from filters.errors import InputError
from pipelines.store.root import Root


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """InputError, in one line, where the store of the root `url` cannot be asked while the block runs: there is no
    server, bucket or credentials, or these are refused."""
    try:
        yield
    except store_errors() as error:
        refused = isinstance(error, (PermissionError, FileNotFoundError)) and not Root(url).is_local
        # One that names a file is of this machine.
        if isinstance(error, OSError) and (not refused or error.filename is not None):
            raise
        text = " ".join(str(error).split())
        raise InputError(
            f"root {url}: the store cannot be asked ({text}); check its address and the credentials"
        ) from error


def store_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """OSError, what a store's library raises besides (botocore's of credentials and connections), and `others`."""
    botocore: Any = sys.modules.get("botocore.exceptions")
    return (OSError, *others, *((botocore.BotoCoreError,) if botocore else ()))
