"""Shards to feature sidecars: image and text embeddings and their cosine, by any open_clip model.

headwater score --root data --model ViT-B-32 --pretrained laion2b_s34b_b79k
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.job import job_main
from pipelines.sidecars import Sidecar, Signal, run_stage
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, features
from pipelines.store.shards import load_successes, read_images
from trainer.embed import embed_images, embed_texts
from trainer.model import LoadedModel, load_model


class ScoreConfig(JobConfig):
    """Which model, and with what."""

    model: str = Field(description="open_clip name, or the folder of a model (open_clip_config.json and weights)")
    pretrained: str | None = Field(None, description="pretrained tag or weights file for an open_clip name")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="precision of the model")
    device: str = Field("cpu", description="cpu, or cuda with --gpus 1")
    batch: int = Field(256, ge=1, description="pictures a forward pass")
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    gpus: float = Field(0.0, ge=0, description="GPUs a worker")


def run(config: ScoreConfig) -> dict[str, Any]:
    """Embed and score every downloaded pair; shards that this model has scored are left alone."""
    root = Root(config.root)
    shards = root.shards("shards")
    if not shards:
        raise InputError(f"{config.root}/shards: nothing downloaded; run `headwater download` first")
    name = _load(config).fingerprint
    out = Sidecar("score", root, ("features", name), fingerprint(SCHEMA_VERSION, name), load_pairs)
    make = partial(make_signal, config)
    account = run_stage(shards, make, out, cpus=config.cpus, gpus=config.gpus, local=config.local)
    account.check(config.max_failed_fraction)
    return {**account.summary(), "model": config.model, "model_fingerprint": name}


def plan(config: ScoreConfig) -> dict[str, Any]:
    """Which shards a scoring run would read."""
    return {"model": config.model, "shards": [str(shard) for shard in Root(config.root).shards("shards")]}


def load_pairs(root: Root, shard: ShardId) -> pa.Table:
    """uid, caption and stored picture of a shard's successful rows."""
    table = load_successes(root, shard, ["uid", "caption", "source", "shard", "offset", "size"])
    return table.append_column("image", pa.array(read_images(root, table), pa.binary()))


def make_signal(config: ScoreConfig) -> Signal:
    """Load the model once, and return the function that scores tables of pairs with it."""
    return partial(score_pairs, _load(config), config.batch)


def score_pairs(loaded: LoadedModel, batch: int, pairs: pa.Table) -> pa.Table:
    """Embeddings and cosine of each pair (columns uid, caption, image), in the schema of a feature sidecar."""
    images = embed_images(loaded, pairs["image"].to_pylist(), batch)
    texts = embed_texts(loaded, pairs["caption"].to_pylist(), batch)
    schema = features(loaded.embed_dim).arrow
    columns = [
        pairs["uid"].combine_chunks(),
        pa.array(np.einsum("nd,nd->n", images, texts), pa.float32()),
        _vectors(images),
        _vectors(texts),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _vectors(array: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.astype(np.float16).ravel()), array.shape[1])


def _load(config: ScoreConfig) -> LoadedModel:
    return load_model(config.model, config.pretrained, precision=config.precision, device=config.device)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater score`."""
    return job_main("score", ScoreConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
