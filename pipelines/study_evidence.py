"""What a study's runs are judged by: panels of both halves of the concepts, lines, and what each run is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evaluation.draws import Panel, Refusal, panel_of
from evaluation.mixing import Lines, Mixture, best_parent, mixture, source_lines
from evaluation.results import read_images
from evaluation.runs import Run, run_of
from filters.errors import InputError
from pipelines.study_folder import RUNS, StudyFolder

Cell = tuple[str, int]  # group and samples
ENSEMBLE = "ensemble-"
_END = re.compile(r"(-n\d+)?-s\d+$")


def name_of(run: str) -> str:
    """A run's name without its size and seed."""
    return _END.sub("", run)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Runs with their panels by shift, of the half that is reported (`panels`, with `lines`) and of the half that
    choices are made on (`fit`). `cells` by the name of a run without its size and seed. `refused` shifts have no
    panel."""

    runs: tuple[Run, ...]
    reference: str
    panels: Mapping[str, Panel]
    fit: Mapping[str, Panel]
    lines: Mapping[str, Lines]
    cells: Mapping[str, Cell]
    refused: Mapping[str, str]

    def mixtures(self, cell: Cell) -> dict[str, Mixture | Refusal]:
        """A mixture or ensemble on each shift; the source it is measured against was best on the fitting half."""
        return {shift: self._mixture(shift, cell) for shift in self.panels}

    def _mixture(self, shift: str, cell: Cell) -> Mixture | Refusal:
        best = best_parent(self.fit[shift], source_lines(self.fit[shift]), *cell)
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


def gather(files: StudyFolder, keep: Callable[[Run], bool] = lambda _: True) -> Evidence:
    """The evaluated runs that are to be kept, with everything that is drawn of them."""
    flags = {record.spec.id: record.flags for record in files.records()}
    results = files.results()
    every = [
        run_of(result, read_images(files.local(RUNS, result.run_id, "images.parquet")), flags=flags[result.run_id])
        for result in results
    ]
    runs = [run for run in every if keep(run)]
    sets = results[0].eval if results else {}
    reference = next((name for name, figure in sets.items() if figure.reference is None), "")
    panels: dict[str, Panel] = {}
    fit: dict[str, Panel] = {}
    refused: dict[str, str] = {}
    for shift in sets if runs else ():
        if shift == reference:
            continue
        try:
            panels[shift] = panel_of(runs, shift, reference, half="report")
            fit[shift] = panel_of(runs, shift, reference, half="fit")
        except InputError as error:
            panels.pop(shift, None)
            refused[shift] = str(error)
    return Evidence(
        tuple(runs), reference, panels, fit, {shift: source_lines(panel) for shift, panel in panels.items()},
        {name_of(run.run_id): (run.group, run.n_total) for run in runs}, refused,
    )  # fmt: skip
