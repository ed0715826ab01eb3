"""Ranks, the exact k-way accuracy against enumeration, and intervals against known values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from evaluation import metrics
from evaluation.metrics import Interval, Ranks
from filters.errors import InputError


def enumerated(scores: np.ndarray, label: int, k: int) -> float:
    """k-way accuracy of one picture over every draw of distractors; with t ties among them it wins 1 / (t + 1)."""
    others = np.delete(scores, label)
    draws = list(combinations(others, k - 1))
    won = [0.0 if max(d) > scores[label] else 1 / (1 + d.count(scores[label])) for d in draws]
    return float(np.mean(won))


@pytest.mark.parametrize(("classes", "k"), [(2, 2), (5, 2), (6, 3), (7, 7), (8, 5)])
@pytest.mark.parametrize("levels", [3, 1000])
def test_expected_k_way_equals_enumeration(classes: int, k: int, levels: int) -> None:
    """Exact to 1e-12, with many ties (three score levels) and hardly any."""
    generator = np.random.default_rng(classes * 100 + k)
    scores = generator.integers(0, levels, (40, classes)).astype(float)
    labels = generator.integers(0, classes, 40)
    ours = metrics.expected_k_way(metrics.true_ranks(scores, labels), classes, k)
    truth = [enumerated(row, label, k) for row, label in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(ours, truth, atol=1e-12, rtol=0)


def test_all_classes_drawn_is_plain_accuracy() -> None:
    """With k = C the question is the whole task: 1 for the first place, 0 for any other."""
    ranks = Ranks(np.arange(10), np.zeros(10, np.int64))
    np.testing.assert_array_equal(metrics.expected_k_way(ranks, 10, 10), [1.0] + [0.0] * 9)


def test_constant_scores_give_chance() -> None:
    """A model that says nothing gets exactly 1 / k, whatever the number of classes."""
    ranks = metrics.true_ranks(np.zeros((3, 500)), np.array([0, 7, 499]))
    np.testing.assert_allclose(metrics.expected_k_way(ranks, 500, 100), 0.01, rtol=1e-12)
    assert metrics.acc1(ranks) == pytest.approx(1 / 500, rel=1e-12)


def test_mean_over_ranks_is_chance() -> None:
    """The mean over all C places is 1 / k: guessing cannot do better (a check of the whole table)."""
    ranks = Ranks(np.arange(1000), np.zeros(1000, np.int64))
    values = metrics.expected_k_way(ranks, 1000, 100)
    assert values.mean() == pytest.approx(0.01, rel=1e-10)
    assert values[0] == 1 and values[-1] == 0 and (np.diff(values) <= 0).all()


@pytest.mark.parametrize(("classes", "k"), [(99, 100), (1, 1), (10, 1), (1, 2)])
def test_too_few_classes(classes: int, k: int) -> None:
    with pytest.raises(InputError, match="needs at least"):
        metrics.expected_k_way(Ranks(np.array([0]), np.array([0])), classes, k)


def test_true_ranks_counts_higher_and_ties() -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.9], [0.3, 0.3, 0.3, 0.3]], dtype=np.float32)
    ranks = metrics.true_ranks(scores, np.array([1, 0]))
    assert ranks.higher.tolist() == [1, 0] and ranks.ties.tolist() == [1, 3]
    assert ranks.higher.dtype == ranks.ties.dtype == np.int64


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="not numbers"):
        metrics.true_ranks(np.array([[0.0, np.nan]]), np.array([0]))


def test_class_order_does_not_matter() -> None:
    """Renumbering the classes leaves every figure as it is, ties included (exact)."""
    generator = np.random.default_rng(3)
    scores, labels = generator.integers(0, 6, (60, 20)).astype(float), generator.integers(0, 20, 60)
    order = generator.permutation(20)
    one = metrics.true_ranks(scores, labels)
    two = metrics.true_ranks(scores[:, order], np.argsort(order)[labels])
    np.testing.assert_array_equal(one.higher, two.higher)
    np.testing.assert_array_equal(one.ties, two.ties)


def test_accuracies_by_hand() -> None:
    ranks = Ranks(np.array([0, 0, 4, 6]), np.array([0, 1, 1, 0]))
    assert metrics.acc1(ranks) == pytest.approx((1 + 0.5) / 4)
    assert metrics.acc5(ranks, 10) == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert metrics.acc5(ranks, 4) is None
    assert metrics.mean_per_class_recall(ranks, np.array([0, 0, 0, 2])) == pytest.approx(0.5 * (1.5 / 3))


def test_bootstrap_is_seeded_and_ignores_order() -> None:
    values = np.random.default_rng(0).random(300)
    first = metrics.bootstrap_interval(values, seed=5)
    assert first == metrics.bootstrap_interval(values[::-1].copy(), seed=5)
    assert first != metrics.bootstrap_interval(values, seed=6)
    assert first.low < values.mean() < first.high


def test_bootstrap_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by drawing in blocks; the draws are those of one block."""
    values = np.random.default_rng(0).random(50)
    whole = metrics.bootstrap_interval(values, seed=1, resamples=101)
    monkeypatch.setattr(metrics, "_BLOCK", 500)
    assert metrics.bootstrap_interval(values, seed=1, resamples=101) == whole


def test_bootstrap_covers() -> None:
    """Of 300 seeded samples of 200 draws from a known law, 95 % intervals cover its mean in 91 to 98 %."""
    generator = np.random.default_rng(11)
    hits = 0
    for seed in range(300):
        low, high = metrics.bootstrap_interval(generator.beta(0.4, 1.6, 200), seed, resamples=300)
        hits += low <= 0.2 <= high
    assert 0.91 <= hits / 300 <= 0.98


def test_bootstrap_needs_two() -> None:
    with pytest.raises(InputError, match="at least two"):
        metrics.bootstrap_interval(np.array([0.5]), 0)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129), (1, 100, 0.000253, 0.0545)],
)
def test_clopper_pearson_known_values(successes: int, trials: int, low: float, high: float) -> None:
    """Values of the standard tables, to their four digits."""
    interval = metrics.clopper_pearson(successes, trials)
    assert interval == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_clopper_pearson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(InputError, match="not a count"):
        metrics.clopper_pearson(successes, trials)


def test_at_floor_is_touching() -> None:
    assert metrics.at_floor(Interval(0.01, 0.2), 0.01)
    assert metrics.at_floor(Interval(0.0, 0.005), 0.01)
    assert not metrics.at_floor(Interval(0.0101, 0.2), 0.01)


def test_a_model_that_cannot_tell_classes_apart_is_at_the_floor() -> None:
    """Constant scores are chance exactly, but the sums end some last digits beside it for many class counts."""
    for classes in range(100, 400, 7):
        ranks = Ranks(np.zeros(classes, np.int64), np.full(classes, classes - 1))
        for k in (2, 5, 10, 100):
            values = metrics.expected_k_way(ranks, classes, k)
            assert metrics.at_floor(metrics.bootstrap_interval(values, 0, resamples=2), 1 / k), (classes, k)
