"""Reading the image embeddings of feature sidecars."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import InputError, ShardError
from filters.vectors import vectors
from pipelines.job import say
from pipelines.store.models import FILE
from pipelines.store.root import Root, ShardId

_COLUMNS = ["uid", "image_embedding"]


def read_embeddings(root: Root, features: str, shard: ShardId, rows: pa.Table) -> pa.Array:
    """The image embeddings of `rows` (columns uid and attempt) of a shard, in their order.

    Rows of a retry whose shard has no features of its own take those of an earlier attempt: embeddings that came with
    the metadata stand under the shard of the first. ShardError where a row has none.
    """
    folder, own = ("features", features, shard.source), f"{shard.number}.parquet"
    names = [own]
    if not root.exists(*folder, own):
        names = root.names(*folder, suffix=".parquet")
        if not names or pc.any(pc.equal(rows["attempt"], 0)).as_py():
            raise ShardError(f"{root.path(*folder, own)}: not there; run `headwater score` with its model first")
    tables = (root.read_table(*folder, name, columns=_COLUMNS) for name in names)
    table = pa.concat_tables([part.filter(pc.is_in(part["uid"], rows["uid"])) for part in tables]).combine_chunks()
    places = pc.index_in(rows["uid"], table["uid"]).combine_chunks()
    if places.null_count:
        first = rows["uid"].filter(pc.is_null(places))[0]
        raise ShardError(
            f"{root.path(*folder, own)}: lacks {places.null_count} of the shard's {len(rows)} pictures, the first is "
            f"uid {first}; delete it and run `headwater score` again"
        )
    return table["image_embedding"].take(places)


def embedding_width(root: Root, features: str) -> int:
    """Numbers of an image embedding in the sidecars `features`; InputError where there are none.

    As the model's description has it, or the first shard with embeddings where there is none (those of ingest).
    """
    if root.exists("features", features, FILE):
        described = root.read_json("features", features, FILE)
        if isinstance(described, dict) and isinstance(described.get("dim"), int):
            return int(described["dim"])
    for shard in root.shards("features", features):
        try:
            kind = _read(root, features, shard).schema.field("image_embedding").type
        except ShardError:
            # Its turn to fail comes when its own rows are read.
            continue
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
    raise InputError(f"{root.path('features', features)}: holds no embeddings; run `headwater score` first")


def sample_embeddings(root: Root, features: str, limit: int, seed: int) -> npt.NDArray[np.float16]:
    """About `limit` image embeddings [n, D] of all shards with these features, as many of each; the same each time.

    Shards whose features cannot be used are passed over.
    """
    shards = root.shards("features", features)
    width, each = embedding_width(root, features), math.ceil(limit / max(1, len(shards)))
    rng = np.random.default_rng(seed)
    parts = [np.zeros((0, width), np.float16)]
    for shard in shards:
        try:
            found, _ = vectors(_read(root, features, shard), width)
        except (InputError, ShardError) as error:
            say(f"features/{features}/{shard}: passed over: {error}")
            continue
        rows = np.sort(rng.permutation(len(found))[:each])
        parts.append(found[rows].astype(np.float16))
    return np.concatenate(parts)


def _read(root: Root, features: str, shard: ShardId) -> pa.Table:
    return root.read_table("features", features, shard.source, f"{shard.number}.parquet", columns=_COLUMNS)
