"""Figures of the source study from its tables: scatter with lines, mixing overlays, data efficiency.

Each function makes one matplotlib figure and touches nothing else; `figure_png` turns it into bytes. Sources differ
in colour, mark and stroke, so that they can be told apart in black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from evaluation.accuracies import ModelScores
from evaluation.lines import Floats, Insufficient, from_axis, to_axis
from evaluation.plot_style import (
    COLOURS,
    FAINT,
    INK,
    SHAPES,
    STROKES,
    Look,
    figure_png,
    key,
    legend,
    look,
    make_panels,
    mark_size,
    percent_ticks,
    plain,
)
from evaluation.robustness import SourceLine
from evaluation.shift_study import ShiftStudy
from filters.errors import InputError

__all__ = ["data_efficiency", "figure_png", "looks", "mixing_overlay", "source_panels"]

TITLES = {
    "v2": "ImageNet-V2", "r": "ImageNet-R", "sketch": "ImageNet-Sketch", "objectnet": "ObjectNet", "a": "ImageNet-A",
    "val": "ImageNet", "val-on-r": "ImageNet (classes of R)", "val-on-a": "ImageNet (classes of A)",
    "val-on-objectnet": "ImageNet (classes of ObjectNet)",
}  # fmt: skip


def looks(studies: Sequence[ShiftStudy]) -> dict[str, Look]:
    """A look for each source, the same in all panels."""
    names = dict.fromkeys(name for study in studies for name in study.lines)
    return {name: look(i) for i, name in enumerate(names)}


def source_panels(studies: Sequence[ShiftStudy], *, columns: int = 2) -> Figure:
    """One panel a shift: models, each source's line with its 95 % band, y = x, and the baseline's line.

    Probit (or logit) axes with ticks in percent. InputError without a study.
    """
    canvas, panels = make_panels(len(studies), columns)
    known = looks(studies)
    for ax, study in zip(panels, studies, strict=False):
        limits = _limits(study)
        for name in study.lines:
            rows = study.rows(name)
            _band(ax, study, study.lines[name], known[name])
            _marks(ax, study.x[rows], study.y[rows], study, known[name])
        _frame(ax, study, limits)
    fits = {name: any(isinstance(study.lines.get(name), SourceLine) for study in studies) for name in known}
    handles = [key(name, known[name], line=fits[name]) for name in known]
    legend(canvas, [*handles, *_references(studies)])
    return canvas


def mixing_overlay(studies: Sequence[ShiftStudy], pairs: Mapping[str, str | None], *, columns: int = 2) -> Figure:
    """Mixtures over the lines of their parents, and whether an ensemble of models predicts the mixture of their data.

    `pairs` takes a mixture's source label to that of the ensemble, or to None. All other sources are parents, and are
    drawn as lines alone. Mixtures have filled marks and whole lines, ensembles hollow marks and dashed lines.
    InputError for a label that no study has.
    """
    known = looks(studies)
    drawn = [name for pair in pairs.items() for name in pair if name is not None]
    if missing := [name for name in drawn if name not in known]:
        raise InputError(f"no source {', '.join(missing)}; there are {', '.join(known)}")
    canvas, panels = make_panels(len(studies), columns)
    parents = [name for name in known if name not in drawn]
    styles = {
        name: (_mixture(i, hollow), hollow)
        for i, pair in enumerate(pairs.items())
        for name, hollow in zip(pair, (False, True), strict=True)
        if name is not None
    }
    for ax, study in zip(panels, studies, strict=False):
        limits = _limits(study)
        for i, name in enumerate(parents):
            _stroke(ax, study, study.lines.get(name), _parent(i))
        for name, (style, hollow) in styles.items():
            rows = study.rows(name)
            _stroke(ax, study, study.lines.get(name), style)
            _marks(ax, study.x[rows], study.y[rows], study, style, hollow=hollow)
        _frame(ax, study, limits)
    handles = [key(name, _parent(i), line=True, mark=False) for i, name in enumerate(parents)]
    fits = {name: any(isinstance(study.lines.get(name), SourceLine) for study in studies) for name in styles}
    handles += [key(name, style, line=fits[name], hollow=hollow) for name, (style, hollow) in styles.items()]
    legend(canvas, [*handles, *_references(studies, bands=False)])
    return canvas


def data_efficiency(scores: Sequence[ModelScores], sets: Sequence[str], *, columns: int = 2) -> Figure:
    """Accuracy against the number of training samples, one panel a set: mean and standard deviation over seeds.

    Models of one source and size are its seeds; models of unknown size are left out. InputError where none is left.
    """
    sized = [score for score in scores if score.size]
    if not sized or not sets:
        raise InputError("data efficiency needs models with a known number of training samples, and a set")
    canvas, panels = make_panels(len(sets), columns)
    names = list(dict.fromkeys(score.source for score in sized))
    for ax, name in zip(panels, sets, strict=False):
        for i, source in enumerate(names):
            _efficiency(ax, [s for s in sized if s.source == source and name in s.accuracy], name, look(i))
        ax.set_xscale("log")
        ticks = sorted({score.size for score in sized if score.size})
        _size_ticks(ax, ticks)
        ax.set_ylim(bottom=0)
        ax.set_title(TITLES.get(name, name), fontsize=10.5, loc="left", color=INK)
        ax.set_xlabel("training samples", fontsize=9)
        ax.set_ylabel("accuracy, %", fontsize=9)
        plain(ax)
    legend(canvas, [key(name, look(i), line=True) for i, name in enumerate(names)])
    return canvas


def _limits(study: ShiftStudy) -> tuple[Floats, Floats]:
    """Ends of both axes, on the axis: around the models, with a margin."""
    ends = []
    for values, images in zip((study.x, study.y), study.images, strict=True):
        placed = to_axis(values, study.axis, images or 10**9)
        margin = max(0.08 * float(np.ptp(placed)), 0.1)
        ends.append(np.array([placed.min() - margin, placed.max() + margin]))
    return ends[0], ends[1]


def _marks(ax: Axes, x: Floats, y: Floats, study: ShiftStudy, style: Look, *, hollow: bool = False) -> None:
    across, up = (to_axis(v, study.axis, images or 10**9) for v, images in zip((x, y), study.images, strict=True))
    ax.plot(
        across, up, style.shape, color=style.colour, markersize=mark_size(style), markeredgewidth=1.0,
        markerfacecolor="white" if hollow else style.colour, markeredgecolor=style.colour if hollow else "white",
        zorder=4, clip_on=True,
    )  # fmt: skip


def _band(ax: Axes, study: ShiftStudy, line: SourceLine | Insufficient | None, style: Look) -> None:
    """A source's band over the range of its models, and its line."""
    if isinstance(line, SourceLine):
        start, end = to_axis([line.line.low, line.line.high], study.axis).tolist()
        grid = from_axis(np.linspace(start, end, 60), study.axis)
        low, high = (to_axis(edge, study.axis, 10**9) for edge in line.band(grid))
        ax.fill_between(to_axis(grid, study.axis), low, high, color=style.colour, alpha=0.18, linewidth=0, zorder=2)
    _stroke(ax, study, line, style)


def _stroke(ax: Axes, study: ShiftStudy, line: SourceLine | Insufficient | None, style: Look) -> None:
    """A source's line over the range of its models."""
    if isinstance(line, SourceLine):
        ends = to_axis([line.line.low, line.line.high], study.axis)
        up = line.line.slope * ends + line.line.intercept
        ax.plot(ends, up, color=style.colour, linestyle=style.stroke, linewidth=1.7, zorder=3)


def _frame(ax: Axes, study: ShiftStudy, limits: tuple[Floats, Floats]) -> None:
    """The diagonal, the baseline, ticks in percent and the names."""
    (left, right), (bottom, top) = limits
    ends = [max(left, bottom), min(right, top)]
    if ends[0] < ends[1]:
        ax.plot(ends, ends, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    if study.baseline is not None:
        across = np.linspace(left, right, 200)
        x = from_axis(across, study.axis)
        up = to_axis(study.baseline.at(x), study.axis, 10**9)
        inside = (x >= study.baseline.low) & (x <= study.baseline.high)
        ax.plot(across, np.where(inside, np.nan, up), color=FAINT, linewidth=1.0, linestyle=":", zorder=1)
        ax.plot(across, np.where(inside, up, np.nan), color=INK, linewidth=1.5, linestyle=":", zorder=1)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    percent_ticks(ax, study.axis)
    ax.set_title(TITLES.get(study.shift, study.shift), fontsize=10.5, loc="left", color=INK)
    ax.set_xlabel(f"{TITLES.get(study.reference, study.reference)} accuracy, %", fontsize=9)
    ax.set_ylabel(f"{TITLES.get(study.shift, study.shift)} accuracy, %", fontsize=9)
    plain(ax)


def _efficiency(ax: Axes, scores: Sequence[ModelScores], name: str, style: Look) -> None:
    by_size: dict[float, list[float]] = {}
    for score in scores:
        if score.size is not None:
            by_size.setdefault(score.size, []).append(100 * score.accuracy[name])
    sizes = sorted(by_size)
    if not sizes:
        return
    mean = [float(np.mean(by_size[size])) for size in sizes]
    spread = [float(np.std(by_size[size], ddof=1)) if len(by_size[size]) > 1 else 0.0 for size in sizes]
    ax.errorbar(
        sizes, mean, yerr=spread, color=style.colour, fmt=style.shape, linestyle=style.stroke, linewidth=1.6,
        markersize=mark_size(style), markeredgecolor="white", elinewidth=1.1, capsize=2.5, zorder=3,
    )  # fmt: skip


def _size_ticks(ax: Axes, sizes: Sequence[float]) -> None:
    """A tick at each size that has room for its number."""
    low, high = np.log10(sizes[0]), np.log10(sizes[-1])
    kept: list[float] = []
    for size in sizes:
        if not kept or np.log10(size) - np.log10(kept[-1]) >= 0.08 * (high - low):
            kept.append(size)
    ax.xaxis.set_major_locator(FixedLocator(kept))
    ax.xaxis.set_major_formatter(FixedFormatter([_count(size) for size in kept]))
    ax.xaxis.set_minor_locator(NullLocator())


def _count(size: float) -> str:
    for unit, text in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{text}"
    return f"{size:g}"


def _parent(position: int) -> Look:
    return Look("#b3b3b3" if position % 2 else "#5f5f5f", "", STROKES[position % len(STROKES)])


def _mixture(position: int, hollow: bool) -> Look:
    return Look(COLOURS[position % len(COLOURS)], SHAPES[position % len(SHAPES)], STROKES[1 if hollow else 0])


def _references(studies: Sequence[ShiftStudy], *, bands: bool = True) -> list[Line2D | Patch]:
    found: list[Line2D | Patch] = []
    if bands and any(isinstance(line, SourceLine) for study in studies for line in study.lines.values()):
        found.append(Patch(color=FAINT, alpha=0.25, linewidth=0, label="95 % band"))
    found.append(Line2D([], [], color=FAINT, linewidth=1, linestyle="--", label="y = x"))
    names = dict.fromkeys(study.baseline.set for study in studies if study.baseline is not None)
    found += [
        Line2D([], [], color=INK, linewidth=1.5, linestyle=":", label=f"trained on ImageNet ({name})")
        for name in names
    ]
    return found
