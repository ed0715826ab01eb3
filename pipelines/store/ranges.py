"""Parts of files in a store, where a request takes longer than some bytes more: several requests at once."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from fsspec.utils import merge_offset_ranges

_GAP, _BLOCK = 2**16, 2**24  # bytes between two ranges that are read together, and at once
_FOOTER = 2**15  # bytes that hold a parquet file's footer, mostly
_AT_ONCE = 512  # of them


def read(fs: Any, path: str, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes at each (offset, size) of one file, several ranges in each request; what the file system raises."""
    spans = sorted({(offset, offset + size) for offset, size in wanted})
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    _, firsts, lasts = merge_offset_ranges([path] * len(spans), starts, ends, _GAP, _BLOCK)
    blocks = fs.cat_ranges([path] * len(firsts), firsts, lasts)
    for block in blocks:
        if isinstance(block, Exception):
            raise block
    places = [bisect.bisect_right(firsts, offset) - 1 for offset, _ in wanted]
    inside = [offset - firsts[place] for place, (offset, _) in zip(places, wanted, strict=True)]
    return [
        bytes(blocks[place][start : start + size])
        for place, start, (_, size) in zip(places, inside, wanted, strict=True)
    ]


def footers(fs: Any, paths: Sequence[str]) -> Iterator[Callable[[], pa.BufferReader]]:
    """Of each parquet file what opens it from its footer on, or raises what came in its place."""
    for begin in range(0, len(paths), _AT_ONCE):
        some = paths[begin : begin + _AT_ONCE]
        ends = fs.cat_ranges(some, [-_FOOTER] * len(some), [None] * len(some))
        yield from (partial(_opened, fs, path, end) for path, end in zip(some, ends, strict=True))


def _opened(fs: Any, path: str, end: bytes | Exception) -> pa.BufferReader:
    if isinstance(end, Exception):
        raise end
    size = int.from_bytes(end[-8:-4], "little") + 8
    return pa.BufferReader(end if size <= len(end) else fs.cat_file(path, start=-size))
