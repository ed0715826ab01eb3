"""What a study's runs say, on the half that is reported: lines, rankings, mixtures, credit, verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.claims import height_between
from evaluation.draws import Estimate, Panel, Refusal
from evaluation.mixing import above_lines, output_less_input
from evaluation.points import points_of
from evaluation.predictors import leave_one_mixture_out
from evaluation.ranking import both_answers, same_family
from evaluation.robustness import SourceLine
from evaluation.tasks import Task
from filters.errors import InputError
from pipelines.lock import FILE as LOCK
from pipelines.study_claims import FILE as CLAIMS
from pipelines.study_claims import Claim, claims_of
from pipelines.study_config import StudyConfig
from pipelines.study_credit import credit_of
from pipelines.study_evidence import Evidence, evidence_of, name_of, read_runs
from pipelines.study_folder import RUNS, StudyFolder
from pipelines.study_matrix import RANDOM
from pipelines.study_proposals import reported
from pipelines.study_verdicts import SCORER, verdicts


def analyse(
    files: StudyFolder, config: StudyConfig, tasks: Sequence[Task], wanted: Sequence[str]
) -> tuple[Evidence, dict[str, Any]]:
    """The evidence of the runs `wanted`, and its findings for the summary of `headwater study`, as plain JSON.

    Figures are of the reporting half of the concepts, in probits; what is chosen (the best parent of a mixture) is
    chosen on the other. A figure that cannot be given is a sentence that says why.
    """
    found = evidence_of(*read_runs(files, set(wanted)))
    answers = both_answers(list(found.panels.values()), found.lines) if found.panels else {}
    credit = credit_of(found, files, tasks, config.ways)
    claims = claims_of(files.read(CLAIMS)) if files.exists(CLAIMS) else {}
    said = {
        "reference": found.reference,
        "shifts": {
            **{shift: _shift(shift, found) for shift in found.panels},
            **{shift: {"refused": why} for shift, why in found.refused.items()},
        },
        "ranking": {f"{name} same family": plain(answer) for name, answer in answers.items()},
        "chosen": plain(_chosen(files, found)),
        "credit": plain(credit),
        "prediction": {shift: _prediction(panel) for shift, panel in found.panels.items()},
        "proposals": plain(reported(config, files, found)),
        "claims": _verdicts(claims, files, found),
    }
    return found, said


def _shift(shift: str, found: Evidence) -> dict[str, Any]:
    panel, lines = found.panels[shift], found.lines[shift]
    mixed = dict.fromkeys((r.group, r.n_total) for r in panel.runs if r.kind in ("input_mix", "output_mix"))
    filtered = dict.fromkeys((r.group, r.n_total) for r in panel.runs if r.kind == "filtered")
    return {
        "seeds_drawn": panel.seeds_drawn,
        "at_floor": [run.run_id for run, low in zip(panel.runs, panel.floor, strict=True) if low],
        "same_family": sorted(same_family(panel)),
        "lines": {name: _line(line) for name, line in lines.items()},
        "mixtures": {f"{group} n{total}": plain(found.mixture(shift, (group, total))) for group, total in mixed},
        "output_less_input": {
            name: plain(output_less_input(panel, lines, *pair)) for name, pair in found.pairs().items()
        },
        "filters": {f"{group} n{total}": plain(above_lines(panel, lines, group, total)) for group, total in filtered},
        "filters_less_random": _less_random(panel),
    }


def _less_random(panel: Panel) -> dict[str, Any]:
    """Each filtered run's shifted less reference probit, less that of as many samples drawn without a look."""
    names = dict.fromkeys(name_of(run.run_id) for run in panel.runs if run.kind == "filtered")
    seeds = sorted({run.seed for run in panel.runs if run.kind == "filtered" and run.seed is not None})
    found = {}
    for name in names:
        other = SCORER.sub(f"-by-{RANDOM}-", name)
        if other != name and other in names:
            found[name] = plain(height_between({panel.shift: panel}, name, other, seeds)[panel.shift])
    return found


def _chosen(files: StudyFolder, found: Evidence) -> dict[str, Any]:
    """What each scorer kept of its pool, and of the captions that had changed places there."""
    runs = [run.run_id for run in found.runs if run.kind == "filtered"]
    locks = {run: files.read(RUNS, run, LOCK) for run in runs if files.exists(RUNS, run, LOCK)}
    return {run: lock["choice"] for run, lock in locks.items() if lock["choice"]}


def _prediction(panel: Panel) -> Any:
    """How far off each predictor was on each mixture in turn, in probits, and less the baselines."""
    try:
        found = leave_one_mixture_out(points_of(panel))
    except InputError as error:
        return str(error)
    if isinstance(found, Refusal):
        return str(found)
    return {
        "mixtures": len({group for group, _ in found.mixtures}),
        "error": plain(found.error),
        "less": {f"{one} less {other}": plain(error) for (one, other), error in found.less.items()},
    }


def _verdicts(claims: Mapping[str, Claim], files: StudyFolder, found: Evidence) -> dict[str, Any]:
    """By claim; of the runs with seeds that some claim names."""
    seeds = {seed for claim in claims.values() for seed in claim.seeds}
    if not seeds >= {run.seed for run in found.runs}:
        found = evidence_of([run for run in found.runs if run.seed in seeds], found.reference)
    return verdicts(claims, found, files)


def _line(line: SourceLine | Refusal) -> Any:
    if isinstance(line, Refusal):
        return str(line)
    spread = {
        name: [round(float(q), 4) for q in np.quantile(drawn, [0.025, 0.975])]
        for name, drawn in (("slope_interval", line.slopes), ("intercept_interval", line.intercepts))
    }
    return {**plain(line.line), **spread}


def plain(value: Any) -> Any:
    """Plain JSON of what the analysis returns; numbers to four places."""
    if isinstance(value, Refusal):
        return str(value)
    if isinstance(value, Estimate):
        return {"value": round(value.value, 4), "low": round(value.low, 4), "high": round(value.high, 4)}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {" > ".join(key) if isinstance(key, tuple) else str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
