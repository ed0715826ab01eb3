"""Effective and relative robustness: how much more accurate models are under a shift than their reference accuracy
says.

A source's models lie along a line (`source_line`), and its place against the line of models trained on ImageNet is
their effective robustness (Taori et al. 2020), against another source's line at the same reference accuracy their
relative one. Accuracies are in 0 to 1, robustness in percentage points of accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.baselines import Baseline
from evaluation.lines import (
    Axis,
    Floats,
    Insufficient,
    Line,
    from_axis,
    least_squares,
    r_squared,
    resampled,
    to_axis,
)
from filters.errors import InputError

LEAST_SIZES, LEAST_SPREAD = 4, 0.3  # different sizes of training set, and how far apart their models are in probits
GRID = 5  # places where two lines are compared


@dataclass(frozen=True, slots=True, eq=False)
class SourceLine:
    """A source's line with those of its bootstrap: slopes and intercepts float64 [R]."""

    line: Line
    slopes: Floats
    intercepts: Floats

    def at(self, x: npt.ArrayLike) -> Floats:
        """Accuracy on the line at accuracy x."""
        return self.line.at(x)

    def drawn(self, x: npt.ArrayLike) -> Floats:
        """Accuracies on the bootstrap's lines at accuracies x [m]: float64 [R, m]."""
        across = to_axis(np.atleast_1d(x), self.line.axis)
        return from_axis(self.slopes[:, None] * across + self.intercepts[:, None], self.line.axis)

    def band(self, x: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
        """Percentile interval of the line at accuracies x [m]: two arrays float64 [m]."""
        return _interval(self.drawn(x), level)

    def slope_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of the slope."""
        low, high = _interval(self.slopes[:, None], level)
        return float(low[0]), float(high[0])


def source_line(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    sizes: npt.ArrayLike | None = None,
    *,
    axis: Axis = "probit",
    images: Sequence[int | None] = (None, None),
) -> SourceLine | Insufficient:
    """The line of one source's models, or why there is none.

    `x` and `y` [n] are accuracies on the reference and on the shift, `images` how many pictures each is over, `sizes`
    [n] the numbers of training samples; where they are not known, models of different x count as different sizes.
    A line needs four sizes, and models whose x is spread over 0.3 probits; with less its slope is a guess.
    """
    across, up = (np.asarray(values, np.float64) for values in (x, y))
    if across.shape != up.shape or across.ndim != 1:
        raise InputError(f"x has shape {list(across.shape)} and y {list(up.shape)}; they are one number a model each")
    different = len(np.unique(across if sizes is None else np.asarray(sizes)))
    if different < LEAST_SIZES:
        what = "models of different accuracy" if sizes is None else "sizes of training set"
        return Insufficient(f"{different} {what}, {LEAST_SIZES} are needed")
    spread = float(np.ptp(to_axis(across, "probit", images[0])))
    if spread < LEAST_SPREAD:
        return Insufficient(f"reference accuracies are {spread:.3f} probits apart, {LEAST_SPREAD} are needed")
    line = least_squares(across, up, axis, images)
    return SourceLine(line, *resampled(across, up, axis, images))


@dataclass(frozen=True, slots=True)
class Gap:
    """How far one line is above another at reference accuracy `x`: points of accuracy, with a 95 % interval."""

    x: float
    points: float
    low: float
    high: float


def relative_effective_robustness(
    line: SourceLine, other: SourceLine, x: Sequence[float] | None = None
) -> list[Gap] | Insufficient:
    """A source against another at equal reference accuracy, at `x` or at five places of their common range.

    The places are evenly spaced on the axis, its ends included. InputError for an `x` outside of either range and
    for lines on different axes.
    """
    ours, theirs = line.line, other.line
    if ours.axis != theirs.axis:
        raise InputError(f"one line is on the {ours.axis} axis, the other on the {theirs.axis} axis; fit both on one")
    low, high = max(ours.low, theirs.low), min(ours.high, theirs.high)
    if low >= high:
        return Insufficient(
            f"no common reference accuracy: one source has {_range(ours)}, the other {_range(theirs)}"
        )
    if x is None:
        x = _grid(low, high, ours.axis)
    elif not all(low - 1e-12 <= value <= high + 1e-12 for value in x):
        raise InputError(f"sources are compared at {list(x)}, their common range is {low:.3f} to {high:.3f}")
    points = 100 * (line.at(x) - other.at(x))
    # Both bootstraps began at one seed: pairing one's first draw with the other's last keeps them independent.
    paired = min(len(line.slopes), len(other.slopes))
    lower, upper = _interval(100 * (line.drawn(x)[:paired] - other.drawn(x)[::-1][:paired]), 0.95)
    return [Gap(*map(float, row)) for row in zip(x, points, lower, upper, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Effective:
    """Effective robustness float64 [n] in points, bound to the baseline that it is measured from.

    `extrapolated` bool [n]: the model's reference accuracy is outside of the baseline's models.
    """

    points: Floats
    extrapolated: npt.NDArray[np.bool_]
    baseline: Baseline

    def minus(self, other: Effective) -> Floats:
        """Differences in points [n]; InputError where the two are measured from different baselines."""
        if self.baseline.name != other.baseline.name:
            raise InputError(
                f"effective robustness against {self.baseline.name} cannot be compared with that against "
                f"{other.baseline.name}; compute both from one baseline"
            )
        return self.points - other.points


def effective_robustness(x: npt.ArrayLike, y: npt.ArrayLike, baseline: Baseline) -> Effective:
    """Accuracy under shift less what the baseline has at the same reference accuracy: y - β(x), in points.

    `x` [n] is on the set that `baseline.x` names.
    """
    across, up = (np.atleast_1d(np.asarray(values, np.float64)) for values in (x, y))
    outside = (across < baseline.low) | (across > baseline.high)
    return Effective(100 * (up - baseline.at(across)), outside, baseline)


def relative_robustness(y: npt.ArrayLike, reference: float) -> Floats:
    """Accuracy under shift less that of a reference model, in points (Taori et al. 2020)."""
    return 100 * (np.asarray(y, np.float64) - reference)


@dataclass(frozen=True, slots=True, eq=False)
class MultiLine:
    """h(y) = slopes · h(x) + intercept over several in-distribution sets (Shi et al. 2023): slopes float64 [d]."""

    slopes: Floats
    intercept: float
    r2: float
    n: int
    axis: Axis

    def at(self, x: npt.ArrayLike) -> Floats:
        """Accuracies [n] that the plane gives for accuracies x [n, d]."""
        return from_axis(to_axis(x, self.axis) @ self.slopes + self.intercept, self.axis)

    def effective(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
        """Effective robustness float64 [n] in points of models with accuracies x [n, d] and y [n]."""
        return 100 * (np.asarray(y, np.float64) - self.at(x))


def fit_multi_id(
    x: npt.ArrayLike, y: npt.ArrayLike, *, axis: Axis = "probit", images: Sequence[int | None] | None = None
) -> MultiLine | Insufficient:
    """The plane of h(y) over several reference accuracies, such as ImageNet's and a source's own held-out set's.

    `x` [n, d], `y` [n]; `images` of the d sets and of the shift. Models trained on other data are no longer called
    robust for what they know of their own distribution (Shi et al., "Effective Robustness against Natural
    Distribution Shifts for Models with Different Training Data", 2023). At least d + 2 models in general position
    are needed.
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if across.ndim != 2 or up.shape != across.shape[:1]:
        raise InputError(
            f"x has shape {list(across.shape)}, y {list(up.shape)}; expected [models, sets] and [models]"
        )
    known = images or [None] * (across.shape[1] + 1)
    columns = [to_axis(across[:, i], axis, known[i]) for i in range(across.shape[1])]
    design, height = np.column_stack([*columns, np.ones(len(up))]), to_axis(up, axis, known[-1])
    if len(up) < across.shape[1] + 2:
        return Insufficient(f"{len(up)} models for {across.shape[1]} sets, {across.shape[1] + 2} are needed")
    if np.linalg.matrix_rank(design, tol=1e-6) < design.shape[1]:
        return Insufficient("the sets say the same of all models, so that no plane is determined")
    found = np.linalg.lstsq(design, height, rcond=None)[0]
    return MultiLine(
        np.asarray(found[:-1], np.float64), float(found[-1]), r_squared(height, design @ found), len(up), axis
    )


def _grid(low: float, high: float, axis: Axis) -> list[float]:
    start, end = to_axis([low, high], axis).tolist()
    places: list[float] = from_axis(np.linspace(start, end, GRID), axis).tolist()
    return places


def _interval(values: Floats, level: float) -> tuple[Floats, Floats]:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def _range(line: Line) -> str:
    return f"{100 * line.low:.1f} to {100 * line.high:.1f} %"
