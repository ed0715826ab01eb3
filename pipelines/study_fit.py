"""What a study chooses by the fit half of the concepts: its learning rate, and for a filter the best scorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from evaluation.halves import in_half
from evaluation.lines import to_axis
from evaluation.results import ALL_CLASSES, read_images
from filters.errors import HeadwaterError
from pipelines.study_config import StudyConfig
from pipelines.study_folder import RUNS, StudyFolder
from pipelines.study_matrix import RunSpec, Supply, rate_spec
from pipelines.study_run import Job
from pipelines.study_settings import mark_of

RATE, RATES, BEST = "rate.json", "rates", "best.json"


def fit_accuracy(folder: StudyFolder, run: str, task: str, concepts: str, among: str = RUNS) -> tuple[float, int]:
    """Expected k-way accuracy 0 to 1 over a set's pictures of the fit half, and their number.

    `concepts` is the column of that name: `all`, or the set whose classes are shared.
    """
    table = read_images(folder.local(among, run, "images.parquet"))
    table = table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["concepts"], concepts)))
    values = table["expected_accuracy"].to_numpy()[in_half(table["concept"].to_pylist(), "fit")]
    return (float(values.mean()) if len(values) else 0.0), len(values)


def rate_jobs(config: StudyConfig, found: Supply, settings: str) -> list[Job]:
    """A trial of each learning rate on the even mixture, apart from the study's runs."""
    spec = rate_spec(config, found)
    named = [(spec.model_copy(update={"id": f"rate-{rate:g}"}), rate) for rate in config.rates]
    return [Job(one, mark_of(one, rate, settings), rate, among=RATES) for one, rate in named]


def choose_rate(folder: StudyFolder, config: StudyConfig, jobs: Sequence[Job], make: Callable[[], None]) -> float:
    """The learning rate: the recipe's where none are to be tried, else the one chosen before, else the best trial's.

    `make` makes the trials. A trial that diverged has no accuracy; of equals the lower rate is chosen. HeadwaterError
    where no trial has a result.
    """
    if not jobs:
        return config.train.lr
    if folder.exists(RATE):
        return float(folder.read(RATE)["chosen"])
    make()
    values: dict[float, float | None] = {}
    for job in jobs:
        done = folder.record(job.spec.id, RATES)
        if done is None:
            raise HeadwaterError(f"study: the trial {job.spec.id} did not end; start the study again")
        accuracy = (
            fit_accuracy(folder, job.spec.id, config.reference, ALL_CLASSES, RATES)[0] if not done.reason else None
        )
        values[job.rate] = accuracy
    there = {rate: value for rate, value in values.items() if value is not None}
    if not there:
        raise HeadwaterError("study: no learning rate of `rates` trains; try lower ones in another `folder`")
    chosen = max(sorted(there), key=lambda rate: there[rate])
    folder.write({
        "chosen": chosen, "set": config.reference, "half": "fit",
        "figure": f"expected {config.ways}-way accuracy of the even mixture, {jobs[0].spec.samples} samples",
        "trials": [{"rate": rate, "value": value} for rate, value in sorted(values.items())],
        "at_edge": chosen in (min(config.rates), max(config.rates)) and len(config.rates) > 1,
    }, RATE)  # fmt: skip
    return chosen


def best_scorer(folder: StudyFolder, config: StudyConfig, spec: RunSpec, shifts: Sequence[str]) -> str:
    """Which of a filtered run's possible scorers chooses: the run of the source that stands highest, found once.

    A source's height is its shifted accuracy less its reference accuracy in probits, over shifts and seeds, at full
    size and on the fit half of the concepts. HeadwaterError where no other source has a full-size run.
    """
    assert spec.choice is not None
    own = next(iter(spec.counts))
    known: dict[str, Any] = folder.read(BEST) if folder.exists(BEST) else {}
    if own not in known:
        heights = _heights(folder, config, shifts)
        others = {source: height for source, height in heights.items() if source != own}
        if not others:
            raise HeadwaterError(f"study: {spec.id}: no other source has a full-size run to score with")
        best = max(others, key=lambda source: others[source])
        higher = own in heights and others[best] > heights[own]
        known[own] = {"source": best, "is_higher": higher, "half": "fit", "heights": heights}
        folder.write(known, BEST)
    chosen = str(known[own]["source"])
    return next(run for run in spec.choice.scorers if run.startswith(f"{chosen}-n"))


def _heights(folder: StudyFolder, config: StudyConfig, shifts: Sequence[str]) -> dict[str, float]:
    """Mean difference of probits of each source's largest single-source runs that are done."""
    runs: dict[str, dict[int, list[str]]] = {}
    for record in folder.records():
        if record.spec.kind == "single" and record.status == "done":
            (source, size), = record.spec.counts.items()  # fmt: skip
            if record.spec.id.startswith(f"{source}-n"):
                runs.setdefault(source, {}).setdefault(size, []).append(record.spec.id)
    full = {source: by_size[max(by_size)] for source, by_size in sorted(runs.items())}
    return {
        source: float(np.mean([_height(folder, config, run, shift) for run in names for shift in shifts]))
        for source, names in full.items()
    }


def _height(folder: StudyFolder, config: StudyConfig, run: str, shift: str) -> float:
    (y, n), (x, m) = (fit_accuracy(folder, run, task, shift) for task in (shift, config.reference))
    return float(to_axis(y, images=max(1, n)) - to_axis(x, images=max(1, m)))


def choices(folder: StudyFolder) -> Mapping[str, Any]:
    """What was chosen so far: `rate` and `best`, as their files have it."""
    return {name.removesuffix(".json"): folder.read(name) for name in (RATE, BEST) if folder.exists(name)}
