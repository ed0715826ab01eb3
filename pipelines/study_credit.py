"""Credit of robustness to a study's sources: every ensemble of their largest models, beside leaving one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from evaluation.classes import shared_classes, subset
from evaluation.credit import Cached, Credit, Value, agreement, credits, leave_one_out, play
from evaluation.draws import Estimate, Panel, Refusal
from evaluation.ensemble import Features
from evaluation.lines import Line, line_through
from evaluation.runs import Pictures
from evaluation.tasks import Task
from filters.errors import InputError
from pipelines.study_evidence import Evidence
from pipelines.study_folder import StudyFolder


def credit_of(found: Evidence, files: StudyFolder, tasks: Sequence[Task], ways: int) -> dict[str, Any]:
    """By shift and value, each source's `Credit`s and their agreement with the measured leave-one-out, or why not.

    The ensembles are of each source's largest runs, seed by seed. Effective robustness is measured from the line
    through all single-source runs of the half that choices are made on.
    """
    models = _largest(found)
    said: dict[str, Any] = {}
    for shift, panel in found.panels.items():
        if isinstance(models, Refusal):
            said[shift] = models
            continue
        try:
            games = play(*_cached(files, tasks, models, found.reference, shift), ways=ways, half="report")
        except InputError as error:  # kept scores that are not there take nothing else with them
            said[shift] = Refusal(str(error))
            continue
        baseline = _baseline(found.fit[shift])
        total = _even_total(panel)
        said[shift] = {}
        for value in get_args(Value):
            if value == "effective" and isinstance(baseline, Refusal):
                said[shift][value] = baseline
                continue
            line = None if isinstance(baseline, Refusal) else baseline.at
            measured: Mapping[str, Estimate | Refusal] = (
                {} if total is None else leave_one_out(panel, total, value, baseline=line)
            )
            each = credits(games, value, baseline=line, measured=measured)
            said[shift][value] = {
                "sources": each,
                "agreement": agreement(each),
                "sum": _sum(each),
                "measured_at": total,
            }
    return said


def _sum(each: Sequence[Credit]) -> float:
    """What the ensemble of all has above none."""
    return float(sum(one.shapley.value for one in each))


def _largest(found: Evidence) -> dict[str, list[str]] | Refusal:
    """The runs of each source's largest size by seed; the same seeds of all."""
    runs: dict[str, dict[int, dict[int | None, str]]] = {}
    for run in found.runs:
        if run.kind == "single":
            runs.setdefault(run.group, {}).setdefault(run.n_total, {})[run.seed] = run.run_id
    largest = {source: by_size[max(by_size)] for source, by_size in sorted(runs.items())}
    if len(largest) < 2:
        return Refusal(f"{len(largest)} sources have runs of their own; credit is shared among two or more")
    seeds = set.intersection(*(set(by_seed) for by_seed in largest.values()))
    if not seeds:
        return Refusal("the sources' largest runs have no seed in common")
    return {source: [by_seed[s] for s in sorted(seeds, key=str)] for source, by_seed in largest.items()}


def _cached(
    files: StudyFolder, tasks: Sequence[Task], models: Mapping[str, Sequence[str]], reference: str, shift: str
) -> tuple[Cached, Cached]:
    """Kept scores of the models on the reference and the shift, over the classes that both show."""
    by_name = {task.name: task for task in tasks}
    if missing := [name for name in (reference, shift) if name not in by_name]:
        raise InputError(f"no evaluation set {missing[0]}; credit needs its classes")
    names = shared_classes(by_name[reference], by_name[shift])
    one, other = (_of_task(files, by_name[name], names, models) for name in (reference, shift))
    return one, other


def _of_task(files: StudyFolder, task: Task, names: Sequence[str], models: Mapping[str, Sequence[str]]) -> Cached:
    part = subset(task, names)
    label = np.array(part.names)
    keys = np.array(task.keys)[part.pictures]
    scores: dict[str, list[Features]] = {
        source: [part.of(files.read_logits(run, [task.name])[task.name]) for run in runs]
        for source, runs in models.items()
    }
    pictures = Pictures(keys, label[part.labels], np.zeros(len(keys)))
    return Cached(scores, part.labels, pictures)


def _baseline(panel: Panel) -> Line | Refusal:
    """The line through all single-source runs off the floor, whatever their source."""
    rows = [i for i, run in enumerate(panel.runs) if run.kind == "single" and not panel.floor[i]]
    if len(rows) < 3 or np.ptp(panel.x[rows]) < 1e-9:
        return Refusal(f"{len(rows)} single-source runs off the floor make no baseline", "at floor")
    return line_through(panel.x[rows], panel.y[rows])


def _even_total(panel: Panel) -> int | None:
    """The size of the mixtures that leave one source out."""
    sources = {name for run in panel.runs if run.kind == "single" for name in run.shares}
    totals = {r.n_total for r in panel.runs if r.kind == "input_mix" and len(r.shares) == len(sources) - 1}
    return max(totals, default=None)
