"""UMFC on a stream: what is kept of it, and what may decide; T1, T6, T7, T10 and T15 of its page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation.umfc import Calibrator, Rule, calibrate
from evaluation.umfc_clusters import cluster
from tests.evaluation.umfc_plain import RULES, PlainStream, n, random_case


@pytest.mark.parametrize("rule", ["paper", "repo"])
def test_t1_and_t7_a_stream_is_the_one_that_keeps_everything(rule: Rule) -> None:
    """Logits, assignments and centroids of each batch, from sums alone."""
    features, text, _ = random_case(1, pictures=120)
    ours = Calibrator(4, rule=rule)
    plain = PlainStream(cluster(n(features[:40]), 4))
    for batch in np.split(features, [40, 41, 70, 95]):
        np.testing.assert_array_equal(ours.update(batch), plain.update(batch))
        np.testing.assert_allclose(ours.means, list(plain.means().values()), atol=1e-12)
        np.testing.assert_array_equal(ours.prototypes, ours.means)
        np.testing.assert_allclose(ours.predict(batch, text), plain.logits(batch, text, rule), atol=1e-8, rtol=0)
    assert ours.counts.sum() == 120


def test_a_stale_bias_counts_as_it_was_when_its_cluster_was_last_refreshed() -> None:
    """As released: a batch of one cluster moves the mean of all, but not the other clusters' biases."""
    features, text, given = random_case(2)
    stream = Calibrator(4, rule="repo").fit(features, given)
    batch = features[given == 3][:5]
    assert set(stream.update(batch).tolist()) == {3}
    f, mu = n(np.concatenate([features, batch])), stream.means
    before, after = n(features).mean(axis=0), f.mean(axis=0)
    total = sum(before - mu[i] for i in range(3)) + after - mu[3]
    moved = n(n(text) - 0.3 * n(total))
    expected = 100 * n(batch) @ moved.T - 90 * mu[3] @ n(text).T
    np.testing.assert_allclose(stream.predict(batch, text), expected, atol=1e-8)


@pytest.mark.parametrize("update", ["memory", "ema"])
def test_t6_one_batch_of_a_stream_is_the_transductive_setting(update: Any) -> None:
    features, text, _ = random_case()
    stream = Calibrator(4, update=update)
    given = stream.update(features)
    once = Calibrator(4).fit(features)
    np.testing.assert_allclose(stream.predict(features, text), once.predict(features, text), atol=1e-9)
    np.testing.assert_allclose(once.predict(features, text), calibrate(features, text, given), atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("update", ["memory", "ema"])
def test_t10_constant_features(rule: Rule, update: Any) -> None:
    text = random_case()[1]
    same = np.tile(random_case()[0][:1], (20, 1))
    stream = Calibrator(3, rule=rule, update=update)
    for batch in (same, same[:1], same):
        stream.update(batch)
        assert np.isfinite(stream.predict(batch, text)).all()
    assert np.isfinite(Calibrator(3, rule=rule).fit(same).predict(same, text)).all()


@pytest.mark.parametrize("size", [1, 3])
def test_t10_a_first_batch_that_is_too_small_gives_the_first_centres(size: int) -> None:
    features, text, _ = random_case()
    stream = Calibrator(5)
    for start in range(0, 12, size):
        batch = features[start : start + size]
        labels = stream.update(batch)
        new = max(0, min(5, start + size) - start)
        np.testing.assert_array_equal(labels[:new], np.arange(start, start + new))
        assert np.isfinite(stream.predict(batch, text)).all()
    seen = n(features[:12])
    expected = seen[:5].copy()
    counts = np.ones(5)
    for x in np.split(seen[5:], range(1, 7)) if size == 1 else []:
        i = int(np.argmin(np.linalg.norm(expected - x, axis=1)))
        expected[i] = (expected[i] * counts[i] + x[0]) / (counts[i] + 1)
        counts[i] += 1
    if size == 1:
        np.testing.assert_allclose(stream.prototypes, expected, atol=1e-12)
    assert stream.counts.sum() == 12


def test_balanced_biases_have_no_direction() -> None:
    """In a stream the released sum is rounding noise where clusters are balanced: it is skipped, not normalised."""
    rng = np.random.default_rng(0)
    base = n(rng.standard_normal((2, 16)))
    features = np.concatenate([np.tile(base[0], (10, 1)), np.tile(base[1], (10, 1))])
    text = rng.standard_normal((3, 16))
    stream = Calibrator(2, rule="repo", alpha=0)
    stream.update(features)
    np.testing.assert_allclose(stream.predict(features, text), 100 * n(features) @ n(text).T, atol=1e-9)


@pytest.mark.parametrize("rule", ["paper", "repo"])
@pytest.mark.parametrize("update", ["memory", "ema"])
def test_t15_only_what_came_before_counts(rule: Rule, update: Any) -> None:
    features, text, _ = random_case(4, pictures=90)
    later = random_case(5, pictures=90)[0]
    seen = []
    for rest in (features[60:], later[60:]):
        stream = Calibrator(4, rule=rule, update=update)
        logits = []
        for batch in (features[:30], features[30:60], rest):
            stream.update(batch)
            logits.append(stream.predict(batch, text))
        seen.append(logits)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_an_exponential_mean_begins_at_its_first_batch() -> None:
    """The released code begins at zero and averages the mean of all into itself."""
    features, _, given = random_case()
    stream = Calibrator(4, update="ema", decay=0.75).fit(features, given)
    f, first = n(features), Calibrator(4).fit(features, given).means
    np.testing.assert_allclose(stream.means, first, atol=1e-15)
    batch = features[given == 1][:3]
    labels = stream.update(batch)
    for i in range(4):
        held = n(batch)[labels == i]
        expected = 0.75 * first[i] + 0.25 * held.mean(axis=0) if len(held) else first[i]
        np.testing.assert_allclose(stream.means[i], expected, atol=1e-12)
    together = Calibrator(4).fit(np.concatenate([features, batch]), np.concatenate([given, labels]))
    np.testing.assert_allclose(stream.prototypes, together.means, atol=1e-12)
    assert f.shape == features.shape


def test_memory_does_not_grow_with_what_was_seen() -> None:
    sizes = set()
    stream = Calibrator(3)
    for seed in range(5):
        stream.update(random_case(seed, pictures=200)[0])
        sizes.add(stream.state_bytes)
    assert len(sizes) == 1
    assert sizes.pop() <= 3 * 8 * (3 + 1) * 16
    wide = Calibrator(6).fit(random_case(0, pictures=200, width=32)[0])
    assert wide.state_bytes <= 3 * 8 * (6 + 1) * 32
