"""One run of a study, from its training set to its result; a run that is killed leaves the others as they are."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.ensemble import ensemble
from evaluation.results import Component, RunInfo, write_images, write_results
from evaluation.shifts import Protocol, evaluate_similarities
from evaluation.tasks import Task, load_task
from evaluation.zeroshot import logit_scale, zero_shot
from filters.errors import ConfigError, HeadwaterError, InputError, ModelError, ShardError
from pipelines.engine import Work
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from pipelines.study_config import StudyConfig
from pipelines.study_folder import RUNS, RunRecord, StudyFolder
from pipelines.study_matrix import RunSpec, recipe_of
from pipelines.study_set import device_of, write_set
from trainer.loop import train
from trainer.model import load_model
from trainer.record import finished

BARELY = "barely converged"
_SCALE = 100.0  # of an ensemble's logits: CLIP's largest


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be made: its settings' mark, its learning rate, and the run whose scores choose its samples."""

    spec: RunSpec
    mark: str
    rate: float
    scorer: str | None = None
    among: str = RUNS

    def __str__(self) -> str:
        return self.spec.id


class Runner:
    """Picklable: makes the function that makes one run after another.

    `only` names the evaluation sets that may be looked at; all if None.
    """

    def __init__(self, folder: StudyFolder, config: StudyConfig, only: Sequence[str] | None = None) -> None:
        self.folder, self.config, self.only = folder, config, only

    def __call__(self) -> Work:
        tasks = load_tasks(self.folder.root, self.config, self.only)
        return lambda job: self.make(job, tasks)

    def make(self, job: Job, tasks: Sequence[Task]) -> dict[str, Any]:
        """Train and evaluate, and write what became of it; a run whose training fails is over too."""
        try:
            trained = self.train(job)
        except (ConfigError, InputError, ModelError, ShardError):
            raise  # it could not even be tried, and will be the next time
        except HeadwaterError as error:
            record = RunRecord(spec=job.spec, mark=job.mark, status="failed", reason=str(error))
            self.folder.write_record(record, job.among)
            return {"rows": 1, "counts": {"failed": 1}}
        # Guessing among the pairs of a batch has the logarithm of their number for its loss.
        least = self.config.barely * math.log(self.config.train.batch)
        flags = [BARELY] if self.config.train.loss == "clip" and trained["final_loss"] > least else []
        self._evaluate(job, tasks, trained, flags)
        self.folder.write_record(RunRecord(
            spec=job.spec, mark=job.mark, status="done", flags=flags, final_loss=trained["final_loss"],
        ), job.among)  # fmt: skip
        return {"rows": 1, "counts": {"flagged" if flags else "done": 1}}

    def prepare(self, job: Job) -> None:
        """Write the training set."""
        write_set(self.folder, self.config, job.spec, job.mark, job.scorer, job.among)

    def train(self, job: Job) -> dict[str, Any]:
        """Write the training set and train on it; what is there already is left alone."""
        self.prepare(job)
        recipe = recipe_of(self.config, job.spec, job.rate)
        place = (job.among, job.spec.id)
        shards = self.folder.root.local("shards")
        return train(
            self.folder.local(*place, "manifest.parquet"), shards, self.folder.local(*place, "model"), recipe
        )

    def _evaluate(self, job: Job, tasks: Sequence[Task], trained: Mapping[str, Any], flags: list[str]) -> None:
        place, names = (job.among, job.spec.id), [task.name for task in tasks]
        loaded = load_model(str(self.folder.local(*place, "model")), device=device_of(self.config))
        for task, scores in zip(tasks, zero_shot(loaded, tasks), strict=True):
            self.folder.write_logits(job.spec.id, task.name, scores.astype(np.float16), job.among)
        # Figures come from what is kept, so that an ensemble of one model is that model.
        scores_kept = self.folder.read_logits(job.spec.id, names, job.among)
        lock = self.folder.read(*place, "mix.lock.json")
        info = replace(
            run_info(self.config, job.spec), flags=flags, arch=fingerprint(trained["architecture"]),
            epochs=round(trained["samples_seen"] / job.spec.samples, 3), samples_seen=trained["samples_seen"],
            batch=self.config.train.batch, lr=job.rate, data_manifest_hash=lock["digest"],
            filter=filter_of(job.spec, lock["choice"]),
        )  # fmt: skip
        found = evaluate_similarities(
            info, tasks, scores_kept, self.config.reference, protocol=Protocol(ways=self.config.ways),
            scale=logit_scale(loaded),
        )  # fmt: skip
        write_images(self.folder.local(*place, "images.parquet"), found.images)
        write_results(self.folder.local(*place, "result.jsonl"), [found.result])


def make_ensemble(folder: StudyFolder, config: StudyConfig, job: Job, tasks: Sequence[Task]) -> dict[str, Any]:
    """An output mixture from its members' cached logits; nothing is trained. InputError where they cannot be read."""
    spec = job.spec
    members = [record for member in spec.members if (record := folder.record(member))]
    flags = sorted({flag for record in members for flag in record.flags})
    names = [task.name for task in tasks]
    each = [folder.read_logits(member, names) for member in spec.members]
    scores = {name: ensemble([one[name] for one in each], spec.weights) for name in names}
    seen = [done["samples_seen"] for m in spec.members if (done := finished(folder.local(RUNS, m, "model")))]
    info = replace(
        run_info(config, spec), flags=flags, samples_seen=sum(seen), batch=config.train.batch, lr=job.rate,
        ensemble={"members": ",".join(spec.members), "weights": spec.weights, "space": "logits"},
    )  # fmt: skip
    found = evaluate_similarities(
        info, tasks, scores, config.reference, protocol=Protocol(ways=config.ways), scale=_SCALE
    )
    write_images(folder.local(RUNS, spec.id, "images.parquet"), found.images)
    write_results(folder.local(RUNS, spec.id, "result.jsonl"), [found.result])
    folder.write_record(RunRecord(spec=spec, mark=job.mark, status="done", flags=flags))
    return {"rows": 1, "counts": {"flagged" if flags else "done": 1}}


def load_tasks(root: Root, config: StudyConfig, only: Sequence[str] | None = None) -> list[Task]:
    """The study's evaluation sets, or those named, the reference first; InputError where that is not there."""
    names = sorted(root.names(config.tasks), key=lambda name: name != config.reference)
    if config.reference not in names:
        there = ", ".join(names) or "nothing"
        raise InputError(f"{root.url}/{config.tasks}: no reference set {config.reference!r}; there is {there}")
    return [load_task(root.local(config.tasks, name)) for name in names if only is None or name in only]


def run_info(config: StudyConfig, spec: RunSpec) -> RunInfo:
    """What is known of a run by its specification."""
    families = {config.families[source] for source in spec.counts if source in config.families}
    return RunInfo(
        run_id=spec.id,
        kind=spec.kind,
        components=[Component(source=source, n=n, seed=spec.seed) for source, n in spec.counts.items()],
        n_total=spec.samples,
        seed=spec.seed,
        code_version=importlib.metadata.version("headwater"),
        families=sorted(families),
    )


def filter_of(spec: RunSpec, chosen: Mapping[str, Any] | None) -> dict[str, str | float | None] | None:
    """What a result says of how its samples were chosen: its half of the source, and the scorer's part."""
    if spec.half is None:
        return None
    numbers = {"half": spec.half + 1, **(chosen or {"scorer": None})}
    return {name: float(value) if isinstance(value, int) else value for name, value in numbers.items()}
