"""Row numbers in the order of 64-bit keys, however many: an external sort by buckets of the keys' first bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.batch import Index
from trainer.scratch import allocate

CHUNK = 1 << 19  # rows that are looked at in one go; about 60 bytes of memory each
Keys = Callable[[int, int], npt.NDArray[np.uint64]]
Numbers = npt.NDArray[Any]  # row numbers, uint32, or uint64 from 2**32 rows on


def row_type(count: int) -> np.dtype[Any]:
    """The type of the numbers of `count` rows."""
    return np.dtype("<u4" if count < 1 << 32 else "<u8")


def chunks(count: int) -> Iterator[tuple[int, int]]:
    """`count` rows as ranges [start, stop) that are looked at in one go."""
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)


def write_sorted(path: Path, count: int, keys: Keys) -> None:
    """Write the numbers of `count` rows to a file, sorted by (key, row).

    `keys(start, stop)` gives the keys of a range of rows, uint64; they have to be spread evenly over all 64 bits, so
    that a bucket fits in memory. Memory does not depend on `count`; for a while a second file of 8 bytes a row lies
    beside the first.
    """
    bits = max(1, (count // CHUNK).bit_length())
    shift = np.uint64(64 - bits)
    sizes = np.zeros(1 << bits, np.int64)
    for start, stop in chunks(count):
        sizes += np.bincount((keys(start, stop) >> shift).astype(np.int64), minlength=len(sizes))
    ends = np.cumsum(sizes)
    aside = path.with_name(f"{path.name}.keys.tmp")
    try:
        numbers, waiting = new_map(path, row_type(count), count), new_map(aside, np.dtype("<u8"), count)
        _distribute(count, keys, shift, ends - sizes, numbers, waiting)
        for end, size in zip(ends, sizes, strict=True):
            bucket = slice(int(end - size), int(end))
            numbers[bucket] = numbers[bucket][_argsort(waiting[bucket])]
    finally:
        aside.unlink(missing_ok=True)


def runs(order: Numbers, values: Callable[[Numbers], npt.NDArray[Any]]) -> Iterator[tuple[Numbers, Index]]:
    """The rows in sorted order, chunk by chunk, and where in a chunk each run of equal `values(rows)` begins.

    No run is in two chunks: one is as long as it must be.
    """
    start, step = 0, CHUNK
    while start < len(order):
        rows = order[start : start + step]
        found = values(rows)
        firsts = np.concatenate([[0], np.flatnonzero(found[1:] != found[:-1]) + 1])
        if start + step < len(order):
            if len(firsts) == 1:
                step *= 2
                continue
            rows, firsts = rows[: firsts[-1]], firsts[:-1]  # the last run may go on
        yield rows, firsts
        start += len(rows)


def new_map(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """A new file of `count` items, to be written to as an array."""
    allocate(path, count * dtype.itemsize)
    return np.asarray(np.memmap(path, dtype, "r+", shape=(count,))) if count else np.empty(0, dtype)


def read_map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A file as an array that cannot be written to; its pages are shared between all processes that map it."""
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.empty(0, dtype)


def _distribute(
    count: int, keys: Keys, shift: np.uint64, free: npt.NDArray[np.int64], numbers: Numbers, waiting: Numbers
) -> None:
    """Put every row's number and key into its bucket, which begins at `free`; rows of a bucket stay in order."""
    for start, stop in chunks(count):
        key = keys(start, stop)
        bucket = (key >> shift).astype(np.uint16)  # NumPy sorts 16 bits by radix
        order = np.argsort(bucket, kind="stable")
        key, places = key[order], order + start
        edges = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=len(free)))])
        for i in np.flatnonzero(np.diff(edges)):
            piece = slice(int(edges[i]), int(edges[i + 1]))
            target = slice(int(free[i]), int(free[i]) + piece.stop - piece.start)
            numbers[target], waiting[target] = places[piece], key[piece]
            free[i] = target.stop


def _argsort(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """A stable argsort; keys hardly ever tie, and the sort that is not stable is several times as fast."""
    order = np.argsort(keys)
    ordered = keys[order]
    return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order
