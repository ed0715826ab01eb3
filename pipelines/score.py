"""Shards to feature sidecars: image and text embeddings and their cosine, by any open_clip model.

headwater score --root data --model ViT-B-32 --pretrained laion2b_s34b_b79k
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import Field

from evaluation.pictures import eval_files, eval_pictures, eval_sets
from filters.errors import InputError, ShardError
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards
from pipelines.job import Account, job_main, say
from pipelines.sidecars import UNUSABLE, Sidecar, Signal, run_stage
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.mirror import inputs
from pipelines.store.models import ModelInfo, write_model
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, eval_features, features
from pipelines.store.shards import load_successes, read_images
from trainer.embed import Embeddings, Faults, UnusableItem, begin_pairs, embed_images
from trainer.model import HUB, LOCAL, LoadedModel, compile_layers, load_model, resolve_name
from trainer.packed import pack_layers

# Evaluation pictures held at a time.
_BLOCK = 4096


class ScoreConfig(JobConfig):
    """Which model, and with what."""

    model: str = Field(description="open_clip name, or the folder of a model (open_clip_config.json and weights)")
    pretrained: str | None = Field(None, description="pretrained tag or weights file for an open_clip name")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="precision of the model")
    tasks: str | None = Field(
        None,
        description="folder of evaluation sets under the root, to embed too",
    )
    device: str = Field("auto", description="cpu, cuda, or auto: cuda where the worker sees one")
    batch: int = Field(256, ge=1, description="most pictures a forward pass; on a CPU passes are smaller")
    cpus: float | None = Field(
        None, gt=0, description="CPUs a worker; 1 if not given, with a GPU its share of this machine's"
    )
    gpus: float | None = Field(None, ge=0, description="GPUs a worker; 1 if not given and this machine has one")
    compiled: bool = Field(
        False, description="on a GPU, compile the layers first: half a minute a worker, then faster"
    )


def run(config: ScoreConfig) -> dict[str, Any]:
    """Embed and score every downloaded pair; shards that this model has scored are left alone."""
    root = Root(config.root)
    shards = root.shards("shards")
    if not shards:
        raise InputError(f"{config.root}/shards: nothing downloaded; run `headwater download` first")
    sets = eval_sets(inputs(root, config.tasks)) if config.tasks else []
    loaded = load_model(config.model, config.pretrained, precision=config.precision)
    name, dim = loaded.fingerprint, loaded.embed_dim
    del loaded
    marks = {task: _set_mark(inputs(root, config.tasks or "", task), name) for task in sets}
    write_model(root, name, model_info(config, dim))
    out = Sidecar("score", root, ("features", name), fingerprint(SCHEMA_VERSION, name), load_pairs)
    cpus, gpus = worker_size(config)
    make = partial(make_signal, config)
    account = run_stage(shards, make, out, cpus=cpus, gpus=gpus, local=config.local, ahead=True)
    account.extra = {"model": config.model, "model_fingerprint": name}
    if sets:
        account.extra["eval_pictures"] = embed_sets(root, config, name, marks, account)
    account.check(config.max_failed_fraction)
    return account.summary()


def plan(config: ScoreConfig) -> dict[str, Any]:
    """Which shards a scoring run would read."""
    root = Root(config.root)
    sets = eval_sets(inputs(root, config.tasks)) if config.tasks else []
    return {"model": config.model, "shards": [str(shard) for shard in root.shards("shards")], "tasks": sets}


def model_info(config: ScoreConfig, dim: int) -> ModelInfo:
    """What `model.json` says of the scoring model."""
    return {
        "model": config.model,
        # Of a folder and of a hub's model open_clip takes the weights that lie there.
        "pretrained": None if resolve_name(config.model).startswith((LOCAL, HUB)) else config.pretrained,
        "precision": config.precision,
        "dim": dim,
    }


def worker_size(config: ScoreConfig) -> tuple[float, float]:
    """CPUs and GPUs of a worker: a GPU wants all the cores that it can have, to decode ahead of it."""
    there = torch.cuda.device_count()
    gpus = float(there > 0) if config.gpus is None else config.gpus
    share = (os.cpu_count() or 1) / there if gpus and there else 1.0
    return share if config.cpus is None else config.cpus, gpus


def load_pairs(root: Root, shard: ShardId) -> pa.Table:
    """uid, caption and stored picture of a shard's successful rows."""
    table = load_successes(root, shard, ["uid", "caption", "source", "shard", "offset", "size"])
    return table.append_column("image", pa.array(read_images(root, table), pa.binary()))


def make_signal(config: ScoreConfig) -> Signal:
    """Load the model once, and return the function that scores tables of pairs with it."""
    return Scorer(_load(config), config.batch)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores tables of pairs; what is begun has its first pictures decoded by the time that a GPU is free."""

    loaded: LoadedModel
    batch: int

    def __call__(self, pairs: pa.Table) -> pa.Table:
        return self.begin(pairs)()

    def begin(self, pairs: pa.Table) -> Callable[[], pa.Table]:
        """Start to decode, and return the function that gives the scores."""
        faults: tuple[Faults, Faults] = {}, {}
        captions = pairs["caption"].fill_null("").to_pylist()
        embed = begin_pairs(self.loaded, pairs["image"].to_pylist(), captions, self.batch, faults)
        return lambda: scored_pairs(pairs, *embed(), faults)


def scored_pairs(pairs: pa.Table, images: Embeddings, texts: Embeddings, faults: tuple[Faults, Faults]) -> pa.Table:
    """Embeddings and cosine of each pair (columns uid, caption, image), in the schema of a feature sidecar.

    Null is what has no caption, and what cannot be embedded: those uids and reasons are in the metadata UNUSABLE.
    ShardError where these are more than half of the rows: then the model or the tar is broken, and not the rows.
    """
    captions = pairs["caption"]
    texts[captions.is_null().to_numpy()] = np.nan
    unusable = {n: f"caption: {reason}" for n, reason in faults[1].items() if captions[n].is_valid}
    unusable |= {n: f"picture: {reason}" for n, reason in faults[0].items()}
    named = {pairs["uid"][n].as_py(): unusable[n] for n in sorted(unusable)}
    if 2 * len(named) > len(pairs):
        uid, reason = next(iter(named.items()))
        raise ShardError(f"{len(named)} of {len(pairs)} rows cannot be embedded; the first is uid {uid}: {reason}")
    score = np.einsum("nd,nd->n", images, texts)
    columns = [
        pairs["uid"].combine_chunks(),
        pa.array(score, pa.float32(), mask=np.isnan(score)),
        _vectors(images),
        _vectors(texts),
    ]
    table = pa.Table.from_arrays(columns, schema=features(images.shape[1]).arrow)
    if not named:
        return table
    return table.replace_schema_metadata({**table.schema.metadata, UNUSABLE: json.dumps(named)})


def _vectors(array: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """The rows in half precision, null where they hold NaN."""
    mask = pa.array(np.isnan(array).any(axis=1))
    return pa.FixedSizeListArray.from_arrays(pa.array(array.astype(np.float16).ravel()), array.shape[1], mask=mask)


def embed_sets(root: Root, config: ScoreConfig, name: str, marks: dict[str, str], account: Account) -> dict[str, int]:
    """Embed the pictures of evaluation sets, one file a set; the pictures of each.

    `marks` are the fingerprints of the sets by name: those that have not changed are left alone. A set with a picture
    that cannot be read counts in `account` as a failed shard.
    """
    done = {task: root.parquet_metadata("eval_features", name, f"{task}.parquet").get(KEY) for task in marks}
    todo = [(task, mark) for task, mark in marks.items() if done[task] != mark]
    make = partial(_make_set_work, config, name)
    cpus, gpus = worker_size(config)
    for (task, _), result in map_shards(todo, make, cpus=cpus, gpus=gpus, local=config.local):
        if "error" in result:
            account.shards_failed[f"{config.tasks}/{task}"] = result["error"]
            say(f"score: {config.tasks}/{task} failed: {result['error']}")
        else:
            say(f"score: {config.tasks}/{task}: {result['rows']} evaluation pictures")
    there = [task for task in marks if f"{config.tasks}/{task}" not in account.shards_failed]
    tables = [root.read_table("eval_features", name, f"{task}.parquet", columns=["item"]) for task in there]
    return {task: table.num_rows for task, table in zip(there, tables, strict=True)}


def _set_mark(folder: Path, name: str) -> str:
    """Fingerprint of a set's embeddings: the model and every byte that they come from."""
    digest = hashlib.sha256()
    for path in [*eval_files(folder), *sorted(folder.glob("*.txt"))]:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return fingerprint(SCHEMA_VERSION, name, digest.hexdigest())


def _make_set_work(config: ScoreConfig, name: str) -> Work:
    """Load the model once, and return the function that embeds one evaluation set with it."""
    loaded, root = _load(config), Root(config.root)

    def work(item: tuple[str, str]) -> dict[str, Any]:
        task, mark = item
        parts = list(_embedded(loaded, config.batch, inputs(root, config.tasks or "", task)))
        table = pa.concat_tables(parts).combine_chunks()
        root.write_table(table, "eval_features", name, f"{task}.parquet", metadata={KEY: mark})
        return {"rows": table.num_rows}

    return work


def _embedded(loaded: LoadedModel, batch: int, folder: Path) -> Iterator[pa.Table]:
    """Tables of a set's items and embeddings, some thousand pictures each."""
    pictures = eval_pictures(folder)
    schema = eval_features(loaded.embed_dim).arrow
    while block := list(islice(pictures, _BLOCK)):
        items = [item for item, _ in block]
        try:
            images = embed_images(loaded, [data for _, data in block], batch)
        except UnusableItem as error:
            raise InputError(f"{folder}: {items[error.position]}: {error}") from error
        yield pa.Table.from_arrays([pa.array(items, pa.string()), _vectors(images)], schema=schema)


def _load(config: ScoreConfig) -> LoadedModel:
    """The model, ready for nothing but scoring."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(config.model, config.pretrained, precision=config.precision, device=device)
    if device == "cpu":
        pack_layers(loaded.model)
    elif config.compiled:
        compile_layers(loaded.model)
    return loaded


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater score`."""
    return job_main("score", ScoreConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
