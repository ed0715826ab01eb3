"""UMFC's clusters and their domains; T11, T12 and T13 of its page."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.umfc import Calibrator
from evaluation.umfc_clusters import agreement, cluster
from tests.evaluation.umfc_plain import Array, n, random_case


def test_t11_k_means_is_a_function_of_its_seed() -> None:
    """It ends where each row is with its nearest mean, which leaves faiss's own rounding (CPU or GPU) behind."""
    rows = n(random_case(3, pictures=500, clusters=6)[0])
    first = cluster(rows, 6, seed=5)
    np.testing.assert_array_equal(first, cluster(rows, 6, seed=5))
    means = np.array([rows[first == i].mean(axis=0) for i in range(6)])
    np.testing.assert_array_equal(first, np.linalg.norm(rows[:, None] - means, axis=2).argmin(axis=1))


def toy(seed: int = 0, each: int = 120, classes: int = 12, width: int = 64) -> tuple[Array, Array, Array, Array]:
    """Four domains of one direction each, that texts lean to as well: features, texts, labels, domains."""
    rng = np.random.default_rng(seed)
    concept = n(rng.standard_normal((classes, width)))
    domain = n(rng.standard_normal((4, width)))
    labels = np.tile(np.arange(classes), 4 * each // classes)
    domains = np.repeat(np.arange(4), each)
    strength = np.array([0.6, 1.0, 1.6, 2.4])[domains, None]
    noise = 0.06 * rng.standard_normal((len(labels), width))
    features = n(concept[labels] + strength * domain[domains] + noise)
    return features, concept + 0.6 * rng.standard_normal((classes, 4)) @ domain, labels, domains


def test_t12_prototypes_and_means_cannot_be_mixed_up() -> None:
    """Numbers of clusters differ between runs of k-means; one owner makes that harmless, copied numbers do not."""
    features, text, labels, domains = toy()
    halves = np.arange(len(features)) % 2 == 0
    owner = Calibrator(4).fit(features[halves])
    right = (owner.predict(features[~halves], text).argmax(axis=1) == labels[~halves]).mean()
    relabelled = Calibrator(4).fit(features[halves], np.array([2, 0, 3, 1])[domains[halves]])
    np.testing.assert_allclose(owner.predict(features, text), relabelled.predict(features, text), atol=1e-9)
    mixed_up = owner.means[[1, 2, 3, 0]][owner.update(features[~halves])]
    wrong = ((n(n(features[~halves]) - mixed_up) @ n(text).T).argmax(axis=1) == labels[~halves]).mean()
    assert right > 0.9 > 0.6 > wrong


def test_t13_domains_are_told_apart_and_taken_out() -> None:
    features, text, labels, domains = toy()
    owner = Calibrator(4).fit(features)
    assert agreement(owner.update(features), domains) == pytest.approx((1, 1))
    zero = (n(features) @ n(text).T).argmax(axis=1) == labels
    ours = owner.predict(features, text).argmax(axis=1) == labels
    for i, least in enumerate((0.0, 0.2, 0.4, 0.5)):
        there = domains == i
        assert ours[there].mean() > 0.9
        assert ours[there].mean() - zero[there].mean() >= least


def test_agreement_of_clusters_with_domains() -> None:
    domains = np.repeat([0, 1, 2], 10)
    assert agreement(np.array([5, 3, 9])[domains], domains) == pytest.approx((1, 1))
    assert agreement(np.zeros(30, int), domains) == pytest.approx((0, 1 / 3), abs=1e-12)
    assert agreement(np.zeros(4, int), np.zeros(4, int)) == (1, 1)
