"""Models to results: zero-shot figures on a reference set and on its shifts, one model a task.

headwater evaluate --root data --tasks eval --reference imagenet
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evaluation.results import Component, RunInfo, write_images, write_results
from evaluation.shifts import Protocol, evaluate_model
from evaluation.tasks import Task, load_task
from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from trainer.model import load_model
from trainer.record import finished


class EvaluateConfig(JobConfig):
    """Which models, on what."""

    models: list[str] = Field([], description="names of trained models; all under <root>/models if empty")
    tasks: str = Field("eval", description="folder of evaluation sets in CLIP_benchmark's layout, under the root")
    reference: str = Field(description="name of the set that plays the part of ImageNet")
    ways: int = Field(100, ge=2, description="k of the expected k-way accuracy")
    families: dict[str, str] = Field({}, description="source to artist or origin, to mark cells where both agree")
    device: str = Field("cpu", description="cpu or cuda")
    cpus: float = Field(1.0, gt=0, description="CPUs a model")
    gpus: float = Field(0.0, ge=0, description="GPUs a model")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate every trained model on every set; results that are there already are left alone."""
    root, account = Root(config.root), Account("evaluate")
    names = _names(root, config)
    todo = [name for name in names if not _is_done(root, name, config)]
    account.shards_skipped = len(names) - len(todo)
    say(f"evaluate: {len(todo)} models to do, {account.shards_skipped} done before")
    done = map_shards(todo, _Evaluator(root, config), cpus=config.cpus, gpus=config.gpus, local=config.local)
    for name, result in done:
        record(account, name, result, len(todo))
    account.check(config.max_failed_fraction)
    return account.summary()


def plan(config: EvaluateConfig) -> dict[str, Any]:
    """Which models would be evaluated."""
    root = Root(config.root)
    return {"models": [name for name in _names(root, config) if not _is_done(root, name, config)]}


def result_path(root: Root, name: str) -> Path:
    """Where a model's result is: one JSON line in the study's schema."""
    return root.local("results", f"{name}.jsonl")


class _Evaluator:
    """Picklable: makes the function that evaluates one model."""

    def __init__(self, root: Root, config: EvaluateConfig) -> None:
        self.root, self.config = root, config

    def __call__(self) -> Work:
        tasks = [load_task(folder) for folder in _task_folders(self.root, self.config)]
        return lambda name: self.evaluate(name, tasks)

    def evaluate(self, name: str, tasks: Sequence[Task]) -> dict[str, Any]:
        """One model on all sets; `rows` are pictures."""
        loaded = load_model(str(self.root.local("models", name)), device=self.config.device)
        found = evaluate_model(
            loaded, run_info(self.root, name, self.config.families), tasks, self.config.reference,
            protocol=Protocol(ways=self.config.ways),
        )  # fmt: skip
        write_images(self.root.local("results", f"{name}.images.parquet"), found.images)
        write_results(result_path(self.root, name), [found.result])
        self.root.write_json(_mark(self.root, name, self.config), "results", f"{name}.mark.json")
        pictures = sum(len(task.images) for task in tasks)
        return {"rows": pictures, "counts": {"evaluated": pictures}}


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


def _mark(root: Root, name: str, config: EvaluateConfig) -> str:
    """Fingerprint of a result: the model, what it was made from, the sets and the protocol."""
    trained = finished(root.local("models", name)) or {}
    files = [file for folder in _task_folders(root, config) for file in sorted(folder.rglob("*")) if file.is_file()]
    base = root.local(config.tasks)
    made_from = [(str(f.relative_to(base)), _digest(f)) for f in files]
    lock = root.read_json("mixes", name, "mix.lock.json")
    recipe = [trained.get("fingerprint"), lock["config"], lock["sources"]]
    return fingerprint(recipe, made_from, config.reference, config.ways, config.families)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_done(root: Root, name: str, config: EvaluateConfig) -> bool:
    if not (root.exists("results", f"{name}.mark.json") and result_path(root, name).exists()):
        return False
    return bool(root.read_json("results", f"{name}.mark.json") == _mark(root, name, config))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater evaluate`."""
    return job_main("evaluate", EvaluateConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
