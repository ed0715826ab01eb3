"""Encoded pictures of a set that need not be in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from filters.errors import InputError


class FileImages(Sequence[bytes]):
    """The bytes of picture files, read when they are asked for; `change`, if given, is made of each.

    InputError for a file that cannot be read.
    """

    def __init__(self, paths: Sequence[Path], change: Callable[[bytes], bytes] | None = None) -> None:
        self.paths = list(paths)
        self.change = change

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._read(path) for path in self.paths[index]]
        return self._read(self.paths[index])

    def take(self, positions: Sequence[int]) -> FileImages:
        """Some of the pictures, in this order."""
        return FileImages([self.paths[i] for i in positions], self.change)

    def _read(self, path: Path) -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        return data if self.change is None else self.change(data)


def take(images: Sequence[bytes], positions: Sequence[int]) -> Sequence[bytes]:
    """Some of a set's pictures, in this order; files stay unread."""
    return images.take(positions) if isinstance(images, FileImages) else [images[i] for i in positions]
