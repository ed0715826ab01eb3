"""The order in which an epoch sees a mixture: a function of the manifest, the seed and the epoch alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from filters.errors import InputError
from filters.sampling import salt, sample_order
from trainer.batch import Index
from trainer.rows import Rows
from trainer.scratch import made
from trainer.sorting import Numbers, chunks, new_map, read_map, row_type, write_sorted

BatchMix = Literal["mixed", "single_source"]


def epoch_salt(purpose: str, seed: int, epoch: int) -> int:
    """A 64-bit number for (purpose, seed, epoch)."""
    return salt(f"{purpose} {epoch}", seed)


def epoch_order(rows: Rows, seed: int, epoch: int) -> Numbers:
    """All rows in the order of an epoch: row numbers, uint32 (uint64 from 2**32 rows on), in a shared file.

    Rows are sorted by `Rows.keys(salt)`, then row: a shuffle in which the k rows of one uid lie 1/k of the epoch
    apart and never closer than about half of that. Orders of epochs long past are deleted.
    """
    path = _file_of(rows, f"order-{seed}", epoch)
    keys = functools.partial(rows.keys, salt=epoch_salt("train-order", seed, epoch))
    return _stored(path, len(rows), rows, lambda file: write_sorted(file, len(rows), keys))


def single_source_order(rows: Rows, seed: int, epoch: int, batch: int) -> Numbers:
    """The same for batches of one source each: every `batch` places from the front hold rows of one source.

    A source's rows keep the order that they have in `epoch_order`; its last ones that fill no batch are left out of
    the epoch. The batches of all sources are shuffled by a mix of their number. InputError where no source has
    enough rows for a batch.
    """
    batches = rows.counts // batch
    total = int(batches.sum())
    if not total:
        raise InputError(f"no source has the {batch} pairs of a batch; use a smaller batch or `batch_mix: mixed`")
    path = _file_of(rows, f"order-{seed}-{batch}", epoch)
    whole = epoch_order(rows, seed, epoch)
    shuffled = sample_order(np.arange(total, dtype=np.uint64), epoch_salt("train-batches", seed, epoch))
    places = np.empty(total, np.int64)
    places[np.argsort(shuffled)] = np.arange(total)
    return _stored(path, total * batch, rows, lambda file: _by_source(file, rows, whole, batches, places, batch))


def file_order(rows: Rows, seed: int, epoch: int) -> Numbers:
    """The rows of materialised tars as they are read one tar after the other: the tars shuffled, each from its front.

    The mixture's own order, in which tars are written, is a shuffle already.
    """
    path = _file_of(rows, f"files-{seed}", epoch)
    ends = np.searchsorted(rows.places["file"], np.arange(len(rows.files)), side="right")
    starts = np.concatenate([[0], ends[:-1]])
    shuffled = sample_order(np.arange(len(ends), dtype=np.uint64), epoch_salt("train-tars", seed, epoch))

    def build(file: Path) -> None:
        out, done = new_map(file, row_type(len(rows)), len(rows)), 0
        for number in np.argsort(shuffled):
            start, stop = int(starts[number]), int(ends[number])
            out[done : done + stop - start] = np.arange(start, stop)
            done += stop - start

    return _stored(path, len(rows), rows, build)


def _by_source(file: Path, rows: Rows, order: Numbers, batches: Index, places: Index, batch: int) -> None:
    """Move the rows of `order` to the places of their sources' batches."""
    out = new_map(file, row_type(len(rows)), len(places) * batch)
    first = np.cumsum(batches) - batches  # each source's first batch among all batches
    seen = np.zeros(len(batches), np.int64)
    for start, stop in chunks(len(order)):
        part = order[start:stop]
        source = rows.places["source"][part]
        by_source = np.argsort(source, kind="stable")
        part, source = part[by_source], source[by_source]
        counts = np.bincount(source, minlength=len(batches))
        begins = np.cumsum(counts) - counts
        turn = np.arange(len(part)) - begins[source] + seen[source]
        seen += counts
        kept = turn < (batches * batch)[source]
        part, source, turn = part[kept], source[kept], turn[kept]
        out[places[first[source] + turn // batch] * batch + turn % batch] = part


def _stored(path: Path, count: int, rows: Rows, build: Callable[[Path], None]) -> Numbers:
    """`count` row numbers in the file that `build` makes once."""
    dtype = row_type(len(rows))
    size = count * dtype.itemsize
    return read_map(made(path, build, lambda file: file.is_file() and file.stat().st_size == size), dtype)


def _file_of(rows: Rows, name: str, epoch: int) -> Path:
    """The file of an epoch's order; those of epochs before the last are deleted.

    A process that still reads one of them keeps it until it is done.
    """
    for path in rows.folder.glob(f"{name}-epoch*"):
        number = path.name.rpartition("-epoch")[2]
        if number.isdecimal() and int(number) < epoch - 1:
            path.unlink(missing_ok=True)
    return rows.folder / f"{name}-epoch{epoch}"
