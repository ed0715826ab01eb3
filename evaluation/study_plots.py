"""The figures of a source study: sources, mixtures with ensembles, data efficiency, filters and credit.

The first four are those of `evaluation.robustness_plots`, of a study's panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.accuracies import ModelScores
from evaluation.credit import Credit
from evaluation.draws import Estimate, Panel
from evaluation.lines import Insufficient, from_axis
from evaluation.mixing import Lines
from evaluation.plot_style import FAINT, INK, Look, legend, look, make_panels, mark_size, plain
from evaluation.results import ALL_CLASSES
from evaluation.robustness import SourceLine
from evaluation.robustness_plots import data_efficiency
from evaluation.runs import Run
from evaluation.shift_study import ShiftStudy

Labels = Callable[[Run], str | None]  # what a run is drawn as; None leaves it out


def as_studies(panels: Sequence[Panel], lines: Mapping[str, Lines], label: Labels) -> list[ShiftStudy]:
    """Panels as `robustness_plots` draws them: each labelled run that is off the floor, and the lines of sources.

    A shift on which no labelled run is off the floor is left out.
    """
    found = []
    for panel in panels:
        named = [(i, name) for i, run in enumerate(panel.runs) if not panel.floor[i] and (name := label(run))]
        if not named:
            continue
        rows = [i for i, _ in named]
        scores = [ModelScores(panel.runs[i].run_id, name, panel.runs[i].n_total, {}) for i, name in named]
        none = Insufficient("no line of its own")
        fits: dict[str, SourceLine | Insufficient] = {
            name: lines[panel.shift].get(name, none) for name in dict.fromkeys(name for _, name in named)
        }
        x, y = from_axis(panel.x[rows]), from_axis(panel.y[rows])
        found.append(ShiftStudy(panel.shift, panel.reference, "probit", scores, x, y, panel.images, fits, None, None))
    return found


def efficiency_figure(runs: Sequence[Run], reference: str, shifts: Sequence[str]) -> Figure:
    """Accuracy against samples of single sources, one panel a set: mean and standard deviation over seeds.

    On the half of the concepts that is reported.
    """
    sets = {reference: (reference, ALL_CLASSES), **{shift: (shift, shift) for shift in shifts}}
    scores = [
        ModelScores(
            run.run_id, run.group, run.n_total,
            {name: float(run.pictures[key].of("report").values.mean()) for name, key in sets.items()},
        )
        for run in runs
        if run.kind == "single"
    ]  # fmt: skip
    return data_efficiency(scores, list(sets))


def credit_figure(credits: Mapping[str, Sequence[Credit]]) -> Figure:
    """Each source's Shapley value and what is lost without it, one panel a shift, in probits, with 95 % intervals."""
    canvas, panels = make_panels(len(credits), 2)
    sources = sorted({one.source for each in credits.values() for one in each})
    looks = {"Shapley value, ensembles": look(0), "lost without it, ensembles": look(1), "lost, trained": look(2)}
    for ax, (shift, each) in zip(panels, credits.items(), strict=False):
        for one in each:
            place = sources.index(one.source)
            for step, (style, value) in enumerate(
                zip(looks.values(), (one.shapley, one.ensemble, one.measured), strict=True)
            ):
                if isinstance(value, Estimate):
                    _interval(ax, value, place + 0.24 * (step - 1), style)
        ax.axvline(0, color=FAINT, linewidth=1, linestyle="--")
        ax.set_yticks(np.arange(len(sources)), sources)
        ax.invert_yaxis()
        ax.set_title(shift, fontsize=10.5, loc="left", color=INK)
        ax.set_xlabel("probits on the shift", fontsize=9)
        plain(ax)
    legend(canvas, [
        Line2D([], [], color=style.colour, marker=style.shape, linestyle="-", label=name, markersize=mark_size(style))
        for name, style in looks.items()
    ])  # fmt: skip
    return canvas


def _interval(ax: Axes, value: Estimate, place: float, style: Look) -> None:
    ax.plot([value.low, value.high], [place, place], color=style.colour, linewidth=1.3, zorder=2)
    ax.plot(
        [value.value], [place], style.shape, color=style.colour, markersize=mark_size(style), markeredgecolor="white",
        zorder=3,
    )  # fmt: skip
