"""Lines through accuracies: transforms that straighten them, least squares, and bootstrap bands.

Accuracies are in 0 to 1. Models that differ only in how much they have seen lie near a line once both accuracies
are transformed (Miller et al., "Accuracy on the Line", 2021); the probit is the natural coordinate, the logit is
what imagenet-testbed draws (Taori et al., "Measuring Robustness to Natural Distribution Shifts", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm

from filters.errors import InputError

Floats = npt.NDArray[np.float64]
Axis = Literal["probit", "logit"]

RESAMPLES, SEED = 1000, 720257663  # imagenet-testbed's seed


@dataclass(frozen=True, slots=True)
class Insufficient:
    """No line, and why."""

    reason: str

    def __str__(self) -> str:
        return f"insufficient: {self.reason}"


@dataclass(frozen=True, slots=True)
class Line:
    """h(y) = slope · h(x) + intercept over `n` models whose x lies in `low` to `high`; `r2` on the axis h."""

    slope: float
    intercept: float
    r2: float
    n: int
    low: float
    high: float
    axis: Axis = "probit"

    def at(self, x: npt.ArrayLike) -> Floats:
        """Accuracy on the line at accuracy x, of the same shape; x beyond `low` and `high` extrapolates."""
        return from_axis(self.slope * _straight(x, self.axis) + self.intercept, self.axis)


def to_axis(accuracy: npt.ArrayLike, axis: Axis = "probit", images: int | None = None) -> Floats:
    """Accuracies on an axis where they may run along lines, clipped first to half a picture from 0 and 1.

    `images` is how many the accuracies were measured on. InputError for what is not an accuracy, and for exactly 0
    or 1 where `images` is not known.
    """
    values = np.asarray(accuracy, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"accuracies must lie in 0 to 1, found {values[~((values >= 0) & (values <= 1))].flat[0]:g}")
    if images is not None:
        values = np.clip(values, 0.5 / images, 1 - 0.5 / images)
    elif ((values == 0) | (values == 1)).any():
        raise InputError("an accuracy of exactly 0 or 1 has no place on the axis; say how many pictures it is over")
    return _straight(values, axis)


def from_axis(values: npt.ArrayLike, axis: Axis = "probit") -> Floats:
    """The inverse of `to_axis`: accuracies in 0 to 1."""
    found = np.asarray(values, np.float64)
    return np.asarray(norm.cdf(found) if axis == "probit" else expit(found), np.float64)


def least_squares(x: Floats, y: Floats, axis: Axis = "probit", images: Sequence[int | None] = (None, None)) -> Line:
    """The ordinary least squares line of h(y) on h(x), both accuracies [n]; InputError where x does not vary."""
    return line_through(to_axis(x, axis, images[0]), to_axis(y, axis, images[1]), axis)


def line_through(across: Floats, up: Floats, axis: Axis = "probit") -> Line:
    """The least squares line through models [n] that stand on the axis already; InputError where x does not vary."""
    slope, intercept = (float(found) for found in fit_lines(across, up))
    if not np.isfinite(slope):
        raise InputError(f"a line through {len(across)} models needs at least two different accuracies")
    low, high = from_axis([across.min(), across.max()], axis).tolist()
    return Line(slope, intercept, r_squared(up, slope * across + intercept), len(across), low, high, axis)


def r_squared(found: Floats, fitted: Floats) -> float:
    """Share of the variance of `found` that `fitted` explains; 1 where nothing varies."""
    total = float(((found - found.mean()) ** 2).sum())
    return 1.0 - float(((found - fitted) ** 2).sum()) / total if total > 0 else 1.0


def resampled(
    x: Floats,
    y: Floats,
    axis: Axis = "probit",
    images: Sequence[int | None] = (None, None),
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Floats, Floats]:
    """Slopes and intercepts [R] of lines through models drawn with replacement (case bootstrap).

    R is `resamples` less the draws of models that all have one x, which have no line. The result depends on the
    models and the seed, not on the order of the models.
    """
    across, up = to_axis(x, axis, images[0]), to_axis(y, axis, images[1])
    order = np.lexsort([up, across])
    across, up = across[order], up[order]
    drawn = np.random.default_rng(seed).integers(0, len(across), (resamples, len(across)))
    slopes, intercepts = fit_lines(across[drawn], up[drawn])
    kept = np.isfinite(slopes)
    return slopes[kept], intercepts[kept]


def _straight(accuracy: npt.ArrayLike, axis: Axis) -> Floats:
    """Without clipping: 0 and 1 are at the ends of the axis, which is infinite."""
    return np.asarray(norm.ppf(accuracy) if axis == "probit" else logit(np.asarray(accuracy, np.float64)), np.float64)


def fit_lines(across: Floats, up: Floats) -> tuple[Floats, Floats]:
    """Least squares slopes and intercepts [...] of `up` on `across` [..., n]; NaN where `across` does not vary."""
    middle, height = across.mean(axis=-1, keepdims=True), up.mean(axis=-1, keepdims=True)
    off = across - middle
    spread = (off**2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(spread > 1e-12, (off * (up - height)).sum(axis=-1) / spread, np.nan)
    return np.asarray(slopes), np.asarray(height[..., 0] - slopes * middle[..., 0])
