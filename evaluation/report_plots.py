"""The report's pictures: matplotlib figures as PNG bytes, readable in black and white."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from scipy.stats import norm

from evaluation.report_data import Histogram, Study, StudyLine, TaskInfo
from evaluation.results import Figure, Result
from filters.errors import InputError

# Dark enough on white to be told apart in print; eight shapes and seven colours give 56 different marks.
COLOURS = ("#0b6e99", "#c8501e", "#3d7d3a", "#8a3f8f", "#a67c00", "#333333", "#c0365f")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZES = {"*": 12.0, "P": 9.0, "X": 9.0, "s": 7.5}  # so that all shapes look equally large; others are 8
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
_INK, _FAINT = "#222222", "#9a9a9a"


class Mark(NamedTuple):
    """How one model looks in every plot."""

    shape: str
    colour: str


def mark(position: int) -> Mark:
    """The mark of the model at `position` in the list of results."""
    return Mark(SHAPES[position % len(SHAPES)], COLOURS[position % len(COLOURS)])


def scatter_png(results: Sequence[Result], shifts: Sequence[TaskInfo], reference: TaskInfo) -> bytes:
    """All shifts in one figure, two panels a row, with a legend: reference accuracy across, shift accuracy up.

    InputError without a shift.
    """
    if not shifts:
        raise InputError("a scatter of reference against shift needs at least one shift")
    rows = (len(shifts) + 1) // 2
    canvas = Canvas(figsize=(9.6, 4.5 * rows + 0.9), dpi=140)
    axes = canvas.subplots(rows, min(2, len(shifts)), squeeze=False).ravel()
    limits = _limits(results, shifts)
    for ax, shift in zip(axes, shifts, strict=False):
        _panel(ax, results, shift, reference, limits)
    for ax in axes[len(shifts) :]:
        ax.set_axis_off()
    handles = [
        Line2D([], [], marker=m.shape, color=m.colour, linestyle="", markersize=_size(m), label=result.run_id)
        for m, result in ((mark(i), result) for i, result in enumerate(results))
    ]
    handles += _key()
    canvas.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=9)
    canvas.tight_layout(h_pad=2.5, rect=(0, 0.25 * ((len(handles) + 3) // 4) / canvas.get_figheight(), 1, 1))
    return _png(canvas)


def panel_png(results: Sequence[Result], shifts: Sequence[TaskInfo], shift: TaskInfo, reference: TaskInfo) -> bytes:
    """One shift's panel; `shifts` are all panels that will stand beside it, so that they share their axes."""
    canvas = Canvas(figsize=(4.8, 4.6), dpi=160)
    _panel(canvas.subplots(), results, shift, reference, _limits(results, shifts))
    canvas.tight_layout()
    return _png(canvas)


def marker_png(position: int) -> bytes:
    """One model's mark alone, for the tables; 48 pixels square, transparent."""
    canvas = Canvas(figsize=(0.3, 0.3), dpi=160)
    ax = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    look = mark(position)
    ax.plot([0], [0], marker=look.shape, color=look.colour, markersize=_size(look) * 1.7)
    return _png(canvas, transparent=True)


def histogram_png(histograms: Sequence[Histogram]) -> bytes:
    """Score histograms, one strip a source over a common axis; a line marks each median bin."""
    canvas = Canvas(figsize=(7.6, 0.62 * len(histograms) + 0.8), dpi=140)
    axes = canvas.subplots(len(histograms), 1, sharex=True, squeeze=False).ravel()
    for ax, item in zip(axes, histograms, strict=True):
        edges, counts = np.array(item.edges), np.array(item.counts, dtype=float)
        share = counts / max(counts.sum(), 1)
        ax.stairs(share, edges, fill=True, color="#9fc3d3")
        ax.stairs(share, edges, color=COLOURS[0], linewidth=0.9)
        if counts.sum():
            middle = int(np.searchsorted(np.cumsum(share), 0.5))
            ax.axvline((edges[middle] + edges[middle + 1]) / 2, color=_INK, linewidth=1.1)
        ax.set_yticks([])
        ax.set_ylabel(item.source, rotation=0, ha="right", va="center", fontsize=9)
        _spines(ax, "bottom")
    axes[-1].set_xlabel("CLIP score (cosine); the line is the median", fontsize=9)
    canvas.tight_layout(h_pad=0.3)
    return _png(canvas)


def threshold_png(study: Study) -> bytes:
    """Recall and false rate of near duplicates against the threshold, in two panels (their scales differ much)."""
    canvas = Canvas(figsize=(7.6, 3.0), dpi=140)
    found, false = canvas.subplots(1, 2)
    for goal, style, label in ((True, "-", "with a goal"), (False, ":", "all")):
        recall = np.array(study.recall(goal=goal)) * 100
        found.plot(study.thresholds, recall, style, color=COLOURS[0], linewidth=1.8, label=label)
    found.axhline(study.goal_recall * 100, color=_FAINT, linewidth=1)
    found.legend(frameon=False, fontsize=8, loc="lower right")
    found.set_title("copies found, %", fontsize=10, loc="left")
    found.set_ylim(0, 102)
    false.step(study.thresholds, np.array(study.false_rate) * 100, where="post", color=COLOURS[1], linewidth=1.8)
    false.axhline(study.goal_false * 100, color=_FAINT, linewidth=1)
    false.set_title("different pictures called copies, %", fontsize=10, loc="left")
    false.set_ylim(bottom=-0.02)
    for ax in (found, false):
        ax.axvline(study.in_use, color=_INK, linewidth=1.0, linestyle="--")
        ax.annotate(" in use", (study.in_use, 0.5), xycoords=("data", "axes fraction"), fontsize=8)
        ax.set_xlabel("threshold (distance of aligned pictures)", fontsize=9)
        _spines(ax, "bottom", "left")
    canvas.tight_layout()
    return _png(canvas)


def study_png(study: Study) -> bytes:
    """Recall against false rate, a panel a transform and a line a strength; a mark is the threshold in use.

    Each line ends where the threshold that gives its false rate is as wide as the study goes.
    """
    transforms: dict[str, list[StudyLine]] = {}
    for line in study.lines:
        transforms.setdefault(line.transform, []).append(line)
    rows = (len(transforms) + 3) // 4
    canvas = Canvas(figsize=(10.4, 2.6 * rows), dpi=140)
    axes = canvas.subplots(rows, min(4, len(transforms)), squeeze=False, sharex=True, sharey=True).ravel()
    false = np.array(study.false_rate) * 100
    for ax, (name, lines) in zip(axes, transforms.items(), strict=False):
        for position, line in enumerate(lines):
            look, recall = mark(position), np.array(line.recall) * 100
            ax.step(false, recall, where="post", color=look.colour, linewidth=1.5, label=line.strength)
            ax.plot(
                false[study.chosen], recall[study.chosen], look.shape, color=look.colour, markersize=5, clip_on=False
            )
        ax.axvline(study.goal_false * 100, color=_FAINT, linewidth=1, linestyle="--", zorder=1)
        ax.set_title(name, fontsize=10, loc="left")
        ax.legend(frameon=False, fontsize=7, loc="best")
        ax.set_ylim(-2, 103)
        _spines(ax, "bottom", "left")
    for ax in axes[len(transforms) :]:
        ax.set_axis_off()
    canvas.supxlabel("different pictures called copies, %", fontsize=9)
    canvas.supylabel("copies found, %", fontsize=9)
    canvas.tight_layout()
    return _png(canvas)


def _panel(
    ax: Axes, results: Sequence[Result], shift: TaskInfo, reference: TaskInfo, limits: tuple[float, float]
) -> None:
    """One panel on probit axes; a hollow mark shares its artist with the shift, a pale one is at the floor."""
    low, high = limits
    chance = None
    for position, result in enumerate(results):
        figure = result.eval.get(shift.name)
        if figure is None or figure.reference is None:
            continue
        chance, look = figure.chance, mark(position)
        (x, left, right), (y, down, up) = _point(figure.reference), _point(figure)
        ax.errorbar(
            [x],
            [y],
            xerr=[[left], [right]],
            yerr=[[down], [up]],
            fmt=look.shape,
            color=look.colour,
            markerfacecolor="white" if figure.same_family else look.colour,
            markersize=_size(look),
            markeredgewidth=1.5,
            elinewidth=0.9,
            capsize=0,
            alpha=0.4 if figure.at_floor else 1.0,
            zorder=3,
        )
    ends = [norm.ppf(low), norm.ppf(high)]
    ax.plot(ends, ends, color=_FAINT, linewidth=1, linestyle="--", zorder=1)
    if chance is not None:
        ax.axhline(norm.ppf(chance), color=_FAINT, linewidth=1, linestyle=":", zorder=1)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    names = [f"{tick * 100:g}" for tick in ticks]
    ax.set_xticks(norm.ppf(ticks), names)
    ax.set_yticks(norm.ppf(ticks), names)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_title(f"{shift.label}: {shift.role}", fontsize=10, loc="left", color=_INK)
    ax.set_xlabel(f"{reference.label}, same classes, %", fontsize=9)
    ax.set_ylabel(f"{shift.label}, %", fontsize=9)
    ax.grid(color="#ececec", linewidth=0.7)
    ax.set_axisbelow(True)
    _spines(ax, "bottom", "left")


def _size(look: Mark) -> float:
    return _SIZES.get(look.shape, 8.0)


def _point(figure: Figure) -> tuple[float, float, float]:
    """Probit of a figure and the lengths of its two error bars; 0 and 1 are moved in by half a picture."""
    edge = 0.5 / figure.n
    low, value, high = norm.ppf(np.clip([figure.low, figure.value, figure.high], edge, 1 - edge))
    # an interval of no width can end a rounding error inside its value
    return float(value), max(float(value - low), 0.0), max(float(high - value), 0.0)


def _limits(results: Sequence[Result], shifts: Sequence[TaskInfo]) -> tuple[float, float]:
    """One range of accuracy for both axes of all panels, so that y = x is the diagonal and panels compare."""
    sets = [result.eval[shift.name] for result in results for shift in shifts if shift.name in result.eval]
    both: list[Figure] = [*sets, *[s.reference for s in sets if s.reference is not None]]
    low = min((min(max(f.low, 0.5 / f.n), f.chance) for f in both), default=0.01)
    high = max((min(f.high, 1 - 0.5 / f.n) for f in both), default=0.99)
    # Figures at the floor would stretch the axes far below chance, where nothing is to be read.
    low = max(low, min(f.chance for f in both) / 3) if both else low
    return max(low * 0.75, 5e-4), min(1 - (1 - high) * 0.75, 1 - 5e-4)


def _key() -> list[Line2D]:
    return [
        Line2D(
            [], [], marker="o", color=_INK, markerfacecolor="white", linestyle="", label="same artist as the shift"
        ),
        Line2D([], [], marker="o", color=_INK, alpha=0.4, linestyle="", label="at floor"),
        Line2D([], [], color=_FAINT, linestyle="--", label="shift = reference"),
        Line2D([], [], color=_FAINT, linestyle=":", label="chance"),
    ]


def _spines(ax: Axes, *kept: str) -> None:
    for side, spine in ax.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(_FAINT)
    ax.tick_params(labelsize=8, color=_FAINT, labelcolor=_INK)


def _png(canvas: Canvas, *, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", transparent=transparent, metadata={"Software": None})
    return buffer.getvalue()
