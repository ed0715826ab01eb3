"""Bytes of many pictures at once, from local shards or from any fsspec URL."""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from filters.errors import ConfigError, ShardError
from trainer.rows import Places

_OPEN_SHARDS = 128  # of one reader at a time; a process may often open no more than 1,024 files
_GAP = 1 << 20  # bytes between two pictures that are read rather than asked around: some 10 ms of a store's time
_RANGE = 8 << 20  # bytes of the longest range that is asked for, unless one picture is longer
_PARALLEL = 16  # ranges that are asked for at a time
_WAITS = (0.5, 2.0, 8.0)  # seconds before a range that failed is asked for again


class Reader(Protocol):
    """Reads pictures; safe for threads, but not across a fork. Of use are reads of about `window` at a time."""

    window: int

    def read(self, places: Places) -> list[bytes]:
        """The bytes at `places`, in their order; ShardError naming the shard that cannot be read."""

    def close(self) -> None:
        """Close files and connections; the next read opens them again."""


def open_reader(root: str | Path, files: Sequence[str], *, sequential: bool = False) -> Reader:
    """A reader of `files` below `root`, a folder or a URL; ConfigError for a URL of no known kind.

    `sequential` says that pictures are asked for in the order in which they lie: local ones are read in ranges too.
    """
    try:
        system, path = fsspec.core.url_to_fs(str(root))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"shards at {root}: {error}") from error
    if isinstance(system, LocalFileSystem):
        return LocalReader(path, files, sequential=sequential)
    return RemoteReader(system, str(path), files)


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes [start, stop) of file number `file`, and which of the pictures lie in it."""

    file: int
    start: int
    stop: int
    members: list[int]


def coalesce(places: Places, gap: int = _GAP, longest: int = _RANGE) -> Iterator[Range]:
    """Ranges that hold all `places`, sorted by file and offset; up to `gap` bytes between two of one range are read.

    No range is longer than `longest`, unless a picture is; a picture that is wanted twice is read once.
    """
    current: Range | None = None
    files, starts = places["file"].tolist(), places["offset"].tolist()
    stops = (places["offset"] + places["size"]).tolist()
    for member in np.lexsort((places["offset"], places["file"])).tolist():
        file, start, stop = files[member], starts[member], stops[member]
        if current is not None:
            end = max(current.stop, stop)
            if file == current.file and start <= current.stop + gap and end - current.start <= longest:
                current = Range(file, current.start, end, [*current.members, member])
                continue
            yield current
        current = Range(file, start, stop, [member])
    if current is not None:
        yield current


def _in_ranges(
    places: Places, fetch: Callable[[Range], bytes], over: Callable[..., Iterable[None]] = map
) -> list[bytes]:
    """The bytes at `places` out of coalesced ranges; of a range no more is kept than its pictures."""
    found = [b""] * len(places)

    def cut(part: Range) -> None:
        data = memoryview(fetch(part))
        for member in part.members:
            start = int(places["offset"][member]) - part.start
            found[member] = bytes(data[start : start + int(places["size"][member])])

    deque(over(cut, coalesce(places)), maxlen=0)
    return found


class LocalReader:
    """Reads by offset; all that is wanted is announced before the first byte is waited for.

    If `sequential`, long ranges are read instead. Few files are open at a time.
    """

    window = 64

    def __init__(self, root: str, files: Sequence[str], *, sequential: bool = False) -> None:
        self._root, self._files, self._sequential = root.rstrip("/"), files, sequential
        self._open = functools.lru_cache(maxsize=_OPEN_SHARDS)(_Shard)

    def read(self, places: Places) -> list[bytes]:
        if self._sequential:
            return _in_ranges(places, lambda part: self._shard(part.file).read(part.start, part.stop - part.start))
        shards = [self._shard(file) for file in places["file"].tolist()]
        spans = list(zip(places["offset"].tolist(), places["size"].tolist(), strict=True))
        for shard, span in zip(shards, spans, strict=True):
            shard.announce(*span)
        return [shard.read(*span) for shard, span in zip(shards, spans, strict=True)]

    def close(self) -> None:
        self._open.cache_clear()

    def _shard(self, file: int) -> _Shard:
        return self._open(f"{self._root}/{self._files[file]}")


class _Shard:
    """An open shard; its file is closed once nobody holds the shard, so that no thread reads a closed file."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._unreadable(error) from error
        weakref.finalize(self, os.close, self._descriptor)

    def announce(self, offset: int, size: int) -> None:
        """Let the system fetch these bytes: a disk serves many of them at a time faster than one after the other."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def read(self, offset: int, size: int) -> bytes:
        """Those bytes; ShardError where they cannot be had."""
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) != size:
            raise _cut(self.path, offset + size)
        return data

    def _unreadable(self, error: OSError) -> ShardError:
        return ShardError(f"{self.path} cannot be read: {error.strerror}; download the shard again")


class RemoteReader:
    """Reads coalesced ranges, 16 at a time, each tried four times.

    What is held in memory are the pictures that were asked for, and the ranges that are on their way.
    """

    window = 256  # so that more pictures lie near each other, and all connections have work

    def __init__(self, system: Any, root: str, files: Sequence[str]) -> None:
        self._system, self._root, self._files = system, root.rstrip("/"), files
        self._pool = ThreadPoolExecutor(_PARALLEL)

    def read(self, places: Places) -> list[bytes]:
        return _in_ranges(places, self._fetch, self._pool.map)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._pool = ThreadPoolExecutor(_PARALLEL)

    def _fetch(self, part: Range) -> bytes:
        path = f"{self._root}/{self._files[part.file]}"
        for wait in (*_WAITS, None):
            # An error of whatever class is a value here: file systems have classes of their own.
            (data,) = self._system.cat_ranges([path], [part.start], [part.stop], on_error="return")
            if not isinstance(data, BaseException):
                break
            if wait is None or isinstance(data, FileNotFoundError):
                tries = 1 if isinstance(data, FileNotFoundError) else len(_WAITS) + 1
                why = " ".join(f"{type(data).__name__}: {data}".split())[:200]
                raise ShardError(f"{path} cannot be read, tried {tries} times ({why}); see whether it is there")
            time.sleep(wait)
        if len(data) > part.stop - part.start:
            raise ShardError(f"{path}: its server sends more than the range that it is asked for; use another one")
        if len(data) != part.stop - part.start:
            raise _cut(path, part.stop)
        return bytes(data)


def _cut(path: str, end: int) -> ShardError:
    return ShardError(f"{path} ends before byte {end}, which the manifest names; rebuild the mixture")
