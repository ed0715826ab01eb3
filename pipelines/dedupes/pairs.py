"""Distances of pairs of pictures, each computed once and kept: a later run verifies only pairs that it has not seen.

pairs/<version>/<digest>.parquet holds some thousands of pairs, named by a key of each picture's content, so what is
kept holds for any run, order, priority and root. A killed run has lost the blocks under way and no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import ShardError
from filters.groups import Floats, Indices
from filters.near import THUMB, picture_distance, thumbnail
from filters.near_pairs import Pictures, shorter_side
from filters.pixels import RGB, DecodeError, decode
from pipelines.dedupes import held_out
from pipelines.dedupes.looks import MAX_PIXELS
from pipelines.engine import Work, map_shards
from pipelines.job import say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import Column, Schema
from pipelines.store.shards import read_images

VERSION = fingerprint("pairs", 1, THUMB)
_BLOCK = 4096  # some seconds of work
_FEW = 2  # blocks that are done here, since workers take longer to start
_FILES = 256  # kept pairs in more files than this become one

PAIRS = Schema(
    "pairs",
    (
        Column("first", pa.uint64(), "key of the first picture, as in looks"),
        Column("second", pa.uint64(), "key of the second picture"),
        Column("distance", pa.float32(), "distance of the aligned pictures, 0 to 1"),
    ),
)


class DamagedError(ShardError):
    """Pictures of `shards` cannot be decoded, although their looks say nothing of it."""

    def __init__(self, shards: Iterable[ShardId]) -> None:
        self.shards = frozenset(shards)
        names = ", ".join(sorted(map(str, self.shards)))
        super().__init__(f"{names}: stored pictures have been damaged meanwhile; run again")


class Block(NamedTuple):
    """Some pairs to verify: `pairs` has first, second (keys), detail, and a and b, which are rows of `pictures`."""

    pairs: pa.Table
    pictures: pa.Table

    def name(self) -> str:
        """The same for the same pairs."""
        digest = hashlib.sha256()
        for column in ("first", "second"):
            digest.update(np.array(self.pairs[column], "<u8").tobytes())
        return digest.hexdigest()[:32]


class Verifier:
    """Distances of pairs: those that are kept, and the others through workers that decode pictures on demand."""

    def __init__(self, root: Root, *, cpus: float, local: bool) -> None:
        self.root, self.cpus, self.local = root, cpus, local
        self.kept = _load(root)
        self.known, self.verified = len(self.kept), 0

    def __call__(self, one: Pictures, rows: Indices, other: Pictures, others: Indices) -> Floats:
        """The distance float32 [P] of rows[p] of `one` and others[p] of `other`.

        DamagedError where a picture cannot be decoded, after all others have been compared.
        """
        wanted = _named(_keys(one, rows), _keys(other, others))
        place = pc.index_in(wanted, value_set=_named(self.kept["first"], self.kept["second"]))
        unseen = np.flatnonzero(np.array(place.is_null(), np.bool_))
        if len(unseen):
            # One of each: two downloads may have stored the same bytes.
            first = np.unique(np.array(wanted.take(pa.array(unseen)).dictionary_encode().indices), return_index=True)[
                1
            ]
            new = unseen[np.sort(first)]
            self._verify(one, rows[new], other, others[new])
            place = pc.index_in(wanted, value_set=_named(self.kept["first"], self.kept["second"]))
        return np.array(self.kept["distance"].take(place), np.float32)

    def _verify(self, one: Pictures, rows: Indices, other: Pictures, others: Indices) -> None:
        # Neighbours together: they share pictures.
        order = np.lexsort((rows, others) if _is_held_out(other) else (others, rows))
        parts = np.split(order, range(_BLOCK, len(order), _BLOCK))
        blocks = [_block(one, rows[part], other, others[part]) for part in parts]
        say(f"dedupe: comparing {len(rows):,} pairs of pictures")
        local = self.local or len(blocks) <= _FEW
        done, damaged = 0, set[ShardId]()
        for block, result in map_shards(blocks, _Verifying(self.root), cpus=self.cpus, local=local):
            if "error" in result:
                raise ShardError(f"pairs of pictures cannot be compared: {result['error']}")
            damaged.update(ShardId(*shard) for shard in result["damaged"])
            done += len(block.pairs)
            if len(blocks) > 1:
                say(f"dedupe: {done:,} of {len(rows):,} pairs compared")
        if damaged:
            raise DamagedError(damaged)
        self.verified += len(rows)
        names = [f"{block.name()}.parquet" for block in blocks]
        found = [self.root.read_table("pairs", VERSION, name) for name in names]
        self.kept = pa.concat_tables([self.kept, *found]).combine_chunks()


def _load(root: Root) -> pa.Table:
    """All pairs that are kept, in one file if they were in very many."""
    names = root.names("pairs", VERSION, suffix=".parquet")
    found = [root.read_table("pairs", VERSION, name) for name in names]
    table = pa.concat_tables(
        [PAIRS.arrow.empty_table(), *(part.cast(PAIRS.arrow) for part in found)]
    ).combine_chunks()
    if len(names) > _FILES:
        table = table.group_by(["first", "second"], use_threads=False).aggregate([("distance", "min")])
        table = PAIRS.conform(table.rename_columns(["first", "second", "distance"])).combine_chunks()
        whole = f"{Block(table, table).name()}.parquet"
        root.write_table(table, "pairs", VERSION, whole)
        for name in names:
            if name != whole:
                root.remove("pairs", VERSION, name)
    return table


def _keys(pictures: Pictures, rows: Indices) -> pa.Array:
    return pictures.table["key"].take(pa.array(rows)).combine_chunks()


def _named(first: pa.Array, second: pa.Array) -> pa.FixedSizeBinaryArray:
    """Both keys as one value of 16 bytes."""
    both = np.stack([np.array(first, np.uint64), np.array(second, np.uint64)], axis=1)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(both), [None, pa.py_buffer(both.tobytes())])


def _is_held_out(pictures: Pictures) -> bool:
    return "eval_set" in pictures.table.column_names


def _block(one: Pictures, rows: Indices, other: Pictures, others: Indices) -> Block:
    sides = []
    start = 0
    places: list[npt.NDArray[np.int64]] = []
    for pictures, chosen in ((one, rows), (other, others)):
        distinct, place = np.unique(chosen, return_inverse=True)
        sides.append(_sources(pictures, distinct))
        places.append(place + start)
        start += len(distinct)
    detail = np.minimum(shorter_side(one.table.take(rows)), shorter_side(other.table.take(others)))
    pairs = {
        "first": _keys(one, rows),
        "second": _keys(other, others),
        "detail": detail,
        "a": places[0],
        "b": places[1],
    }
    return Block(pa.table(pairs), pa.concat_tables(sides))


def _sources(pictures: Pictures, rows: Indices) -> pa.Table:
    """Where pictures are: in a tar, or in the looks of an evaluation set (`held_out`)."""
    held = _is_held_out(pictures)
    names = ("eval_set", "part", "place") if held else ("source", "shard", "offset", "size")
    table = pictures.table.select(names).take(pa.array(rows))
    if held:
        table = table.append_column("size", pa.nulls(len(rows), pa.int64()))
    columns = [table[0].cast(pa.string()), table[1].cast(pa.string()), table[2].cast(pa.int64()), table[3]]
    found = pa.table(columns, names=["source", "shard", "offset", "size"])
    return found.append_column("held_out", pa.repeat(pa.scalar(held), len(rows)))


class _Verifying:
    """Picklable: makes the function that verifies one block."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def __call__(self) -> Work:
        return self.work

    def work(self, block: Block) -> dict[str, Any]:
        """Publish the distances of one block, unless there are `damaged` shards."""
        thumbs, damaged = _thumbs(self.root, block.pictures)
        if damaged:
            return {"rows": 0, "counts": {}, "damaged": damaged}
        a, b, detail = (np.array(block.pairs[name], np.int64) for name in ("a", "b", "detail"))
        distance = np.concatenate(
            [
                picture_distance(
                    thumbs[a[start : start + 512]], thumbs[b[start : start + 512]], detail[start : start + 512]
                )
                for start in range(0, len(a), 512)
            ]
        )
        table = block.pairs.select(["first", "second"]).append_column("distance", pa.array(distance, pa.float32()))
        self.root.write_table(PAIRS.conform(table), "pairs", VERSION, f"{block.name()}.parquet")
        return {"rows": len(a), "counts": {}, "damaged": []}


def _thumbs(root: Root, pictures: pa.Table) -> tuple[RGB, list[tuple[str, str]]]:
    """Thumbnails uint8 [n, 64, 64, 3] of `pictures`, in their order, and the shards of those that are damaged."""
    out = np.empty((len(pictures), THUMB, THUMB, 3), np.uint8)
    held = np.array(pictures["held_out"], np.bool_)
    stored, damaged = np.flatnonzero(~held), set()
    table = pictures.take(pa.array(stored))
    for row, data in zip(stored.tolist(), read_images(root, table), strict=True):
        try:
            out[row] = thumbnail(decode(data, max_pixels=MAX_PIXELS).rgb)
        except DecodeError:
            damaged.add((pictures["source"][row].as_py(), pictures["shard"][row].as_py()))
    parts: dict[tuple[str, int], list[int]] = {}
    for row in np.flatnonzero(held).tolist():
        parts.setdefault((pictures["source"][row].as_py(), int(pictures["shard"][row].as_py())), []).append(row)
    for (name, number), rows in parts.items():
        places: Sequence[int] = pictures["offset"].take(pa.array(rows)).to_pylist()
        out[rows] = held_out.thumbs(root, name, number, list(places))
    return out, sorted(damaged)
