"""What a study's runs are judged by: panels of both halves of the concepts, lines, and what each run is called."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluation.draws import Panel, Refusal, panel_of
from evaluation.halves import Half
from evaluation.mixing import Lines, Mixture, best_parent, mixture, source_lines
from evaluation.results import read_images
from evaluation.runs import Run, run_of
from filters.errors import InputError
from pipelines.study_folder import RUNS, StudyFolder

Cell = tuple[str, int]  # group and samples
ENSEMBLE = "ensemble-"
_HALVES: tuple[Half, Half] = ("report", "fit")
_END = re.compile(r"(-n\d+)?-s\d+$")


def name_of(run: str) -> str:
    """A run's name without its size and seed."""
    return _END.sub("", run)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Runs with their panels by shift, of the half that is reported (`panels`, with `lines`) and of the half that
    choices are made on (`fit`, with `fit_lines`). `cells` by the name of a run without its size and seed. `refused`
    shifts have no panel."""

    runs: tuple[Run, ...]
    reference: str
    panels: Mapping[str, Panel]
    fit: Mapping[str, Panel]
    lines: Mapping[str, Lines]
    fit_lines: Mapping[str, Lines]
    cells: Mapping[str, Cell]
    refused: Mapping[str, str]

    def mixtures(self, cell: Cell) -> dict[str, Mixture | Refusal]:
        """A mixture or ensemble on each shift."""
        return {shift: self.mixture(shift, cell) for shift in self.panels}

    def mixture(self, shift: str, cell: Cell) -> Mixture | Refusal:
        """A mixture or ensemble on one shift; the source it is measured against was best on the fitting half."""
        best = best_parent(self.fit[shift], self.fit_lines[shift], *cell)
        if isinstance(best, Refusal):
            return best
        if isinstance(line := self.lines[shift][best], Refusal):
            return line
        return mixture(self.panels[shift], self.lines[shift], *cell, best=best)

    def pairs(self) -> dict[str, tuple[Cell, Cell]]:
        """Mixture and ensemble that bear one name, the ensemble's after `ensemble-`."""
        return {
            name: (self.cells[name], cell)
            for full, cell in self.cells.items()
            if full.startswith(ENSEMBLE) and (name := full.removeprefix(ENSEMBLE)) in self.cells
        }


def read_runs(files: StudyFolder, wanted: Collection[str]) -> tuple[list[Run], str]:
    """The evaluated runs among those `wanted`, and the reference set; "" where nothing was evaluated."""
    flags = {record.spec.id: record.flags for record in files.records()}
    results = [result for result in files.results() if result.run_id in wanted]
    runs = [
        run_of(result, read_images(files.local(RUNS, result.run_id, "images.parquet")), flags=flags[result.run_id])
        for result in results
    ]
    sets = results[0].eval if results else {}
    return runs, next((name for name, figure in sets.items() if figure.reference is None), "")


def evidence_of(runs: Sequence[Run], reference: str) -> Evidence:
    """Runs with everything that is drawn of them."""
    panels: dict[str, Panel] = {}
    fit: dict[str, Panel] = {}
    refused: dict[str, str] = {}
    for shift in [name for name in (runs[0].chance if runs else ()) if name != reference]:
        try:
            reported, chosen_on = (panel_of(runs, shift, reference, half=half) for half in _HALVES)
            panels[shift], fit[shift] = reported, chosen_on
        except InputError as error:
            refused[shift] = str(error)
    lines, fit_lines = ({name: source_lines(panel) for name, panel in each.items()} for each in (panels, fit))
    cells = {name_of(run.run_id): (run.group, run.n_total) for run in runs}
    return Evidence(tuple(runs), reference, panels, fit, lines, fit_lines, cells, refused)
