"""The theory with many classes: lines with intercepts and accuracies under one half, as zero-shot models have them.

Class k has a direction that both test sets share, one of the reference alone and one of the shift alone; a source's
prototype of the class mixes the three, and a model is the mean of n samples of each class, which answers
argmax_k ⟨x, w_k⟩ (section 5.4 of the study's notes). Nothing here has a closed form: models are drawn and tested on
drawn pictures, and lines are fitted as they are to real models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from evaluation.lines import Floats, Line, least_squares

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)  # samples a class
AT = 0.3  # reference accuracy at which lines are compared
_TEST_NOISE, _NOISE = 0.3, 1.5  # standard deviation of a picture in a test set, and of a training sample

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Prototypes float64 [K, d] of each source, and test sets: pictures float32 [N, d] of the reference and of the
    shift, labels [N]."""

    sources: Mapping[str, Floats]
    reference: Singles
    shift: Singles
    labels: npt.NDArray[np.intp]


def make_world(rng: np.random.Generator, *, classes: int = 100, d: int = 400, per_class: int = 40) -> World:
    """The study's world: sources `a` (robust), `b` (leans on what only the reference has), `imagenet` (like it)."""
    core, only_reference, only_shift = np.eye(d)[: 3 * classes].reshape(3, classes, d)
    sources = {
        "a": core + 0.2 * only_reference + 0.8 * only_shift,
        "b": core + only_reference - 0.1 * only_shift,
        "imagenet": core + only_reference,
    }
    labels = np.repeat(np.arange(classes), per_class)
    reference, shift = (
        ((core + alone)[labels] + _TEST_NOISE * rng.standard_normal((len(labels), d))).astype(np.float32)
        for alone in (only_reference, only_shift)
    )
    return World(sources, reference, shift, labels)


def learned(prototypes: Floats, sizes: Sequence[float], rng: np.random.Generator, seeds: int = 3) -> Singles:
    """Models float32 [seeds * m, K, d], one a seed for each of `sizes` [m]: the mean of so many samples a class."""
    across = np.tile(np.asarray(sizes, np.float64), seeds)[:, None, None]
    noise = rng.standard_normal((len(across), *prototypes.shape), dtype=np.float32)
    return np.asarray(prototypes + _NOISE / np.sqrt(across) * noise, np.float32)


def joined(models: Sequence[Singles], weights: Sequence[float]) -> Singles:
    """Output mixing: the weighted sum [m, K, d] of models of length one."""
    lengths = [np.linalg.norm(one, axis=(1, 2), keepdims=True) for one in models]
    scaled = [w * one / length for one, w, length in zip(models, weights, lengths, strict=True)]
    return np.asarray(sum(scaled), np.float32)


def filtered(prototypes: Floats, scorer: Floats, fraction: float) -> Floats:
    """Prototypes [K, d] of the `fraction` of each class's samples that score highest by ⟨x, w_k⟩ / ‖w_k‖ of a scorer.

    As in `evaluation.theory.filtered`: the mean moves along the scorer's direction by σ φ(t) / fraction.
    """
    along = scorer / np.linalg.norm(scorer, axis=1, keepdims=True)
    return np.asarray(prototypes + _NOISE * norm.pdf(norm.isf(fraction)) / fraction * along)


def accuracies(world: World, models: Singles) -> Floats:
    """Accuracies float64 [m, 2] of models [m, K, d] on the reference and under shift."""
    flat = models.reshape(-1, models.shape[-1]).T
    found = [
        ((pictures @ flat).reshape(len(pictures), *models.shape[:2]).argmax(axis=2) == world.labels[:, None]).mean(0)
        for pictures in (world.reference, world.shift)
    ]
    return np.stack(found, axis=1)


def fitted(world: World, models: Singles) -> Line:
    """The probit line of shifted on reference accuracy through models [m, K, d]."""
    x, y = accuracies(world, models).T
    return least_squares(x, y, images=(len(world.labels), len(world.labels)))
