"""Shards to looks: of each picture what the search for near duplicates needs, so that it is decoded once.

looks/<version>/<source>/00000.parquet, made by `run_stage` as any sidecar is.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        Column("look", pa.binary(LOOK), "the picture squeezed to 16 × 16 pixels, RGB"),
        Column("minhash", pa.binary(MINHASH), "MinHash of `caption`, 128 numbers of 32 bits; all ones without one"),
    ),
)
_COLUMNS = ["uid", "caption", "source", "shard", "offset", "size", "original_width", "original_height"]


def make_looks(root: Root, shards: Sequence[ShardId], *, cpus: float, local: bool) -> Account:
    """Write the looks that are missing; ShardError where a shard's pictures cannot be read.

    All other shards are done before it is raised, so that they are not done again.
    """
    out = sidecar(root)
    local = local or sum(not out.is_done(shard) for shard in shards) <= _FEW
    account = run_stage(shards, _make, out, cpus=cpus, local=local)
    if account.shards_failed:
        first = next(iter(account.shards_failed.items()))
        raise ShardError(
            f"{len(account.shards_failed)} of {len(shards)} shards cannot be compared, the first: "
            f"{first[0]}: {first[1].removeprefix('ShardError: ')}"
        )
    return account


def sidecar(root: Root) -> Sidecar:
    """Where looks lie and how finished ones are recognised."""
    return Sidecar("dedupe", root, ("looks", VERSION), VERSION, _load)


def _load(root: Root, shard: ShardId) -> pa.Table:
    """The rows of a shard that have a picture, and the pictures."""
    table = load_successes(root, shard, _COLUMNS)
    return table.append_column("image", pa.array(read_images(root, table), pa.binary()))


def _make() -> Signal:
    return looks


def looks(pictures: pa.Table) -> pa.Table:
    """The looks of rows with their stored pictures; ShardError naming a picture that cannot be decoded."""
    keys, aspects, hashes = [], [], []
    thumbs = np.empty((len(pictures), THUMB, THUMB, 3), np.uint8)
    for number, row in enumerate(pictures.drop_columns(["caption"]).to_pylist()):
        try:
            rgb = decode(row["image"], max_pixels=MAX_PIXELS).rgb
        except DecodeError as error:
            where = f"{row['source']}/{row['shard']}: uid {row['uid']}"
            raise ShardError(
                f"{where}: the stored picture is damaged ({error}); download or adopt its shard again"
            ) from error
        thumbs[number] = thumbnail(rgb)
        width, height = row["original_width"], row["original_height"]
        keys.append(key_of(row["image"], width, height))
        aspects.append(shown_aspect(rgb.shape[:2], (height, width) if height and width else rgb.shape[:2]))
        hashes.append(phash(rgb) if aspects[-1] is None else None)
    signatures = caption_signatures(pictures["caption"]).astype("<u4")
    small = squeezed(thumbs).reshape(-1, LOOK)
    columns = [
        pictures["uid"].combine_chunks(),
        pa.array(keys, pa.uint64()),
        pa.array(aspects, pa.float64()),
        pa.array(hashes, pa.uint64()),
        _packed(small, LOOK),
        _packed(signatures, MINHASH),
    ]
    return LOOKS.conform(pa.table(columns, names=LOOKS.names))


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
