"""The study's Gaussian model in closed form: why a source has a line, how mixing dilutes it, what filters do to it.

The setting: a class y of +1 or -1; test set j has pictures x|y ~ N(y μ_j, σ_j² I), a training source
x|y ~ N(y θ, σ² I); a model is the mean of y x over n samples, w ~ N(θ, σ²/n I), and answers sign⟨w, x⟩. Its accuracy
on set j is exactly Φ(z_j) with z_j = ⟨w, μ_j⟩ / (σ_j ‖w‖): the probit of accuracy is the natural coordinate, and a
source's models lie near a ray through the origin whose slope κ = z_j / z_0 depends on the source's direction alone.
After the binary model by which Nguyen et al., "Quality Not Quantity" (2022), explain dilution; the propositions P1 to
P7 are listed in docs/theory.md and checked against `evaluation.theory_simulation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from evaluation.lines import Floats
from filters.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Test sets: means `tests` float64 [1 + J, d] of class +1, the reference first, and standard deviations `spreads`
    [1 + J]; `noise` is the standard deviation of all training sources."""

    tests: Floats
    spreads: Floats
    noise: float = 1.0

    def products(self, w: Floats) -> Floats:
        """⟨w, μ_j⟩ / σ_j of models or sources w [..., d]: [..., 1 + J]."""
        return np.asarray(w @ self.tests.T / self.spreads, np.float64)

    def probits(self, w: Floats) -> Floats:
        """Probit accuracies z [..., 1 + J] of models w [..., d]."""
        return np.asarray(self.products(w) / np.linalg.norm(w, axis=-1, keepdims=True))

    def signals(self, w: Floats) -> Floats:
        """How much of the reference's direction there is in w [..., d]: a = ⟨w, μ_0⟩ / σ_0, [...]."""
        return np.asarray(self.products(w)[..., 0])

    def slopes(self, w: Floats) -> Floats:
        """Robustness slopes κ = z_j / z_0 [..., J] of models or sources w [..., d]."""
        found = self.products(w)
        return np.asarray(found[..., 1:] / found[..., :1])

    def norms(self, mean: Floats, n: npt.ArrayLike) -> Floats:
        """Root mean square length [...] of a model of n samples of mean θ `mean` [..., d]: √(‖θ‖² + σ² d / n)."""
        return np.asarray(np.sqrt((mean**2).sum(axis=-1) + self.noise**2 * mean.shape[-1] / np.asarray(n)))

    def expected(self, mean: Floats, n: npt.ArrayLike) -> Floats:
        """Probit accuracies [..., 1 + J] to be expected of n samples [...] whose mean is `mean` [..., d] (P1)."""
        return self.products(mean) / self.norms(mean, n)[..., None]

    def slope_noise(self, mean: Floats, n: npt.ArrayLike) -> Floats:
        """Standard deviation [..., J] of one model's z_j / z_0 around its source's slope, to first order (P1).

        σ ‖μ_j/σ_j - κ_j μ_0/σ_0‖ / (a √n): it does not grow with d.
        """
        scaled = self.tests / self.spreads[:, None]
        off = scaled[1:] - self.slopes(mean)[..., None] * scaled[0]
        length = np.linalg.norm(off, axis=-1) / self.signals(mean)[..., None]
        return np.asarray(self.noise * length / np.sqrt(np.asarray(n, np.float64))[..., None])


def mediant(weights: npt.ArrayLike, slopes: npt.ArrayLike) -> Floats:
    """The mean of slopes [k] or [k, J] with weights [..., k]: [...] or [..., J]; never above the largest of them.

    Mixing data weighs a source by share times reference signal (P2), joining models by weight times signal over
    length (P3), filtering the source by its signal and the scorer by σ h(t) times its own (P4). InputError for
    weights that are negative or all 0.
    """
    given = np.asarray(weights, np.float64)
    total = given.sum(axis=-1, keepdims=True)
    if (given < 0).any() or (total <= 0).any():
        raise InputError(f"a mean of slopes needs weights of at least 0 that are not all 0, found {given.tolist()}")
    return np.asarray((given / total) @ np.asarray(slopes, np.float64))


def mixed_slopes(setting: Setting, sources: Floats, shares: npt.ArrayLike) -> Floats:
    """Slopes [..., J] of models of k sources' data [k, d], mixed with shares [..., k] (P2)."""
    return mediant(np.asarray(shares) * setting.signals(sources), setting.slopes(sources))


def ensemble_probits(setting: Setting, sources: Floats, shares: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
    """Probit accuracies [..., 1 + J] expected of Σ α_i w_i / ‖w_i‖, one model of each source [k, d] (P3).

    α `shares` [k], `n` [..., k] or [..., 1] the samples of each model. The slope is the mediant with weights
    α_i a_i / ‖w_i‖: that of the mixture of data where all models have one length and α are the shares.
    """
    sizes = np.asarray(n, np.float64)
    weights = np.asarray(shares, np.float64) / setting.norms(sources, sizes)
    mean = weights @ sources
    noise = setting.noise**2 * sources.shape[-1] * (weights**2 / sizes).sum(axis=-1)
    return np.asarray(setting.products(mean) / np.sqrt((mean**2).sum(axis=-1) + noise)[..., None])


def filtered(setting: Setting, mean: Floats, scorer: Floats, thresholds: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Share kept [...] and mean [..., d] of what a scorer w_0 [d] leaves of a source [d], for `thresholds` τ [...].

    A sample is kept where y ⟨w_0, x⟩ / ‖w_0‖ ≥ τ. With t = (τ - ⟨θ, w_0⟩/‖w_0‖) / σ and h = φ / (1 - Φ), the share is
    1 - Φ(t) and the mean θ + σ h(t) w_0 / ‖w_0‖: filtered data take on the scorer's direction, hence its slope (P4),
    and a source that filters itself keeps its own (P5). τ = -∞ keeps all.
    """
    along = scorer / np.linalg.norm(scorer)
    t = (np.asarray(thresholds, np.float64) - mean @ along) / setting.noise
    hazard = np.exp(norm.logpdf(t) - norm.logsf(t))
    return np.asarray(norm.sf(t)), mean + setting.noise * hazard[..., None] * along


def filtered_probits(
    setting: Setting, mean: Floats, scorer: Floats, thresholds: npt.ArrayLike, n: npt.ArrayLike
) -> Floats:
    """Probit accuracies [..., 1 + J] expected after a filter over n raw samples: fewer samples, a better direction.

    Under shift they first rise and then fall with the threshold (P6). The noise along the scorer's direction, one of
    d, is taken as if nothing were cut off it.
    """
    kept, means = filtered(setting, mean, scorer, thresholds)
    return setting.expected(means, kept * np.asarray(n))


def dominating(slopes: Floats) -> int | None:
    """Which of k sources has the largest of slopes [k, J] under each of J shifts; None where none has (P7)."""
    best = slopes.argmax(axis=0)
    return int(best[0]) if (best == best[0]).all() else None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """The sources of the study's simulation (section 5.3), of which `a` is robust and `b` is not; `scorer` is much
    like `a`, `poor_scorer` less robust than `b`."""

    setting: Setting
    a: Floats
    b: Floats
    scorer: Floats
    poor_scorer: Floats


def example(d: int = 2000) -> Example:
    """Three directions matter: one that both test sets have, one of the reference alone, one of the shift alone."""

    def direction(*start: float) -> Floats:
        return np.concatenate([start, np.zeros(d - 3)])

    tests = np.stack([direction(1, 1, 0), direction(1, 0, 1)])
    a, b = 0.9 * direction(1, 0.2, 0.8), 0.9 * direction(1, 1, -0.4)
    return Example(Setting(tests, np.ones(2)), a, b, direction(1, 0.1, 0.9), direction(1, 1.4, -0.9))
