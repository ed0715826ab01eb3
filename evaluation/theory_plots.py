"""Figures of the theory: slope against the share of a source and against the threshold of a filter (closed forms as
lines, simulated models as marks)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from scipy.stats import norm

from evaluation.lines import Floats
from evaluation.plot_style import FAINT, INK, Look, key, legend, look, make_panels, mark_size, plain
from evaluation.theory import Example, ensemble_probits, filtered, filtered_probits, mixed_slopes
from evaluation.theory_simulation import SIZES, after_filter, ensembles, learned, ray

_SEEDS = 20
_START, _RAW = 800, 4000  # samples of `a` that `b` is added to, and samples that a filter sees
_SLOPE = "slope in probits, shift over reference"


def share_figure(example: Example, rng: np.random.Generator) -> Figure:
    """Left, slope against the share of the robust source, in mixtures of data and in ensembles (P2, P3); right,
    accuracies of a fixed number of its samples as more and more of the brittle one are added."""
    setting, both = example.setting, np.stack([example.a, example.b])
    canvas, (left, right) = make_panels(2, 2)
    mixture, ensemble, naive = look(0), look(1), Look(FAINT, "", ":")
    fine, marks, each = np.linspace(0, 1, 101), np.linspace(0, 1, 11), np.array(SIZES)[:, None]
    _line(left, fine, mixed_slopes(setting, both, _pairs(fine))[:, 0], mixture)
    _line(left, fine, [ray(ensemble_probits(setting, both, pair, each))[0] for pair in _pairs(fine)], ensemble)
    _line(left, [0, 1], setting.slopes(both[::-1])[:, 0], naive)
    mixed = [ray(setting.probits(learned(setting, pair @ both, SIZES, rng, _SEEDS)))[0] for pair in _pairs(marks)]
    joined = [ray(setting.probits(ensembles(setting, both, pair, each, rng, _SEEDS)))[0] for pair in _pairs(marks)]
    _marks(left, marks, mixed, mixture)
    _marks(left, marks, joined, ensemble, hollow=True)
    _frame(left, "Slope of mixtures and of ensembles", "share of the robust source", _SLOPE)
    left.legend(
        handles=[
            key("if share alone were the weight", naive, line=True, mark=False),
            key("ensembles of models", ensemble, line=True, hollow=True), key("mixtures of data", mixture, line=True),
        ],
        frameon=False, fontsize=9, handlelength=3.4,
    )  # fmt: skip
    _added(right, example, rng)
    canvas.tight_layout(w_pad=1.6)
    return canvas


def _added(ax: Axes, example: Example, rng: np.random.Generator) -> None:
    setting, reference, shift = example.setting, look(2), look(3)

    def means(counts: Floats) -> Floats:
        return np.asarray((_START * example.a + counts[:, None] * example.b) / (_START + counts[:, None]))

    fine, marks = np.linspace(0, 13_000, 131), np.array([0.0, 200, 800, 1600, 3200, 6400, 12_800])
    closed = 100 * norm.cdf(setting.expected(means(fine), _START + fine))
    drawn = 100 * norm.cdf(setting.probits(learned(setting, means(marks), _START + marks, rng, _SEEDS)))
    for column, style in ((0, reference), (1, shift)):
        _line(ax, fine, closed[:, column], style)
        values = drawn[..., column]
        _marks(ax, marks, values.mean(axis=0), style, values.std(axis=0), hollow=column == 1)
    _frame(ax, f"Adding a brittle source to {_START} robust samples", "brittle samples added", "accuracy, %")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.legend(
        handles=[
            key("on the reference", reference, line=True), key("under the shift", shift, line=True, hollow=True),
        ],
        loc="center right", frameon=False, fontsize=9, handlelength=3.4,
    )  # fmt: skip


def threshold_figure(example: Example, rng: np.random.Generator) -> Figure:
    """Slope (P4, P5) and accuracy (P6) of the brittle source against the threshold of a filter, for three scorers."""
    setting = example.setting
    canvas, (left, right) = make_panels(2, 2)
    scorers = {
        "a robust scorer": example.scorer, "the source itself": example.b, "a less robust scorer": example.poor_scorer
    }  # fmt: skip
    fine, marks = np.linspace(-2, 2.5, 181), np.linspace(-2, 2.5, 10)
    handles = []
    for i, (name, scorer) in enumerate(scorers.items()):
        style = look(i)
        _, means = filtered(setting, example.b, scorer, fine)
        _, models = after_filter(setting, example.b, scorer, marks, _RAW, rng, _SEEDS)
        z = setting.probits(models)
        _line(left, fine, setting.slopes(means)[:, 0], style)
        _marks(left, marks, [ray(z[:, j])[0] for j in range(len(marks))], style)
        accuracy = 100 * norm.cdf(filtered_probits(setting, example.b, scorer, fine, _RAW)[:, 1])
        _line(right, fine, accuracy, style)
        drawn = 100 * norm.cdf(z[..., 1])
        _marks(right, marks, drawn.mean(0), style, drawn.std(0))
        handles.append(key(f"{name}, slope {setting.slopes(scorer)[0]:.2f}", style, line=True))
        if i == 0:
            best = int(accuracy.argmax())
            kept = filtered(setting, example.b, scorer, fine[best])[0]
            right.annotate(
                f"best: {100 * kept:.0f} % kept", (fine[best], accuracy[best]), xytext=(0, 16),
                textcoords="offset points", ha="center", fontsize=8.5, color=INK,
                arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8},
            )  # fmt: skip
    right.margins(y=0.1)
    _frame(left, "Slope of what a filter keeps", "threshold τ of the score", _SLOPE)
    _frame(right, f"Accuracy after a filter of {_RAW:,} samples", "threshold τ of the score", "shifted accuracy, %")
    legend(canvas, handles)
    return canvas


def _pairs(shares: Floats) -> Floats:
    return np.stack([shares, 1 - shares], axis=1)


def _line(ax: Axes, x: Floats | Sequence[float], y: Floats | Sequence[float], style: Look) -> None:
    ax.plot(x, y, color=style.colour, linestyle=style.stroke, linewidth=1.7, zorder=3)


def _marks(
    ax: Axes,
    x: Floats,
    y: Floats | Sequence[float],
    style: Look,
    spread: Floats | None = None,
    *,
    hollow: bool = False,
) -> None:
    """Simulated models, with the standard deviation over seeds."""
    ax.errorbar(
        x, y, yerr=spread, color=style.colour, fmt=style.shape, linestyle="", markersize=mark_size(style), zorder=4,
        markerfacecolor="white" if hollow else style.colour, markeredgecolor=style.colour if hollow else "white",
        elinewidth=1.0, capsize=2.0,
    )  # fmt: skip


def _frame(ax: Axes, title: str, across: str, up: str) -> None:
    ax.set_title(title, fontsize=10.5, loc="left", color=INK)
    ax.set_xlabel(across, fontsize=9)
    ax.set_ylabel(up, fontsize=9)
    plain(ax)
