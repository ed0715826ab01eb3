"""Before a study: how many pictures, sizes and seeds it takes to see a given dilution.

A dilution is how far, in probits of shifted accuracy, a mixture lies below its best source's line at one reference
accuracy. Its variance has three parts: accuracies over N pictures (binomial, through the probit), models that lie off
their line whatever the pictures are (seed noise), and what all models of one source get right or wrong on the same
pictures, which more models do not average out. Lines are fitted by least squares, as `evaluation.lines` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from evaluation.lines import Floats
from evaluation.robustness import LEAST_SIZES
from filters.errors import InputError


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the best source's models: its probit line, and the reference accuracies of its smallest and
    its largest size; the others lie between, at even distances in probits.

    `seed_noise` is the standard deviation, in probits, of models off their line on endlessly many pictures. `shared`
    is the correlation of right answers between two models of one source, less that between a model of the source and
    one of the mixture, on the same pictures. InputError for what cannot be.
    """

    slope: float = 1.0
    intercept: float = -0.5
    low: float = 0.1
    high: float = 0.4
    seed_noise: float = 0.05
    shared: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise InputError(f"reference accuracies {self.low:g} to {self.high:g} must rise, within 0 to 1")
        if self.seed_noise < 0 or not 0 <= self.shared <= 1:
            raise InputError(f"seed noise {self.seed_noise:g} must be at least 0, shared {self.shared:g} in 0 to 1")

    def across(self, sizes: int) -> Floats:
        """Probits of reference accuracy [sizes], from the smallest size to the largest."""
        first, last = norm.ppf([self.low, self.high])
        return np.linspace(float(first), float(last), sizes)


@dataclass(frozen=True, slots=True)
class Design:
    """Sizes and seeds at which the source is trained; the mixture is trained at the largest size alone, with as many
    seeds, and compared there, or (`line`) at all sizes, and compared at the middle of the range.

    InputError for fewer sizes than a line needs, and for no seed.
    """

    sizes: int
    seeds: int
    line: bool = False

    def __post_init__(self) -> None:
        if self.sizes < LEAST_SIZES or self.seeds < 1:
            raise InputError(f"{self.sizes} sizes, {self.seeds} seeds: a line needs {LEAST_SIZES} sizes and one seed")

    @property
    def models(self) -> int:
        """How many models are trained, of the source and of the mixture."""
        return self.seeds * (self.sizes + (self.sizes if self.line else 1))


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of a measured dilution in probits²: `fixed` + `per_image` / pictures, at reference accuracy `at`."""

    fixed: float
    per_image: float
    at: float

    def error(self, images: int) -> float:
        """Standard error in probits, with so many pictures of the reference and as many under the shift."""
        return math.sqrt(self.fixed + self.per_image / images)


def spread(design: Design, expected: Expected, dilution: float) -> Spread:
    """The variance of the dilution that `design` measures, where the true one is `dilution` probits.

    To first order. The height at x of a least squares line through means of s seeds at (x_i, y_i), i = 1 to m, has
    variance Σ c_i² v_i / s with c_i = 1/m + (x - x̄)(x_i - x̄) / Σ (x_j - x̄)².
    """
    x = expected.across(design.sizes)
    at = float(x.mean() if design.line else x[-1])
    off = x - x.mean()
    weights = 1 / len(x) + (at - x.mean()) * off / (off**2).sum()
    mixture = (x, weights) if design.line else (np.array([at]), np.ones(1))
    fixed = per_image = 0.0
    for (places, c), below in (((x, weights), 0.0), (mixture, dilution)):
        fixed += expected.seed_noise**2 * float((c**2).sum()) / design.seeds
        own = float(c**2 @ _binomial(expected, places, below)) / design.seeds
        per_image += (1 - expected.shared) * own + expected.shared * float(_binomial(expected, at, below))
    return Spread(fixed, per_image, float(norm.cdf(at)))


def power(found: Spread, dilution: float, images: int, level: float = 0.95) -> float:
    """Probability that the interval of a dilution, two-sided at `level`, lies above 0."""
    return float(norm.cdf(dilution / found.error(images) - norm.ppf((1 + level) / 2)))


def smallest_dilution(found: Spread, images: int, wanted: float = 0.8, level: float = 0.95) -> float:
    """The dilution in probits that is seen with probability `wanted`."""
    return float(norm.ppf((1 + level) / 2) + norm.ppf(wanted)) * found.error(images)


def images_needed(found: Spread, dilution: float, wanted: float = 0.8, level: float = 0.95) -> int | None:
    """Pictures of each test set with which `dilution` is seen with probability `wanted`; None where no number is
    enough, because seed noise alone is too large."""
    error = dilution / float(norm.ppf((1 + level) / 2) + norm.ppf(wanted))
    left = error**2 - found.fixed
    return math.ceil(found.per_image / left) if left > 0 else None


def shared_answers(source: npt.ArrayLike, mixture: npt.ArrayLike) -> float:
    """`shared` as models of one source [a, N] and of the mixture [b, N] have it, from right answers on N pictures.

    At least two models of the source; what two models of the mixture share among themselves is left out.
    """
    ours = np.atleast_2d(np.asarray(source, np.float64))
    alike = np.corrcoef(np.concatenate([ours, np.atleast_2d(np.asarray(mixture, np.float64))]))
    within = alike[: len(ours), : len(ours)][np.triu_indices(len(ours), 1)]
    if not len(within):
        raise InputError("what models of a source share needs at least two of them, of different seeds")
    return max(0.0, float(within.mean() - alike[: len(ours), len(ours) :].mean()))


def points(expected: Expected, at: float, dilution: float) -> float:
    """A dilution in probits as points of shifted accuracy, below the source's line at reference accuracy `at`."""
    height = expected.slope * float(norm.ppf(at)) + expected.intercept
    return 100 * float(norm.cdf(height) - norm.cdf(height - dilution))


def _binomial(expected: Expected, x: npt.ArrayLike, below: float) -> Floats:
    """Variance, on one picture, of how far a model is off its line at x: its own, and that of x times the slope."""
    across = np.asarray(x, np.float64)
    up = expected.slope * across + expected.intercept - below
    return np.asarray(_probit_variance(up) + expected.slope**2 * _probit_variance(across))


def _probit_variance(z: Floats) -> Floats:
    """Variance of the probit of an accuracy Φ(z) measured on one picture, to first order: p (1 - p) / φ(z)²."""
    return np.asarray(np.exp(norm.logcdf(z) + norm.logsf(z) - 2 * norm.logpdf(z)))
