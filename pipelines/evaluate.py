"""Models to results: figures on a reference set and on its shifts, one model a task.

headwater evaluate --root data --tasks eval --reference imagenet
headwater evaluate --root data --reference imagenet --method zero_shot,tpt,umfc --models even
headwater evaluate --root data --reference imagenet --checkpoint ViT-B-32 --pretrained laion2b_s34b_b79k
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from evaluation.cache import FeatureCache
from evaluation.compare import compare
from evaluation.methods import Method, TestTime, scale_of, scores_of
from evaluation.results import ALL_CLASSES, Component, RunInfo, read_images, write_images, write_results
from evaluation.shifts import Evaluation, Protocol, evaluate_similarities
from evaluation.tasks import Task, load_task
from filters.errors import ConfigError, InputError
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from trainer.model import LoadedModel, load_model
from trainer.record import finished

_FORM = 2  # of what is written; another number, and models are evaluated again


class EvaluateConfig(JobConfig):
    """Which models, on what, and how."""

    models: list[str] = Field([], description="names of trained models; all under <root>/models if empty")
    checkpoint: str | None = Field(
        None, description="a model that was not trained here instead: an open_clip name, a model folder, hf-hub:..."
    )
    pretrained: str | None = Field(None, description="its weights: a tag of open_clip or a file")
    method: list[str] = Field(["zero_shot"], description="any of zero_shot, tpt and umfc")
    test_time: TestTime = Field(default_factory=TestTime, description="settings of tpt and umfc")
    tasks: str = Field("eval", description="folder of evaluation sets in CLIP_benchmark's layout, under the root")
    reference: str = Field(description="name of the set that plays the part of ImageNet")
    ways: int = Field(100, ge=2, description="k of the expected k-way accuracy")
    families: dict[str, str] = Field({}, description="source to artist or origin, to mark cells where both agree")
    device: str = Field("cpu", description="cpu or cuda")
    cpus: float = Field(1.0, gt=0, description="CPUs a model")
    gpus: float = Field(0.0, ge=0, description="GPUs a model")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate models on every set by each method; results that are there already are left alone."""
    root, account = Root(config.root), Account("evaluate")
    names = _names(root, config)
    todo = [name for name in names if not _is_done(root, name, config)]
    account.shards_skipped = len(names) - len(todo)
    say(f"evaluate: {len(todo)} models to do, {account.shards_skipped} done before")
    done = map_shards(todo, _Evaluator(root, config), cpus=config.cpus, gpus=config.gpus, local=config.local)
    for name, result in done:
        record(account, name, result, len(todo))
    account.check(config.max_failed_fraction)
    if len(config.method) > 1:
        account.extra["methods"] = {name: side_by_side(root, name, config.method) for name in names}
        _print_table(account.extra["methods"])
    return account.summary()


def plan(config: EvaluateConfig) -> dict[str, Any]:
    """Which models would be evaluated."""
    root = Root(config.root)
    return {"models": [name for name in _names(root, config) if not _is_done(root, name, config)]}


def result_path(root: Root, name: str, method: str = "zero_shot") -> Path:
    """Where a model's result is: one JSON line in the study's schema."""
    return root.local("results", f"{_run_id(name, method)}.jsonl")


def images_path(root: Root, name: str, method: str = "zero_shot") -> Path:
    """Where the pictures behind a result are: schema `evaluation.results.IMAGES`."""
    return root.local("results", f"{_run_id(name, method)}.images.parquet")


def side_by_side(root: Root, name: str, methods: Sequence[str]) -> dict[str, Any]:
    """By set: each method's figure, and for all but the first the paired difference to it with its interval."""
    first = read_images(images_path(root, name, methods[0]))
    found: dict[str, Any] = {}
    for method in methods[1:]:
        for one in compare(first, read_images(images_path(root, name, method))):
            if one.concepts in (ALL_CLASSES, one.task):  # a shift is scored among the classes that it shares
                row = found.setdefault(one.task, {methods[0]: {"value": one.a, "n": one.n}})
                row[method] = {"value": one.b, "difference": one.difference, "low": one.low, "high": one.high,
                               "p_holm": one.p_holm}  # fmt: skip
    return found


def _print_table(found: dict[str, dict[str, Any]]) -> None:
    for name, sets in found.items():
        for task, row in sets.items():
            parts = [
                f"{method} {100 * cell['value']:.1f}"
                + (f" ({100 * cell['difference']:+.1f}, {100 * cell['low']:+.1f} to {100 * cell['high']:+.1f})"
                   if "difference" in cell else "")
                for method, cell in row.items()
            ]  # fmt: skip
            say(f"evaluate: {name}: {task}: {', '.join(parts)}")


class _Evaluator:
    """Picklable: makes the function that evaluates one model."""

    def __init__(self, root: Root, config: EvaluateConfig) -> None:
        self.root, self.config = root, config

    def __call__(self) -> Work:
        tasks = [load_task(folder) for folder in _task_folders(self.root, self.config)]
        return lambda name: self.evaluate(name, tasks)

    def evaluate(self, name: str, tasks: Sequence[Task]) -> dict[str, Any]:
        """One model on all sets by all methods; `rows` are pictures, once a method."""
        config, loaded = self.config, self._load(name)
        cache = FeatureCache(self.root.local("eval_cache"))
        info = run_info(self.root, name, config.families) if config.checkpoint is None else _foreign(name, loaded)
        for method in config.method:
            if not _is_done(self.root, name, config.model_copy(update={"method": [method]})):
                scores = scores_of(method, loaded, tasks, config.test_time, cache)  # type: ignore[arg-type]
                as_method = replace(info, run_id=_run_id(name, method))
                found = evaluate_similarities(
                    as_method, tasks, scores, config.reference, protocol=Protocol(ways=config.ways),
                    scale=scale_of(method, loaded),  # type: ignore[arg-type]
                )  # fmt: skip
                self._write(name, method, found)
        pictures = sum(len(task.images) for task in tasks) * len(config.method)
        return {"rows": pictures, "counts": {"evaluated": pictures}}

    def _load(self, name: str) -> LoadedModel:
        if self.config.checkpoint is not None:
            return load_model(self.config.checkpoint, self.config.pretrained, device=self.config.device)
        return load_model(str(self.root.local("models", name)), device=self.config.device)

    def _write(self, name: str, method: str, found: Evaluation) -> None:
        write_images(images_path(self.root, name, method), found.images)
        write_results(result_path(self.root, name, method), [found.result])
        mark = _mark(self.root, name, self.config, method)
        self.root.write_json(mark, "results", f"{_run_id(name, method)}.mark.json")


def _run_id(name: str, method: str) -> str:
    return name if method == "zero_shot" else f"{name}+{method}"


def _foreign(name: str, loaded: LoadedModel) -> RunInfo:
    """A model of which nothing is known but what it is."""
    return RunInfo(
        run_id=name, kind="external", model=loaded.name, arch=loaded.fingerprint,
        code_version=importlib.metadata.version("headwater"),
    )  # fmt: skip


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


def _names(root: Root, config: EvaluateConfig) -> list[str]:
    if unknown := set(config.method) - set(get_args(Method)):
        raise ConfigError(f"method: {', '.join(sorted(unknown))} is not known; use {', '.join(get_args(Method))}")
    if not config.method:
        raise ConfigError("method: name at least one of " + ", ".join(get_args(Method)))
    if config.checkpoint is not None:
        if config.models:
            raise ConfigError("checkpoint: a model that was not trained here and `models` are two things; give one")
        tag = "" if config.pretrained is None else f"-{Path(config.pretrained).stem}"
        return [re.sub(r"[^\w.-]+", "_", f"{config.checkpoint.rstrip('/').rpartition('/')[2]}{tag}")]
    known = [name for name in root.names("models") if finished(root.local("models", name))]
    missing = sorted(set(config.models) - set(known))
    if missing or not known:
        raise InputError(f"{root.url}/models: no model {', '.join(missing) or 'yet'}; run `headwater train` first")
    return list(dict.fromkeys(config.models)) or known


def _task_folders(root: Root, config: EvaluateConfig) -> list[Path]:
    folders = [root.local(config.tasks, name) for name in root.names(config.tasks)]
    if config.reference not in [folder.name for folder in folders]:
        there = ", ".join(folder.name for folder in folders) or "nothing"
        raise InputError(f"{root.url}/{config.tasks}: no reference set {config.reference!r}; there is {there}")
    return folders


def _mark(root: Root, name: str, config: EvaluateConfig, method: str = "zero_shot") -> str:
    """Fingerprint of a result: the model, what it was made from, the sets, the protocol and the method."""
    files = [file for folder in _task_folders(root, config) for file in sorted(folder.rglob("*")) if file.is_file()]
    base = root.local(config.tasks)
    made_from = [(str(f.relative_to(base)), _digest(f)) for f in files]
    by_method = [] if method == "zero_shot" else [method, config.test_time.model_dump()]
    return fingerprint(
        _FORM, _origin(root, name, config), made_from, config.reference, config.ways, config.families, *by_method
    )


def _origin(root: Root, name: str, config: EvaluateConfig) -> list[Any]:
    """What a model is: its training and its mixture, or the name it was asked for by."""
    if config.checkpoint is not None:
        return [config.checkpoint, config.pretrained]
    trained = finished(root.local("models", name)) or {}
    lock = root.read_json("mixes", name, "mix.lock.json")
    return [trained.get("fingerprint"), lock["config"], lock["sources"]]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_done(root: Root, name: str, config: EvaluateConfig) -> bool:
    for method in config.method:
        mark = f"{_run_id(name, method)}.mark.json"
        if not (root.exists("results", mark) and result_path(root, name, method).exists()):
            return False
        if root.read_json("results", mark) != _mark(root, name, config, method):
            return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater evaluate`."""
    return job_main("evaluate", EvaluateConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
