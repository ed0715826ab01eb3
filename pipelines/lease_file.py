"""The file that a lease is: what may be put in place of what, in a local folder and in a store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.store.root import Root


@dataclass(frozen=True, slots=True)
class Seen:
    """What the file held when it was looked at (empty if no JSON), and what tells that from what came later."""

    content: Mapping[str, Any]
    version: str


class LeaseFile(Protocol):
    """One file under a root, as its holders and watchers need it."""

    address: str
    is_exclusive: bool  # of several that put where nothing is, one alone succeeds

    def read(self) -> Seen | None:
        """What is there now; None where there is no file."""

    def put(self, data: bytes, before: Seen | None) -> None:
        """Put `data` there, whole, if what is there is still what was seen `before`, or if nothing is where that is
        None. Whether that was so, `read` tells."""

    def remove(self) -> None:
        """Take the file away."""


class LocalFile:
    """In a local folder, which machines may share: links and renames take effect at once for all."""

    def __init__(self, path: Path, holder: str) -> None:
        self.address, self.is_exclusive, self._path, self._holder = str(path), True, path, holder

    def read(self) -> Seen | None:
        """See `LeaseFile`."""
        try:
            return _seen(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def put(self, data: bytes, before: Seen | None) -> None:
        """See `LeaseFile`; the `holder` puts its own file back where another has just taken it away."""
        own = self._path.with_name(f".{self._path.name}.{self._holder}")
        try:
            own.write_bytes(data)
            if before is not None and before.content.get("id") == self._holder:
                if self.read() in (before, None):
                    own.replace(self._path)
                return
            if before is not None:
                self.take_away(before)
            with contextlib.suppress(FileExistsError):
                self._path.hardlink_to(own)
        finally:
            own.unlink(missing_ok=True)

    def take_away(self, before: Seen) -> None:
        """Take away what was seen; what came between is put back."""
        aside = self._path.with_name(f".{self._path.name}.{self._holder}.old")
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(aside)
            if _seen(aside.read_bytes()) != before:
                with contextlib.suppress(FileExistsError):
                    self._path.hardlink_to(aside)
            aside.unlink()

    def remove(self) -> None:
        """See `LeaseFile`."""
        self._path.unlink(missing_ok=True)


class StoredFile:
    """In a store: S3 takes a PUT only if the version there is the one that was seen (its ETag), or if none is.

    Other stores know no such condition through fsspec. There a look before each PUT has to do: of two that put at the
    same time the later one stays, and the other finds that at its next look.
    """

    def __init__(self, root: Root, name: str) -> None:
        self.address, self.is_exclusive, self._root, self._name = root.address(name), root.is_s3, root, name

    def read(self) -> Seen | None:
        """See `LeaseFile`."""
        try:
            # First: a version that is older than the content is refused later, a newer one would be taken for it.
            version = self._root.version(self._name)
            return Seen(_seen(self._root.read_bytes(self._name)).content, version)
        except FileNotFoundError:
            return None

    def put(self, data: bytes, before: Seen | None) -> None:
        """See `LeaseFile`."""
        there = self.read()
        version = before.version if before else None
        if (there.version if there else None) == version:
            self._root.replace(data, version, self._name)

    def remove(self) -> None:
        """See `LeaseFile`."""
        self._root.remove(self._name)


def lease_file(root: Root, name: str, holder: str) -> LeaseFile:
    """The file `name` under a root, for the lease of a `holder`."""
    return LocalFile(root.local(name), holder) if root.is_local else StoredFile(root, name)


def _seen(data: bytes) -> Seen:
    text = data.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    return Seen(found if isinstance(found, dict) else {}, text)
