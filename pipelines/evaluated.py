"""The models that are evaluated: trained here, named by the user, or known by embeddings that they made elsewhere."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evaluation.cache import FeatureCache
from evaluation.embeddings import Embeddings, ModelEmbeddings
from evaluation.results import Component, RunInfo
from filters.errors import ConfigError, InputError
from pipelines.config import JobConfig
from pipelines.evaluation_sets import Loaded, SetConfig, Sets
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from trainer.model import LoadedModel, load_model
from trainer.record import finished


class ModelsConfig(JobConfig):
    """Which models, and on which sets."""

    models: list[str] = Field([], description="names of trained models; all under <root>/models if empty")
    checkpoint: str | None = Field(
        None, description="a model that was not trained here instead: an open_clip name, a model folder, hf-hub:..."
    )
    pretrained: str | None = Field(None, description="its weights: a tag of open_clip or a file")
    embeddings: str | None = Field(
        None, description="no model and no pictures: a file or folder of saved embeddings (docs/evaluation.md)"
    )
    name: str | None = Field(
        None, description="name of the result, with checkpoint or embeddings; theirs if not given"
    )
    tasks: str = Field("eval", description="folder under the root of sets in CLIP_benchmark's layout; '' for none")
    sets: dict[str, SetConfig] = Field(
        {}, description="other sets by name, each {kind: ..., path: ...} (docs/evaluation.md)"
    )
    datasets: str = Field("", description="folder that relative paths of `sets` start in; the current one if empty")
    device: str = Field("cpu", description="cpu or cuda")
    cpus: float = Field(1.0, gt=0, description="CPUs a model")
    gpus: float = Field(0.0, ge=0, description="GPUs a model")


def sets_of(root: Root, config: ModelsConfig) -> Sets:
    """The sets that the configuration asks for."""
    return Sets(root, config.tasks, config.sets, config.datasets, config.embeddings)


class Models:
    """The models that the configuration asks for, by the name that their results have."""

    def __init__(self, root: Root, config: ModelsConfig) -> None:
        self.root, self.config = root, config

    @functools.cached_property
    def names(self) -> list[str]:
        """Names; ConfigError for two ways to say which, InputError for a trained model that is not there."""
        config = self.config
        given = {"models": config.models, "checkpoint": config.checkpoint, "embeddings": config.embeddings}
        ways = [way for way, value in given.items() if value]
        if len(ways) > 1:
            raise ConfigError(f"{ways[1]}: {' and '.join(ways)} are two things; give one")
        if self._foreign:
            return [re.sub(r"[^\w.-]+", "_", config.name or self._own_name())]
        if config.name is not None:
            raise ConfigError("name: models trained here have theirs; it is for checkpoint and embeddings")
        root = self.root
        known = [name for name in root.names("models") if finished(root.local("models", name))]
        missing = sorted(set(config.models) - set(known))
        if missing or not known:
            raise InputError(
                f"{root.url}/models: no model {', '.join(missing) or 'yet'}; run `headwater train` first"
            )
        return list(dict.fromkeys(config.models)) or known

    def source(self, name: str, sets: Loaded) -> Embeddings:
        """Where the model's embeddings come from; ModelError for one that cannot be loaded."""
        if sets.saved is not None:
            return sets.saved
        return ModelEmbeddings(self._load(name), FeatureCache(self.root.local("eval_cache")))

    def info(self, name: str, source: Embeddings, families: dict[str, str]) -> RunInfo:
        """What is known of a model; `families` of a source make those of the model."""
        if not self._foreign:
            return run_info(self.root, name, families)
        loaded, version = source.loaded, importlib.metadata.version("headwater")
        if loaded is None:
            return RunInfo(run_id=name, kind="external", model=str(self.config.embeddings), code_version=version)
        return RunInfo(run_id=name, kind="external", model=loaded.name, arch=loaded.fingerprint, code_version=version)

    def origin(self, name: str) -> list[Any]:
        """What a model is: its training and its mixture, or what it was asked for by."""
        if self.config.embeddings is not None:
            return [name]  # the sets' digests say the rest
        if self.config.checkpoint is not None:
            return [self.config.checkpoint, self.config.pretrained]
        trained = finished(self.root.local("models", name)) or {}
        lock = self.root.read_json("mixes", name, "mix.lock.json")
        return [trained.get("fingerprint"), lock["config"], lock["sources"]]

    @property
    def _foreign(self) -> bool:
        return self.config.checkpoint is not None or self.config.embeddings is not None

    def _own_name(self) -> str:
        if self.config.embeddings is not None:
            return Path(self.config.embeddings).expanduser().absolute().stem
        tag = "" if self.config.pretrained is None else f"-{Path(self.config.pretrained).stem}"
        return f"{str(self.config.checkpoint).rstrip('/').rpartition('/')[2]}{tag}"

    def _load(self, name: str) -> LoadedModel:
        if self.config.checkpoint is not None:
            return load_model(self.config.checkpoint, self.config.pretrained, device=self.config.device)
        return load_model(str(self.root.local("models", name)), device=self.config.device)


def run_info(root: Root, name: str, families: dict[str, str]) -> RunInfo:
    """What a model was made from, by its mixture's lock file and its training record."""
    lock = root.read_json("mixes", name, "mix.lock.json")
    trained = finished(root.local("models", name)) or {}
    recipe = trained["config"]
    parts = [part for part in lock["sources"] if part["got"]]
    return RunInfo(
        run_id=name,
        kind=_kind(lock["config"], len(parts)),
        components=[Component(source=p["source"], n=p["got"], seed=lock["config"]["seed"]) for p in parts],
        n_total=lock["samples"],
        arch=fingerprint(trained["architecture"]),
        epochs=round(trained["samples_seen"] / lock["samples"], 3),
        samples_seen=trained["samples_seen"],
        batch=recipe["batch"],
        lr=recipe["lr"],
        seed=recipe["seed"],
        data_manifest_hash=lock["digest"],
        code_version=importlib.metadata.version("headwater"),
        families=sorted({families[p["source"]] for p in parts if p["source"] in families}),
    )


def _kind(mix: dict[str, Any], sources: int) -> Literal["single", "input_mix", "filtered"]:
    """What the study calls a training set: filtered as soon as any condition chooses among its samples."""
    rules = [part[rule] for part in (mix, *mix["sources"]) for rule in ("where", "top_fraction")]
    if any(rules):
        return "filtered"
    return "single" if sources == 1 else "input_mix"
