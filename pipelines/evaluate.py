"""Models to results: figures on a reference set and on its shifts, and retrieval, one model a task.

headwater evaluate --root data --tasks eval --reference imagenet
headwater evaluate --root data --reference imagenet --method zero_shot,tpt,umfc --models even
headwater evaluate --root data --reference imagenet --checkpoint ViT-B-32 --pretrained laion2b_s34b_b79k
headwater evaluate --config configs/eval/imagenet_shifts.yaml --datasets /data --checkpoint ViT-B-32 --pretrained FILE
headwater evaluate --root data --reference imagenet --embeddings made/elsewhere
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from evaluation.captions import Captioned
from evaluation.compare import compare
from evaluation.embeddings import Embeddings
from evaluation.methods import Method, TestTime, prepare, scale_of, scores_of
from evaluation.results import (
    ALL_CLASSES,
    IMAGES,
    Result,
    RetrievalResult,
    read_images,
    write_images,
    write_results,
)
from evaluation.retrieval import recall_figures
from evaluation.saved import write_captioned_embeddings, write_task_embeddings
from evaluation.shifts import Evaluation, Protocol, evaluate_similarities
from filters.errors import ConfigError
from pipelines.engine import Work, map_shards, record
from pipelines.evaluated import Models, ModelsConfig, sets_of
from pipelines.evaluation_sets import Loaded
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root

_FORM = 2  # of what is written; another number, and models are evaluated again


class EvaluateConfig(ModelsConfig):
    """Which models, on what, and how."""

    method: list[str] = Field(["zero_shot"], description="any of zero_shot, tpt and umfc")
    test_time: TestTime = Field(default_factory=TestTime, description="settings of tpt and umfc")
    reference: str | None = Field(
        None, description="name of the set that plays the part of ImageNet; not needed for a single set"
    )
    ways: int = Field(100, ge=2, description="k of the expected k-way accuracy")
    families: dict[str, str] = Field({}, description="source to artist or origin, to mark cells where both agree")
    save_embeddings: str | None = Field(
        None, description="also write <folder>/<model>/<set>.npz, which --embeddings reads"
    )


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate models on every set by each method; results that are there already are left alone."""
    job, account = _Job(config), Account("evaluate")
    if job.todo:
        job.sets.check()
    account.shards_skipped = len(job.names) - len(job.todo)
    say(f"evaluate: {len(job.todo)} models to do, {account.shards_skipped} done before")
    _prepare(job)
    for name, result in map_shards(job.todo, job, cpus=config.cpus, gpus=config.gpus, local=config.local):
        record(account, name, result, len(job.todo))
    account.check(config.max_failed_fraction)
    if len(config.method) > 1 and job.sets.names:
        account.extra["methods"] = {name: side_by_side(job.root, name, config.method) for name in job.names}
        _print_table(account.extra["methods"])
    return account.summary()


def _prepare(job: _Job) -> None:
    """Spread what takes time over models and sets; what fails here fails again, and is told, with its model."""
    parts = [(name, task) for name in job.todo for task in job.sets.names]
    if len(job.sets.names) > 1 and job.config.embeddings is None:
        config = job.config
        for _ in map_shards(parts, job.preparing, cpus=config.cpus, gpus=config.gpus, local=config.local):
            pass


def plan(config: EvaluateConfig) -> dict[str, Any]:
    """Which models would be evaluated, and on which sets."""
    job = _Job(config)
    job.sets.check()
    return {"models": job.todo, "sets": job.sets.names, "retrieval": job.sets.retrieval}


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


def _run_id(name: str, method: str) -> str:
    return name if method == "zero_shot" else f"{name}+{method}"


def _retrieval(source: Embeddings, captioned: Captioned) -> RetrievalResult:
    figures = recall_figures(source.images(captioned), source.captions(captioned), captioned.owner)
    return RetrievalResult(
        n=len(captioned.images),
        captions=len(captioned.owner),
        metrics={name: value for name, (value, _, _) in figures.items()},
        intervals={name: (low, high) for name, (_, low, high) in figures.items()},
    )


def _checked(config: EvaluateConfig) -> None:
    if unknown := set(config.method) - set(get_args(Method)):
        raise ConfigError(f"method: {', '.join(sorted(unknown))} is not known; use {', '.join(get_args(Method))}")
    if not config.method:
        raise ConfigError("method: name at least one of " + ", ".join(get_args(Method)))
    if config.embeddings is not None and "tpt" in config.method:
        raise ConfigError("method: tpt tunes a model's prompt on pictures; embeddings are neither, leave it out")
    if config.embeddings is not None and config.save_embeddings is not None:
        raise ConfigError("save_embeddings: they are saved already; name a model to make some with")


class _Job:
    """What a run evaluates on what: picklable, and called in a worker makes the function that evaluates one model."""

    def __init__(self, config: EvaluateConfig) -> None:
        _checked(config)
        self.root, self.config = Root(config.root), config
        self.models, self.sets = Models(self.root, config), sets_of(self.root, config)
        self.names = self.models.names
        self.reference = self.sets.reference(config.reference)
        given = config.save_embeddings
        self.folder = None if given is None else Path(given).expanduser().absolute()

    @functools.cached_property
    def todo(self) -> list[str]:
        """Models that have not all results and embeddings, or not from these sets."""
        return [name for name in self.names if self._left(name) or not self._is_saved(name)]

    def __call__(self) -> Work:
        loaded = self.sets.load()
        return lambda name: self._evaluate(name, loaded)

    def preparing(self) -> Work:
        """In a worker: the function that fills the cache for one model and set."""
        sets, last = self.sets.load(), dict[str, Embeddings]()
        tasks = {task.name: task for task in sets.tasks}

        def work(part: tuple[str, str]) -> dict[str, Any]:
            name, task = part
            if name not in last:
                last.clear()
                last[name] = self.models.source(name, sets)
            prepare(self._left(name), last[name], tasks[task], self.config.test_time)
            return {}

        return work

    def _evaluate(self, name: str, sets: Loaded) -> dict[str, Any]:
        """One model on all sets by all methods; `rows` are pictures, once a method."""
        config, source = self.config, self.models.source(name, sets)
        info = self.models.info(name, source, config.families)
        if self.folder is not None:
            for task in sets.tasks:
                write_task_embeddings(self.folder / name, task, source)
            for captioned in sets.captioned:
                write_captioned_embeddings(self.folder / name, captioned, source)
        for method in self._left(name):
            as_method = replace(info, run_id=_run_id(name, method))
            known = {field.name: getattr(as_method, field.name) for field in fields(as_method)}
            found = Evaluation(Result(**known, eval={}), IMAGES.empty_table())
            if sets.tasks:
                scores = scores_of(method, source, sets.tasks, config.test_time)
                found = evaluate_similarities(
                    as_method, sets.tasks, scores, self.reference,
                    protocol=Protocol(ways=config.ways), scale=scale_of(method, source), alone=self.sets.alone,
                )  # fmt: skip
            retrieval = {one.name: _retrieval(source, one) for one in sets.captioned} if method == "zero_shot" else {}
            self._write(name, method, replace(found, result=replace(found.result, retrieval=retrieval)))
        pictures = sum(len(task.images) for task in sets.tasks) * len(config.method)
        pictures += sum(len(captioned.images) for captioned in sets.captioned)
        return {"rows": pictures, "counts": {"evaluated": pictures}}

    def _write(self, name: str, method: str, found: Evaluation) -> None:
        write_images(images_path(self.root, name, method), found.images)
        write_results(result_path(self.root, name, method), [found.result])
        self.root.write_json(self._mark(name, method), "results", f"{_run_id(name, method)}.mark.json")

    def _left(self, name: str) -> list[Method]:
        """The methods whose result is not there, or is of something else."""
        return [method for method in self.config.method if not self._is_done(name, method)]  # type: ignore[misc]

    def _is_done(self, name: str, method: str) -> bool:
        mark = f"{_run_id(name, method)}.mark.json"
        if not (self.root.exists("results", mark) and result_path(self.root, name, method).exists()):
            return False
        return bool(self.root.read_json("results", mark) == self._mark(name, method))

    def _is_saved(self, name: str) -> bool:
        every = (*self.sets.names, *self.sets.retrieval)
        return self.folder is None or all((self.folder / name / f"{one}.npz").is_file() for one in every)

    def _mark(self, name: str, method: str) -> str:
        """Fingerprint of a result: the model, what it was made from, the sets, the protocol and the method."""
        config = self.config
        by_method = [] if method == "zero_shot" else [method, config.test_time.model_dump()]
        return fingerprint(
            _FORM,
            self.models.origin(name),
            self.sets.made_from,
            self.reference,
            config.ways,
            config.families,
            *by_method,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater evaluate`."""
    return job_main("evaluate", EvaluateConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
