"""A data root of given pictures, as a download leaves it, without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from filters.stored import Recipe, facts, store
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import features
from pipelines.store.shards import Sample, key_of, write_shard


class Given(NamedTuple):
    """One downloaded picture."""

    name: str
    data: bytes
    caption: str | None = "a picture"
    url: str | None = None


def uid_of(name: str) -> str:
    """The uid of a picture by its name in the test."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def add_shard(
    root: Root,
    source: str,
    number: int,
    given: Sequence[Given],
    *,
    recipe: Recipe | None = None,
    nothing_known: bool = False,
    **columns: Any,
) -> ShardId:
    """Write one shard of `given` pictures; `columns` hold for all rows.

    With `nothing_known` it is like an adopted one, beside whose pictures nothing was recorded of the originals.
    """
    shard = ShardId(source, f"{number:05d}")
    samples = []
    for index, picture in enumerate(given):
        stored = store(picture.data, recipe or Recipe())
        known = facts(stored.image, 10**7) if nothing_known else stored
        row = {
            "uid": uid_of(picture.name),
            "uid_lo": int(uid_of(picture.name)[16:], 16),
            "source": source,
            "caption": picture.caption,
            "url": picture.url or f"http://pictures.test/{picture.name}",
            "key": key_of(shard, index, 10_000),
            "reason": "ok",
            "attempt": 0,
            **{name: getattr(known, name) for name in known.__slots__ if name != "image"},
            **columns,
        }
        samples.append(Sample(row, stored.image))
    write_shard(root, shard, samples, "jpg", f"mark of {shard}", {})
    return shard


def add_features(
    root: Root, model: str, shard: ShardId, names: Sequence[str], vectors: np.ndarray, scores: Sequence[float]
) -> None:
    """Write the feature sidecar of one shard: image embeddings [N, D], which are made of unit length, and scores."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    column = pa.FixedSizeListArray.from_arrays(pa.array(unit.astype(np.float16).ravel()), unit.shape[1])
    columns = [pa.array([uid_of(n) for n in names]), pa.array(scores, pa.float32()), column, column]
    table = pa.Table.from_arrays(columns, schema=features(unit.shape[1]).arrow)
    root.write_table(
        table, "features", model, shard.source, f"{shard.number}.parquet", metadata={"headwater.fingerprint": "m"}
    )
