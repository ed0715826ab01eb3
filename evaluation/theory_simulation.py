"""The Gaussian model drawn at random: models learned from samples, to check what `evaluation.theory` says of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.lines import Floats
from evaluation.theory import Setting

SIZES = (50, 100, 200, 400, 800, 1600, 3200, 6400)
SEEDS = 10


def learned(
    setting: Setting, mean: Floats, sizes: npt.ArrayLike, rng: np.random.Generator, seeds: int = SEEDS
) -> Floats:
    """Models [seeds, m, d] of `sizes` [m] samples whose mean is `mean`, [d] or one a size [m, d].

    Drawn from the exact law of the mean of y x, without drawing the samples.
    """
    across = np.asarray(sizes, np.float64)
    noise = rng.standard_normal((seeds, len(across), mean.shape[-1]))
    return mean + setting.noise * noise / np.sqrt(across)[:, None]


def ensembles(
    setting: Setting, sources: Floats, shares: Floats, sizes: npt.ArrayLike, rng: np.random.Generator,
    seeds: int = SEEDS,
) -> Floats:  # fmt: skip
    """Models Σ α_i w_i / ‖w_i‖ [seeds, m, d]: one w_i a source [k, d] of `sizes` [m, k] or [m, 1] samples."""
    across = np.broadcast_to(sizes, (len(np.asarray(sizes)), len(sources)))
    total = np.zeros(())
    for i, share in enumerate(shares):
        w = learned(setting, sources[i], across[:, i], rng, seeds)
        total = total + share * w / np.linalg.norm(w, axis=-1, keepdims=True)
    return np.asarray(total)


def after_filter(
    setting: Setting, mean: Floats, scorer: Floats, thresholds: npt.ArrayLike, n: int, rng: np.random.Generator,
    seeds: int = SEEDS,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Shares kept [seeds, T] and models [seeds, T, d] of what a scorer [d] keeps of n samples, for `thresholds` [T].

    The scores are drawn sample by sample and cut; across the scorer's direction samples do not know of the cut, and
    only their mean is drawn. A model of nothing kept is NaN.
    """
    cuts = np.asarray(thresholds, np.float64)
    along = scorer / np.linalg.norm(scorer)
    scores = np.sort(mean @ along + setting.noise * rng.standard_normal((seeds, n)), axis=1)[:, ::-1]
    counts = (scores[:, None, :] >= cuts[:, None]).sum(axis=2)
    sums = np.concatenate([np.zeros((seeds, 1)), scores.cumsum(axis=1)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept_mean = np.take_along_axis(sums, counts, axis=1) / counts
        noise = setting.noise * rng.standard_normal((seeds, len(cuts), len(mean))) / np.sqrt(counts)[..., None]
    models = mean + noise
    return counts / n, models + (kept_mean - models @ along)[..., None] * along


def ray(probits: Floats) -> Floats:
    """Slopes [J] of the least squares rays from the origin through models' probit accuracies [..., 1 + J]."""
    across, up = probits[..., 0].ravel(), probits[..., 1:].reshape(-1, probits.shape[-1] - 1)
    return np.asarray(across @ up / (across @ across))
