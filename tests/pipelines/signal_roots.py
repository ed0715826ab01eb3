"""What the tests of the signals job share: a root with shards and features, and every file that the job takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import save_file

from pipelines.signals import SignalsConfig
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD, eval_features, features
from pipelines.store.shards import write_parquet

MODEL, DIM, ROWS = "0123456789ab", 4, 6
CAPTIONS = [
    "a photo of a red dog on the grass",
    "ein Foto einer schwarzen Katze im Garten hinter dem Haus",
    "IMG_0001.jpg",
    None,
    "dog dog dog dog",
    "a very nasty dog",
]
BASE = ["caption_words", "caption_chars", "language", "language_score", "caption_repetition", "caption_boilerplate"]


def uid(shard: ShardId, row: int) -> str:
    return f"{shard.source.encode().hex():0>16}{int(shard.number) * 1000 + row:016x}"


def write_shard(root: Root, shard: ShardId, mark: str = "m", attempt: int = 0, first: ShardId | None = None) -> None:
    """A shard's parquet of ROWS successful rows and a failed one."""
    common = {"source": shard.source, "shard": shard.number, "attempt": attempt, "reason": "ok", "status": "success"}
    rows: list[dict[str, Any]] = [
        {**common, "uid": uid(first or shard, row), "key": f"{row:09d}", "caption": caption}
        for row, caption in enumerate([*CAPTIONS, "it failed"])
    ]
    rows[-1] |= {"reason": "http_404", "status": "failed_to_download"}
    columns = {name: [row.get(name) for row in rows] for name in SHARD.names}
    table = pa.table({name: pa.array(columns[name], SHARD.arrow.field(name).type) for name in SHARD.names})
    write_parquet(root, shard, table, {KEY: mark})


def vectors_of(shard: ShardId) -> npt.NDArray[np.float16]:
    """Embeddings of a shard's successful rows: row r lies on axis r % DIM."""
    return np.eye(DIM, dtype=np.float16)[np.arange(ROWS) % DIM]


def lists(vectors: npt.NDArray[np.float16]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def write_features(
    root: Root, shard: ShardId, vectors: npt.NDArray[np.float16], uids: list[str] | None = None
) -> None:
    uids = uids or [uid(shard, row) for row in range(len(vectors))]
    columns = [pa.array(uids), pa.array([0.3] * len(uids), pa.float32()), lists(vectors), lists(vectors)]
    table = pa.Table.from_arrays(columns, schema=features(vectors.shape[1]).arrow)
    root.write_table(table, "features", MODEL, shard.source, f"{shard.number}.parquet", metadata={KEY: MODEL})


def make_root(tmp_path: Path) -> Root:
    """Two shards of one source and one of another, with features."""
    root = Root(str(tmp_path / "data"))
    for shard in SHARDS:
        write_shard(root, shard)
        write_features(root, shard, vectors_of(shard))
    root.write_json({"dim": DIM}, "features", MODEL, "model.json")
    return root


SHARDS = [ShardId("cc12m", "00000"), ShardId("cc12m", "00001"), ShardId("wit", "00000")]


def config(root: Root, **fields: Any) -> SignalsConfig:
    return SignalsConfig.model_validate({"root": root.url, "local": True, **fields})


def table_of(root: Root, name: str, shard: ShardId = SHARDS[0]) -> pa.Table:
    return root.read_table("signals", name, shard.source, f"{shard.number}.parquet")


def files(tmp_path: Path) -> dict[str, Any]:
    """Every input file, and the settings that name them."""
    (tmp_path / "block.txt").write_text("nasty\n")
    (tmp_path / "entries.txt").write_text("grass\ndog\n")
    (tmp_path / "classes.txt").write_text("# animals\ndog\ncat\n")
    np.save(tmp_path / "centroids.npy", np.eye(DIM, dtype=np.float32))
    save_file({"0.weight": np.array([[2, 0, 0, 0]], np.float32)}, tmp_path / "head.safetensors")
    names = {"blocklist": "block.txt", "entries": "entries.txt", "classes": "classes.txt"}
    names |= {"centroids": "centroids.npy", "nsfw_head": "head.safetensors"}
    return {field: str(tmp_path / name) for field, name in names.items()}


def write_reference(root: Root, name: str, vectors: npt.NDArray[np.float16]) -> None:
    items = pa.array([f"{row} (icon)" for row in range(len(vectors))])
    table = pa.Table.from_arrays([items, lists(vectors)], schema=eval_features(vectors.shape[1]).arrow)
    root.write_table(table, "eval_features", MODEL, f"{name}.parquet")
