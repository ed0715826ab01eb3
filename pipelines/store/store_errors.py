"""What goes wrong with a store, as one line for its user."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from filters.errors import HeadwaterError, InputError
from pipelines.store.root import Root


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """One line where the store of the root `url` cannot be asked while the block runs.

    InputError where there is no bucket, or no credentials, or these are refused; HeadwaterError where the server does
    not answer, which may pass.
    """
    try:
        yield
    except store_errors() as error:
        refused = isinstance(error, (PermissionError, FileNotFoundError)) and not Root(url).is_local
        # One that names a file is of this machine.
        if isinstance(error, OSError) and (not refused or error.filename is not None):
            raise
        text = " ".join(str(error).split())
        kind = HeadwaterError if isinstance(error, _silences()) else InputError
        raise kind(
            f"root {url}: the store cannot be asked ({text}); check its address and the credentials"
        ) from error


def store_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """OSError, what a store's library raises besides (botocore's of credentials and connections), and `others`."""
    return (OSError, *others, *_of_botocore("BotoCoreError"))


def _silences() -> tuple[type[Exception], ...]:
    return _of_botocore("ConnectionError", "HTTPClientError")


def _of_botocore(*names: str) -> tuple[type[Exception], ...]:
    """Classes of a library that is not imported unless a root is in its store."""
    module: Any = sys.modules.get("botocore.exceptions")
    return tuple(getattr(module, name) for name in names) if module else ()
