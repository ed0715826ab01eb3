"""The verdicts on a study's claims, by the statistics of `evaluation.claims`; a statistic's text names its runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evaluation import claims as judged
from evaluation.claims import Statistic
from evaluation.draws import Estimate, Refusal
from evaluation.mixing import output_less_input
from evaluation.ranking import both_answers
from evaluation.results import ALL_CLASSES
from evaluation.runs import Run
from pipelines.study_claims import Claim
from pipelines.study_evidence import Evidence, name_of
from pipelines.study_fit import BEST
from pipelines.study_folder import StudyFolder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9]")
SCORER = re.compile(r"-by-\w+-")

Judge = Callable[[Evidence, Claim, StudyFolder], Statistic | Refusal]


def verdicts(claims: Mapping[str, Claim], found: Evidence, files: StudyFolder) -> dict[str, Any]:
    """By claim: `verdict`, the statistic's `value` and `parts`, or the `reason` why the data cannot test it."""
    said: dict[str, Any] = {}
    for name, claim in claims.items():
        answer = _answer(claim, found, files)
        stated = {
            "claim": claim.claim, "statistic": " ".join(claim.statistic.split()), "direction": claim.direction,
            "threshold": claim.threshold,
        }  # fmt: skip
        if isinstance(answer, Refusal):
            said[name] = {**stated, "verdict": "cannot test", "reason": answer.reason}
        else:
            assert claim.direction is not None and claim.threshold is not None
            verdict = judged.verdict(answer.value, claim.direction, claim.threshold)
            parts = {key: round(one, 4) if isinstance(one, float) else one for key, one in answer.parts.items()}
            said[name] = {**stated, "verdict": verdict, "value": round(answer.value, 4), "parts": parts}
    return said


def _answer(claim: Claim, found: Evidence, files: StudyFolder) -> Statistic | Refusal:
    if claim.cannot_test is not None:
        return Refusal(claim.cannot_test)
    if claim.id not in JUDGES:
        return Refusal(f"no statistic is known by the id {claim.id}; there are {', '.join(JUDGES)}")
    if missing := sorted(set(claim.seeds) - {run.seed for run in found.runs}):
        return Refusal(f"no run has the seed {missing[0]}")
    failed = {name_of(record.spec.id) for record in files.records() if record.status == "failed"}
    if gone := [name for name in _NAME.findall(claim.statistic) if name in failed]:
        return Refusal(f"a run of {gone[0]} failed")
    return JUDGES[claim.id](found, claim, files)


def _named(found: Evidence, claim: Claim, kind: str) -> list[str]:
    """The runs of a kind that a statistic names in its text, without size and seed."""
    there = {name_of(run.run_id) for run in found.runs if run.kind == kind}
    return [name for name in dict.fromkeys(_NAME.findall(claim.statistic)) if name in there]


def _winners(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    if not found.panels:
        return Refusal("no shift has figures")
    answer = both_answers(list(found.panels.values()), found.lines)["with"]
    return judged.different_winners(found.lines, answer.rankings)


def _moves(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    names = _named(found, claim, "input_mix")
    if not names:
        return Refusal("none of the mixtures was trained")
    source = re.match(r"[A-Za-z_]+", names[0])
    assert source is not None
    return judged.moves_with_share([found.mixtures(found.cells[name]) for name in names], source[0])


def _dilution(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    return _of_mixture(found, claim, judged.dilution_end)


def _inside(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    return _of_mixture(found, claim, judged.outside_parents)


def _of_mixture(
    found: Evidence, claim: Claim, statistic: Callable[[judged.Cells], Statistic | Refusal]
) -> Statistic | Refusal:
    names = _named(found, claim, "input_mix")
    return statistic(found.mixtures(found.cells[names[0]])) if names else Refusal("the mixture was not trained")


def _outputs(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    known = found.pairs()
    names = [name for name in _named(found, claim, "input_mix") if name in known]
    return judged.output_error({
        name: {
            shift: output_less_input(panel, found.lines[shift], *known[name]) for shift, panel in found.panels.items()
        }
        for name in names
    })  # fmt: skip


def _filtered(found: Evidence, claim: Claim) -> dict[str, Estimate | Refusal] | Refusal:
    names = _named(found, claim, "filtered")
    if not names:
        return Refusal("the filtered runs were not made")
    return judged.height_between(found.panels, names[0], SCORER.sub("-by-random-", names[0]), claim.seeds)


def _inherited(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    by_shift = _filtered(found, claim)
    if isinstance(by_shift, Refusal):
        return by_shift
    best = files.read(BEST)[_named(found, claim, "filtered")[0].split("-half2-")[0]]
    if not best["is_higher"]:
        return Refusal(f"no source stands higher than the filtered one; {best['source']} comes next")
    return judged.inherited(by_shift)


def _unmoved(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    by_shift = _filtered(found, claim)
    return by_shift if isinstance(by_shift, Refusal) else judged.unmoved(by_shift)


def _rises(found: Evidence, claim: Claim, files: StudyFolder) -> Statistic | Refusal:
    accuracies: dict[str, dict[int, list[float]]] = {}
    for run in found.runs:
        if run.kind == "single":
            accuracies.setdefault(run.group, {}).setdefault(run.n_total, []).append(_reference(run, found.reference))
    return judged.rises_with_size(accuracies)


def _reference(run: Run, reference: str) -> float:
    return float(np.mean(run.pictures[reference, ALL_CLASSES].of("report").values))


JUDGES: dict[str, Judge] = {
    "C2": lambda found, claim, files: judged.least_fit(found.lines),
    "C3": _winners,
    "C9": _moves,
    "C10": _dilution,
    "C11": _inside,
    "C12": _outputs,
    "C13": lambda found, claim, files: judged.off_with_size(found.panels, found.lines),
    "C14a": _inherited,
    "C14b": _unmoved,
    "C16": _rises,
    "C17": lambda found, claim, files: judged.off_with_seed(found.panels, found.lines, claim.seeds),
}
