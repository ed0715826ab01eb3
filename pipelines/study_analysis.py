"""What a study's runs say: lines, rankings, mixtures, ensembles and filters on each shift, on the reporting half."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.draws import Estimate, Panel, Refusal, panel_of
from evaluation.mixing import Lines, above_lines, best_parent, mixture, output_less_input, source_lines
from evaluation.ranking import both_answers
from evaluation.results import read_images
from evaluation.robustness import SourceLine
from evaluation.runs import Run, run_of
from filters.errors import InputError
from pipelines.store.root import Root
from pipelines.study_folder import RUNS, StudyFolder

_ENSEMBLE = "ensemble-"


def analyse(root: Root, folder: str = "study") -> dict[str, Any]:
    """Findings for the summary of `headwater study`, as plain JSON, from the files of `pipelines.study_folder`.

    Figures are of the reporting half of the concepts, in probits; what is chosen (the best parent of a mixture) is
    chosen on the other. A figure that cannot be given is a sentence that says why. Empty without results.
    """
    files = StudyFolder(root, folder)
    runs, reference, shifts = _runs(files)
    panels: dict[str, Panel] = {}
    refused: dict[str, str] = {}
    for shift in shifts:
        try:
            panels[shift] = panel_of(runs, shift, reference, half="report")
        except InputError as error:
            refused[shift] = str(error)
    if not panels:
        return {shift: {"refused": why} for shift, why in refused.items()}
    lines = {shift: source_lines(panel) for shift, panel in panels.items()}
    found = {
        shift: {
            "seeds_drawn": panel.seeds_drawn,
            "at_floor": [run.run_id for run, low in zip(panel.runs, panel.floor, strict=True) if low],
            "lines": {name: _line(line) for name, line in lines[shift].items()},
            "mixtures": _mixtures(panel, panel_of(runs, shift, reference, half="fit"), lines[shift]),
            "output_less_input": _outputs(panel, lines[shift]),
            "filters": {
                f"{group} n{total}": _plain(above_lines(panel, lines[shift], group, total))
                for group, total in _cells(panel, "filtered")
            },
        }
        for shift, panel in panels.items()
    }
    answers = both_answers(list(panels.values()), lines)
    return {
        "reference": reference,
        "shifts": {**found, **{shift: {"refused": why} for shift, why in refused.items()}},
        "ranking": {f"{name} same family": _plain(answer) for name, answer in answers.items()},
    }


def _runs(files: StudyFolder) -> tuple[list[Run], str, list[str]]:
    """The evaluated runs with their flags, the reference set and the shifts."""
    flags = {record.spec.id: record.flags for record in files.records()}
    results = files.results()
    runs = [
        run_of(result, read_images(files.local(RUNS, result.run_id, "images.parquet")), flags=flags[result.run_id])
        for result in results
    ]
    sets = results[0].eval if results else {}
    reference = next((name for name, figure in sets.items() if figure.reference is None), "")
    return runs, reference, [name for name in sets if name != reference]


def _cells(panel: Panel, *kinds: str) -> list[tuple[str, int]]:
    """The groups of some kinds, each at each of its sizes."""
    return list(dict.fromkeys((run.group, run.n_total) for run in panel.runs if run.kind in kinds))


def _mixtures(panel: Panel, fit: Panel, lines: Lines) -> dict[str, Any]:
    """Each mixture and ensemble between its sources; the best of these is chosen on the fitting half."""
    chosen, found = source_lines(fit), {}
    for group, total in _cells(panel, "input_mix", "output_mix"):
        best = best_parent(fit, chosen, group, total)
        if isinstance(best, str):
            found[f"{group} n{total}"] = _plain(_tried(panel, lines, group, total, best))
        else:
            found[f"{group} n{total}"] = str(best)
    return found


def _tried(panel: Panel, lines: Lines, group: str, total: int, best: str) -> Any:
    """The mixture; where the source that was chosen has no line on this half, why."""
    if isinstance(line := lines[best], Refusal):
        return line
    return mixture(panel, lines, group, total, best=best)


def _outputs(panel: Panel, lines: Lines) -> dict[str, Any]:
    """Ensembles less the input mixtures that bear their name."""
    cells = {run.run_id.rpartition("-n")[0]: (run.group, run.n_total) for run in panel.runs}
    return {
        name: _plain(output_less_input(panel, lines, cells[name], cell))
        for full, cell in cells.items()
        if full.startswith(_ENSEMBLE) and (name := full.removeprefix(_ENSEMBLE)) in cells
    }


def _line(line: SourceLine | Refusal) -> Any:
    if isinstance(line, Refusal):
        return str(line)
    spread = {
        name: [round(float(q), 4) for q in np.quantile(drawn, [0.025, 0.975])]
        for name, drawn in (("slope_interval", line.slopes), ("intercept_interval", line.intercepts))
    }
    return {**_plain(line.line), **spread}


def _plain(value: Any) -> Any:
    """Plain JSON of what the analysis returns; numbers to four places."""
    if isinstance(value, Refusal):
        return str(value)
    if isinstance(value, Estimate):
        return {"value": round(value.value, 4), "low": round(value.low, 4), "high": round(value.high, 4)}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {" > ".join(key) if isinstance(key, tuple) else str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
