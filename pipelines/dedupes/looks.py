"""Shards to looks: of each picture what the search for near duplicates needs, so that it is decoded once.

looks/<version>/<source>/00000.parquet, made by `run_stage` as any sidecar is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from filters.caption_groups import PERMUTATIONS, caption_signatures
from filters.errors import ShardError
from filters.near import THUMB, thumbnail
from filters.pixels import RGB, DecodeError, decode, phash
from filters.views import shown_aspect
from pipelines.job import Account
from pipelines.sidecars import Sidecar, Signal, run_stage
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import Column, Schema
from pipelines.store.shards import load_successes, read_images

SIDE = 16
LOOK = SIDE * SIDE * 3
MINHASH = 4 * PERMUTATIONS
MAX_PIXELS = 50_000_000
_FEW = 4  # shards that are done in this process, since workers take longer to start
VERSION = fingerprint("looks", 2, THUMB, SIDE)

LOOKS = Schema(
    "looks",
    (
        Column("uid", pa.string(), "identity of the sample"),
        Column("key", pa.uint64(), "hash of the stored picture's bytes and its original size: what a distance is of"),
        Column("aspect", pa.float64(), "width/height of what it shows; null for a square of what was not square"),
        Column("phash", pa.uint64(), "perceptual hash of such a square, since that of its row may be of the whole"),
        Column("damage", pa.string(), "why the stored picture cannot be decoded; null where it can"),
        Column("look", pa.binary(LOOK), "the picture squeezed to 16 × 16 pixels, RGB"),
        Column("minhash", pa.binary(MINHASH), "MinHash of `caption`, 128 numbers of 32 bits; all ones without one"),
    ),
)
_COLUMNS = ["uid", "caption", "source", "shard", "offset", "size", "original_width", "original_height"]
# Metadata of looks with damaged pictures.
_DAMAGED = "headwater.damaged"


def make_looks(root: Root, shards: Sequence[ShardId], *, cpus: float, local: bool) -> Account:
    """Write the looks that are missing; ShardError where a shard's pictures cannot be read.

    All other shards are done before it is raised, so that they are not done again.
    """
    out = sidecar(root)
    local = local or len(out.undone(shards)) <= _FEW
    account = run_stage(shards, _make, out, cpus=cpus, local=local)
    if account.shards_failed:
        first = next(iter(account.shards_failed.items()))
        raise ShardError(
            f"{len(account.shards_failed)} of {len(shards)} shards cannot be compared, the first: "
            f"{first[0]}: {first[1].removeprefix('ShardError: ')}"
        )
    return account


def forget(root: Root, shards: Iterable[ShardId]) -> None:
    """Let the looks of `shards` be made anew."""
    for shard in shards:
        root.remove("looks", VERSION, shard.source, f"{shard.number}.parquet")


class _Looks(Sidecar):
    """Looks with damaged pictures are never done: a tar that was mended may have the parquet that it had."""

    def is_made(self, metadata: Mapping[str, str], mark: str) -> bool:
        return super().is_made(metadata, mark) and _DAMAGED not in metadata


def sidecar(root: Root) -> Sidecar:
    """Where looks lie and how finished ones are recognised."""
    return _Looks("dedupe", root, ("looks", VERSION), VERSION, _load)


def _load(root: Root, shard: ShardId) -> pa.Table:
    """The rows of a shard that have a picture, and the pictures."""
    table = load_successes(root, shard, _COLUMNS)
    return table.append_column("image", pa.array(read_images(root, table), pa.binary()))


def _make() -> Signal:
    return looks


def looks(pictures: pa.Table) -> pa.Table:
    """The looks of rows with their stored pictures; of one that cannot be decoded zeros, and why."""
    rows, thumbs = [], np.zeros((len(pictures), THUMB, THUMB, 3), np.uint8)
    for number, row in enumerate(pictures.drop_columns(["caption"]).to_pylist()):
        try:
            rgb = decode(row["image"], max_pixels=MAX_PIXELS).rgb
        except DecodeError as error:
            rows.append({"uid": row["uid"], "key": 0, "damage": str(error)})
            continue
        thumbs[number] = thumbnail(rgb)
        rows.append(_row(row, rgb))
    table = pa.Table.from_pylist(rows, pa.schema([LOOKS.arrow.field(name) for name in LOOKS.names[:-2]]))
    table = table.append_column("look", _packed(squeezed(thumbs), LOOK))
    table = table.append_column("minhash", _packed(caption_signatures(pictures["caption"]).astype("<u4"), MINHASH))
    table = LOOKS.conform(table)
    if table["damage"].null_count < len(table):
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _DAMAGED: "1"})
    return table


def _row(row: dict[str, Any], rgb: RGB) -> dict[str, Any]:
    """What is kept of a picture besides its pixels."""
    width, height, stored = row["original_width"], row["original_height"], (rgb.shape[0], rgb.shape[1])
    aspect = shown_aspect(stored, (height, width) if height and width else stored)
    return {
        "uid": row["uid"],
        "key": key_of(row["image"], width, height),
        "aspect": aspect,
        "phash": phash(rgb) if aspect is None else None,
    }


def _packed(values: npt.NDArray[np.generic], width: int) -> pa.FixedSizeBinaryArray:
    """Rows of `width` bytes as a column."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values.tobytes())])


def squeezed(thumbs: RGB) -> RGB:
    """Thumbnails uint8 [N, 64, 64, 3] as the rounded means of their squares of 4 × 4: uint8 [N, 16, 16, 3]."""
    step = THUMB // SIDE
    # Sums of slices: several times faster than `mean` over short axes.
    rows = np.add.reduce([thumbs[:, k::step] for k in range(step)], dtype=np.uint16)
    total = np.add.reduce([rows[:, :, k::step] for k in range(step)], dtype=np.uint16)
    return np.asarray((total + step * step // 2) // (step * step), np.uint8)


def key_of(image: bytes, width: int | None, height: int | None) -> int:
    """A number of 64 bits for a stored picture and the size of its original, equal for equal ones."""
    return xxhash.xxh3_64_intdigest(image + f"\x1f{width}x{height}".encode())
