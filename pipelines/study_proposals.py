"""Mixtures that a study's runs propose: predicted before they are trained, then set beside the ways to do without.

A proposal is `headwater advise` on what the study has; its prediction is stored and hashed before its runs are made,
and a later start trains what was stored. It is measured against even mixing and the source that is best by itself on
the half of the concepts that choices are made on, all at one total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.advice import NO_GAIN, outcome
from evaluation.draws import Estimate, Panel, Refusal, estimate
from evaluation.lines import Floats, from_axis
from filters.errors import InputError
from pipelines import advise
from pipelines.advise import AdviseConfig
from pipelines.job import say
from pipelines.prediction import digest_of, has_prediction, read_prediction
from pipelines.quota import apportion
from pipelines.study_config import Proposal, StudyConfig, samples_of
from pipelines.study_evidence import Evidence
from pipelines.study_folder import RESULTS, StudyFolder
from pipelines.study_matrix import RunSpec, Supply, mixture_spec


def proposed(config: StudyConfig, folder: StudyFolder, found: Supply, *, ask: bool) -> list[RunSpec]:
    """The runs of all proposals; one that has no prediction yet is asked for if `ask`, else left out."""
    specs = []
    for one in config.proposals:
        if ask and not has_prediction(folder.root, one.name):
            _ask(config, folder, found, one)
        if not has_prediction(folder.root, one.name):
            continue
        mix = read_prediction(folder.root, one.name)["mixture"]
        names = [part["source"] for part in mix["sources"]]
        weights = [float(part["weight"]) for part in mix["sources"]]
        counts = dict(zip(names, apportion(weights, mix["total"]), strict=True))
        specs += [mixture_spec(one.name, counts, seed) for seed in one.seeds or config.seeds]
    return specs


def _ask(config: StudyConfig, folder: StudyFolder, found: Supply, one: Proposal) -> None:
    """Store a prediction, or say why there is no advice."""
    try:
        advise.run(AdviseConfig(
            root=config.root, target=one.target, total=samples_of(one.total, found.unit), name=one.name,
            reference=config.reference, constraint=one.constraint, where=config.where, exclude=one.exclude,
            step=one.step, runs=[str(folder.local(RESULTS))],
        ))  # fmt: skip
    except InputError as error:
        say(f"study: {one.name} is not proposed: {error}")


def reported(config: StudyConfig, folder: StudyFolder, found: Evidence) -> dict[str, Any]:
    """By name: what was proposed, predicted against measured, and the gains that were measured, or why there are
    none."""
    said: dict[str, Any] = {}
    for one in config.proposals:
        if not has_prediction(folder.root, one.name):
            said[one.name] = Refusal("nothing was proposed yet")
            continue
        stored = read_prediction(folder.root, one.name)
        said[one.name] = {
            "target": stored["target"],
            "sha256": digest_of(folder.root, one.name),
            "predictor": stored["advice"]["predictor"],
            "shares": stored["advice"]["shares"],
            **_measured(one, stored, found),
        }
    return said


def _measured(one: Proposal, stored: Mapping[str, Any], found: Evidence) -> dict[str, Any]:
    panel, shares = found.panels.get(stored["target"]), stored["advice"]["shares"]
    if panel is None:
        return {"measured": Refusal(f"no run was evaluated on {stored['target']}")}
    total = int(stored["mixture"]["total"])
    mine = _rows(panel, shares, total)
    if not mine:
        return {"measured": Refusal("it was not trained yet")}
    predicted = {"reference": stored["advice"]["x"], "target": stored["advice"]["y"]}
    reached = {
        "reference": _accuracy(panel.x, panel.drawn_x, mine),
        "target": _accuracy(panel.y, panel.drawn_y, mine),
    }
    return {
        "seeds": len(mine),
        "known_before": panel.runs[mine[0]].group in stored["runs"],
        "outcome": {name: outcome(Estimate(**predicted[name]), value) for name, value in reached.items()},
        "gains": {name: _gain(panel, mine, rows) for name, rows in _rivals(found, panel, total).items()},
    }


def _rivals(found: Evidence, panel: Panel, total: int) -> dict[str, list[int]]:
    """The rows of even mixing, and of the best single source, at the same total."""
    sources = sorted({name for run in panel.runs if run.kind == "single" for name in run.shares})
    even = _rows(panel, dict.fromkeys(sources, 1 / len(sources)), total)
    fit = found.fit[panel.shift]
    alone = {name: rows for name in sources if (rows := _rows(fit, {name: 1.0}, total))}
    rivals = {"even mixing": even}
    if alone:
        best = max(alone, key=lambda name: float(fit.y[alone[name]].mean()))
        rivals[f"best single source ({best})"] = alone[best]
    return {name: rows for name, rows in rivals.items() if rows}


def _rows(panel: Panel, shares: Mapping[str, float], total: int) -> list[int]:
    """Trained runs of these shares and this many samples."""
    names = {name for name, share in shares.items() if share > 0}
    return [
        i
        for i, run in enumerate(panel.runs)
        if run.kind in ("single", "input_mix")
        and run.n_total == total
        and names == set(run.shares)
        and all(abs(run.shares[name] - shares[name]) < 0.01 for name in names)
    ]


def _accuracy(points: Floats, drawn: Floats, rows: Sequence[int]) -> Estimate:
    return estimate(from_axis(points[rows].mean()), from_axis(drawn[:, rows].mean(axis=1)))


def _gain(panel: Panel, mine: Sequence[int], other: Sequence[int]) -> dict[str, Any]:
    """Points of shifted accuracy above another way to mix, and what that is called."""
    value = [float(from_axis(panel.y[rows].mean())) for rows in (mine, other)]
    drawn = [from_axis(panel.drawn_y[:, rows].mean(axis=1)) for rows in (mine, other)]
    points = estimate(100 * (value[0] - value[1]), 100 * (drawn[0] - drawn[1]))
    verdict = ("gain" if points.low > 0 else "loss") if points.clear else NO_GAIN
    return {"points": points, "seeds": len(other), "verdict": verdict}
