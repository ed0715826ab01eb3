"""How figures of sources look: a mark, stroke and colour for each, axes in percent, keys, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from evaluation.lines import Axis, to_axis
from filters.errors import InputError

Stroke = Literal["-", "--", ":", ""] | tuple[float, tuple[float, ...]]

COLOURS = ("#0b6e99", "#c8501e", "#3d7d3a", "#8a3f8f", "#a67c00", "#333333", "#c0365f")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
STROKES: tuple[Stroke, ...] = ("-", (0, (6, 2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 1.5, 1, 1, 1, 1.5)))
_SIZES = {"*": 9.0, "P": 8.0, "X": 7.5, "s": 5.6, "D": 5.4}  # so that all shapes look equally large; others are 6
# The first of these that has five ticks on an axis is taken.
_TICKS = (
    (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5),
    (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 93, 95, 97),
    (*np.arange(1, 100).tolist(),),
)
INK, FAINT, _GRID = "#222222", "#8a8a8a", "#ececec"
_APART = 0.052  # of an axis, between two ticks' numbers


class Look(NamedTuple):
    """How one source is drawn."""

    colour: str
    shape: str
    stroke: Stroke


def look(position: int) -> Look:
    """The look of the source at `position`; 280 differ."""
    return Look(COLOURS[position % len(COLOURS)], SHAPES[position % len(SHAPES)], STROKES[position % len(STROKES)])


def mark_size(style: Look) -> float:
    """Points across a mark, so that all shapes look equally large."""
    return _SIZES.get(style.shape, 6.0)


def make_panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, in rows of `columns`; InputError for none."""
    if not count:
        raise InputError("there is no shift to draw")
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = Figure(figsize=(4.9 * columns, 4.6 * rows + 0.8))
    panels: list[Axes] = canvas.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in panels[count:]:
        ax.set_axis_off()
    return canvas, panels


def percent_ticks(ax: Axes, axis: Axis) -> None:
    """Ticks at round percentages of accuracy, as many as have room for their numbers."""
    for one, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        kept: list[tuple[float, float]] = []
        for ticks in _TICKS:
            kept = _with_room(ticks, axis, low, high)
            if len(kept) >= 5:
                break
        one.set_major_locator(FixedLocator([place for place, _ in kept]))
        one.set_major_formatter(FixedFormatter([f"{tick:g}" for _, tick in kept]))
        one.set_minor_locator(NullLocator())


def _with_room(ticks: Sequence[float], axis: Axis, low: float, high: float) -> list[tuple[float, float]]:
    """Place and percentage of the ticks that lie in `low` to `high` and not too near to the one before."""
    kept: list[tuple[float, float]] = []
    for place, tick in zip(to_axis(np.array(ticks) / 100, axis).tolist(), ticks, strict=True):
        if low <= place <= high and (not kept or place - kept[-1][0] >= _APART * (high - low)):
            kept.append((place, tick))
    return kept


def key(name: str, style: Look, *, line: bool, mark: bool = True, hollow: bool = False) -> Line2D:
    """The entry of a source in a legend."""
    return Line2D(
        [], [], color=style.colour, linestyle=style.stroke if line else "", linewidth=1.7, label=name,
        marker=style.shape if mark else "", markersize=mark_size(style),
        markerfacecolor="white" if hollow else style.colour, markeredgecolor=style.colour if hollow else "white",
    )  # fmt: skip


def legend(canvas: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """A legend under the panels, which make room for it."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = 2 if canvas.get_figwidth() <= 8 else 4 if longest < 24 else 3
    rows = -(-len(handles) // columns)
    canvas.legend(
        handles=list(handles), loc="lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3.4
    )
    canvas.tight_layout(h_pad=1.6, w_pad=1.6, rect=(0, (0.24 * rows + 0.1) / canvas.get_figheight(), 1, 1))


def plain(ax: Axes) -> None:
    """A faint grid, and no frame but the two axes."""
    ax.grid(color=_GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(FAINT)
    ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)


def figure_png(figure: Figure, dpi: int = 140) -> bytes:
    """A figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
