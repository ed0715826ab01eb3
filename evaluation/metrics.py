"""Accuracies and their intervals, in plain numpy: from similarities to ranks, from ranks to figures.

Everything starts from `Ranks`, two counts for each picture, so that any method that can fill a matrix of
similarities (zero-shot, an ensemble, a tuned prompt) is measured by the same functions.

A tie is broken by a fair draw: a class whose score equals the true one's stands above it or below it with the same
chance. All figures are the exact expectation over those draws, so no result depends on the order of the classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from filters.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 1 << 24  # numbers held at once by the bootstrap: 128 MiB of counts


class Ranks(NamedTuple):
    """For each picture, how many other classes score above the true one, and how many score the same."""

    higher: Ints
    ties: Ints


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def true_ranks(similarity: NDArray[np.floating], labels: Ints) -> Ranks:
    """Where the true class stands among all classes.

    `similarity` [N, C] is any score that grows with agreement, `labels` [N] int64 in 0 to C - 1. Both counts of the
    result are int64 [N]. InputError for a score that is not a number, since it would rank as a win.
    """
    if np.isnan(similarity).any():
        raise InputError("similarities hold values that are not numbers; look for NaN in the model's embeddings")
    own = np.take_along_axis(similarity, labels[:, None], axis=1)
    higher = (similarity > own).sum(axis=1, dtype=np.int64)
    ties = (similarity == own).sum(axis=1, dtype=np.int64) - 1
    return Ranks(higher, ties)


def expected_k_way(ranks: Ranks, classes: int, k: int = 100) -> Floats:
    """Exact expected k-way accuracy of each picture, float64 [N] in 0 to 1.

    The k-way question shows the true class among k - 1 others drawn without replacement from the C - 1 there are, and
    counts it as right when none of them scores higher. With r classes above the true one the chance of that is the
    hypergeometric C(C-1-r, k-1) / C(C-1, k-1). With t ties it is the mean of that over r, r + 1, ..., r + t: the true
    class is equally likely to stand at each of those places. A guess gets 1 / k on average.

    InputError when fewer than k classes exist or k is below 2.
    """
    if not 2 <= k <= classes:
        raise InputError(
            f"{k}-way accuracy needs at least {k} classes and k of 2 or more, here are {classes} classes"
        )
    others, drawn = classes - 1, k - 1
    place = np.arange(others, dtype=np.float64)
    # The chance for r places above is that for r - 1 times the chance that the next place is not drawn either. The
    # product is exact at both ends (1 and 0), where log-gamma is not.
    survives = np.maximum(others - place - drawn, 0) / (others - place)
    chance = np.concatenate([[1.0], np.cumprod(survives)])
    below = np.concatenate([[0.0], np.cumsum(chance)])
    higher, ties = ranks
    tied = (below[higher + ties + 1] - below[higher]) / (ties + 1)
    return np.where(ties == 0, chance[higher], tied)


def top_k(ranks: Ranks, k: int) -> Floats:
    """Chance that the true class is among the first k of all classes, float64 [N]; 0 or 1 where nothing ties."""
    return np.clip(k - ranks.higher, 0, ranks.ties + 1) / (ranks.ties + 1)


def acc1(ranks: Ranks) -> float:
    """Share of pictures whose true class comes first."""
    return float(top_k(ranks, 1).mean())


def acc5(ranks: Ranks, classes: int) -> float | None:
    """Share of pictures whose true class is among the first five; None below five classes, where it says nothing."""
    return float(top_k(ranks, 5).mean()) if classes >= 5 else None


def mean_per_class_recall(ranks: Ranks, labels: Ints) -> float:
    """Mean over the classes that have pictures of the share of their pictures whose true class comes first."""
    counts = np.bincount(labels)
    right = np.bincount(labels, weights=top_k(ranks, 1))
    present = counts > 0
    return float((right[present] / counts[present]).mean())


def bootstrap_interval(values: Floats, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean of `values` [N], resampling pictures.

    A resample of N values is a multinomial draw over the distinct ones, which is the same law and needs memory for
    those only. The result depends on the values and the seed, not on their order. InputError for fewer than two.
    """
    if len(values) < 2:
        raise InputError(f"an interval needs at least two pictures, here are {len(values)}")
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(distinct))
    means = [
        generator.multinomial(len(values), counts / len(values), size=min(block, resamples - start)) @ distinct
        for start in range(0, resamples, block)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means) / len(values), [tail, 1 - tail])
    return Interval(float(low), float(high))


def clopper_pearson(successes: float, trials: int, level: float = 0.95) -> Interval:
    """Exact binomial interval (Clopper and Pearson 1934), never narrower than `level`; InputError for no trials."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} successes out of {trials} trials is not a count")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return Interval(low, high)


def at_floor(interval: Interval, chance: float) -> bool:
    """Whether the interval reaches down to chance, so that the figure shows no skill.

    A model that scores all classes alike has chance at both ends, give or take the last digits of the sums: hence the
    tolerance of 1e-9.
    """
    return interval.low <= chance + 1e-9
