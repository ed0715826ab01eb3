"""The figures of a study's report, from its evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from evaluation.credit import Credit
from evaluation.draws import Estimate, Refusal
from evaluation.robustness_plots import mixing_overlay, source_panels
from evaluation.runs import Run
from evaluation.study_plots import as_studies, credit_figure, efficiency_figure
from pipelines.study_evidence import ENSEMBLE, Evidence, name_of

_FILTERED = re.compile(r"-half2-by-(\w+)-top[\d.]+")


def figures(found: Evidence, analysis: Mapping[str, Any]) -> Iterator[tuple[str, Figure | None]]:
    """Each figure by the name of its file; None where there is nothing to draw."""
    yield "sources", _panels(found, lambda run: run.group if run.kind == "single" else None)
    yield "mixtures", _mixtures(found)
    yield "efficiency", efficiency_figure(found.runs, found.reference, list(found.panels))
    filtered = [run for run in found.runs if run.kind == "filtered"]
    parents = {source for run in filtered for source in run.shares}
    label = lambda run: _filter_label(run, parents)  # noqa: E731
    yield "filters", _panels(found, label) if filtered else None
    credits = {
        shift: [_credit(row) for row in by_value["probit"]["sources"]]
        for shift, by_value in analysis["credit"].items()
        if isinstance(by_value, dict) and isinstance(by_value["probit"], dict)
    }
    yield "credit", credit_figure(credits) if credits else None


def _panels(found: Evidence, label: Callable[[Run], str | None]) -> Figure | None:
    studies = as_studies(list(found.panels.values()), found.lines, label)
    return source_panels(studies) if studies else None


def _mixtures(found: Evidence) -> Figure | None:
    """Ratios and pairs that have an ensemble; the lines of the sources that these are of."""
    named = found.pairs()
    two = [name_of(run.run_id) for run in found.runs if run.kind == "input_mix" and len(run.shares) == 2]
    pairs: dict[str, str | None] = {**dict.fromkeys(two), **{name: ENSEMBLE + name for name in named}}
    if not pairs:
        return None
    shown = {*pairs, *(name for name in pairs.values() if name)}
    parents = {source for name in pairs for source in _shares(found, found.cells[name])}

    def label(run: Run) -> str | None:
        if run.kind == "single":
            return run.group if run.group in parents else None
        return name if (name := name_of(run.run_id)) in shown else None

    studies = as_studies(list(found.panels.values()), found.lines, label)
    there = {name for study in studies for name in study.lines}
    kept = {name: other if other in there else None for name, other in pairs.items() if name in there}
    return mixing_overlay(studies, kept) if studies and kept else None


def _shares(found: Evidence, cell: tuple[str, int]) -> Mapping[str, float]:
    return next(run.shares for run in found.runs if (run.group, run.n_total) == cell)


def _filter_label(run: Run, parents: set[str]) -> str | None:
    if run.kind == "filtered":
        return (
            _FILTERED.sub(r" by \1", name_of(run.run_id))
            .replace("-half1", ", first half")
            .replace("-swap", ", swap ")
        )
    return run.group if run.kind == "single" and run.group in parents else None


def _credit(row: Mapping[str, Any]) -> Credit:
    """A credit of the analysis, as it was before it became JSON."""
    shapley, ensemble = (Estimate(**row[name]) for name in ("shapley", "ensemble"))
    measured = row["measured"]
    return Credit(
        row["source"], shapley, ensemble, Refusal(measured) if isinstance(measured, str) else Estimate(**measured)
    )
