"""UMFC against a plain float64 implementation, and the invariants of its description (T1 to T15)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.umfc import Calibrator, Rule, calibrate
from evaluation.umfc_clusters import agreement, cluster
from filters.errors import ConfigError, InputError

RULES: tuple[Rule, ...] = ("paper", "repo", "ifc_only", "tfc_only")
Array = np.ndarray[Any, Any]


def n(rows: Array) -> Array:
    normalised: Array = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return normalised


def random_case(
    seed: int = 0, pictures: int = 60, classes: int = 7, width: int = 16, clusters: int = 4
) -> tuple[Array, Array, Array]:
    """Features with clusters of unequal size, texts, and the cluster of each feature."""
    rng = np.random.default_rng(seed)
    given = rng.choice(clusters, pictures, p=np.arange(1, clusters + 1) / (clusters * (clusters + 1) / 2))
    given[:clusters] = np.arange(clusters)
    given[clusters : 2 * clusters] = np.arange(clusters)
    centres = 0.7 * rng.standard_normal((clusters, width))
    features = centres[given] + rng.standard_normal((pictures, width)) + 1
    return features, rng.standard_normal((classes, width)) + 0.5, given


def oracle(
    features: Array, text: Array, given: Array, rule: str, alpha: float = 0.9, beta: float = 0.3, scale: float = 100.0
) -> Array:
    """The description in loops: one picture, one class and one cluster at a time."""
    f, t = n(features), n(text)
    names = sorted(set(given.tolist()))
    mu = {i: np.mean([f[k] for k in range(len(f)) if given[k] == i], axis=0) for i in names}
    average = np.mean(f, axis=0)
    if rule == "repo":
        terms = [(average - mu[i]) / np.linalg.norm(average - mu[i]) for i in names]
        bias = np.sum(terms, axis=0)
        moved = [n(t_j - beta * n(bias)) for t_j in t]
        return np.array(
            [
                [scale * f[k] @ moved[j] - alpha * scale * mu[given[k]] @ t[j] for j in range(len(t))]
                for k in range(len(f))
            ]
        )
    if rule != "ifc_only":
        t = np.array([np.mean([n(t_j - (mu[i] - average)) for i in names], axis=0) for t_j in t])
    if rule != "tfc_only":
        f = np.array([f[k] - mu[given[k]] for k in range(len(f))])
    return np.array([[scale * n(f_k) @ n(t_j) for t_j in t] for f_k in f])


def nearest(x: Array, centres: dict[int, Array]) -> int:
    return min(centres, key=lambda i: float(np.linalg.norm(x - centres[i])))


class PlainStream:
    """A stream as the released code treats it: every feature is kept, and every mean taken anew in each batch."""

    def __init__(self, first: Array) -> None:
        self.features: list[Array] = []
        self.labels: list[int] = []
        self.biases: dict[int, Array] = {}
        self.first: Array | None = first

    def update(self, batch: Array) -> Array:
        if self.first is not None:
            labels, self.first = self.first, None
        else:
            centres = self.means()
            labels = np.array([nearest(x, centres) for x in n(batch)])
        self.features += list(n(batch))
        self.labels += labels.tolist()
        for i in set(labels.tolist()):
            self.biases[i] = np.mean(self.features, axis=0) - self.means()[i]
        return labels

    def means(self) -> dict[int, Array]:
        known = np.array(self.labels)
        return {i: np.array(self.features)[known == i].mean(axis=0) for i in sorted(set(self.labels))}

    def logits(self, batch: Array, text: Array, rule: str, scale: float = 100.0) -> Array:
        f, t, mu = n(batch), n(text), self.means()
        own = np.array([mu[nearest(x, mu)] for x in f])
        if rule == "repo":
            total = np.sum(list(self.biases.values()), axis=0)
            moved = n(t - 0.3 * n(total)) if np.linalg.norm(total) > 1e-6 else t
            return scale * f @ moved.T - 0.9 * scale * own @ t.T
        average = np.mean(self.features, axis=0)
        t = np.mean([n(t - (mu[i] - average)) for i in mu], axis=0)
        return scale * n(f - own) @ n(t).T


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_t1_logits_are_the_oracles(rule: Rule, seed: int) -> None:
    features, text, given = random_case(seed)
    expected = oracle(features, text, given, rule)
    np.testing.assert_allclose(calibrate(features, text, given, rule=rule), expected, atol=1e-8, rtol=0)
    single = calibrate(features.astype(np.float32), text.astype(np.float32), given, rule=rule)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-4, rtol=0)


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


def test_t2_calibrated_features_have_mean_zero_in_each_cluster() -> None:
    features, _, given = random_case()
    means = Calibrator(4).fit(features, given).means
    for i in range(4):
        rest = n(features)[given == i] - means[i]
        assert np.abs(rest.mean(axis=0)).max() < 1e-15


@pytest.mark.parametrize("rule", RULES)
def test_t3_numbers_of_clusters_mean_nothing(rule: Rule) -> None:
    features, text, given = random_case()
    expected = calibrate(features, text, given, rule=rule)
    for order in itertools.islice(itertools.permutations(range(4)), 0, None, 5):
        np.testing.assert_allclose(calibrate(features, text, np.array(order)[given], rule=rule), expected, atol=1e-9)
    gaps = calibrate(features, text, np.array([-3, 40, 7, 1000])[given], rule=rule)
    np.testing.assert_allclose(gaps, expected, atol=1e-9)


def test_t4_one_cluster_centres_pictures_and_leaves_texts() -> None:
    features, text, _ = random_case()
    f = n(features)
    expected = 100 * n(f - f.mean(axis=0)) @ n(text).T
    np.testing.assert_allclose(calibrate(features, text, np.zeros(60, int)), expected, atol=1e-9)


def test_t5_ifc_of_the_paper_decides_as_the_released_rule_with_full_weight() -> None:
    features, text, given = random_case()
    paper = calibrate(features, text, given, rule="ifc_only")
    repo = calibrate(features, text, given, rule="repo", alpha=1, beta=0)
    np.testing.assert_array_equal(paper.argmax(axis=1), repo.argmax(axis=1))


@pytest.mark.parametrize("update", ["memory", "ema"])
def test_t6_one_batch_of_a_stream_is_the_transductive_setting(update: Any) -> None:
    features, text, _ = random_case()
    stream = Calibrator(4, update=update)
    given = stream.update(features)
    once = Calibrator(4).fit(features)
    np.testing.assert_allclose(stream.predict(features, text), once.predict(features, text), atol=1e-9)
    np.testing.assert_allclose(once.predict(features, text), calibrate(features, text, given), atol=1e-9)


def test_t8_the_released_image_bias_is_linear_in_the_mean() -> None:
    features, text, given = random_case()
    zero = 100 * n(features) @ n(text).T
    bias = zero - calibrate(features, text, given, rule="repo", alpha=1, beta=0)
    for i in range(4):
        mean_logits = zero[given == i].mean(axis=0)
        np.testing.assert_allclose(bias[given == i], np.tile(mean_logits, ((given == i).sum(), 1)), atol=1e-9)


def test_t9_no_weight_is_zero_shot() -> None:
    features, text, given = random_case()
    got = calibrate(features, text, given, rule="repo", alpha=0, beta=0, scale=50)
    np.testing.assert_allclose(got, 50 * n(features) @ n(text).T, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_t10_empty_and_single_clusters(rule: Rule) -> None:
    """A cluster's only picture has nothing left after its mean is taken off, and is predicted as it was."""
    features, text, given = random_case()
    given[:] = np.where(given == 2, 1, given)
    given[0] = 2
    owner = Calibrator(9, rule=rule).fit(features, given)
    assert np.isfinite(owner.predict(features, text)).all()
    np.testing.assert_array_equal(np.isnan(owner.means).all(axis=1), owner.counts == 0)
    if rule == "ifc_only":
        np.testing.assert_allclose(owner.predict(features[:1], text), 100 * n(features[:1]) @ n(text).T, atol=1e-9)


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


@pytest.mark.parametrize("rule", RULES)
def test_t14_rotating_all_features_changes_nothing(rule: Rule) -> None:
    features, text, given = random_case()
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((16, 16)))[0]
    expected = calibrate(features, text, given, rule=rule)
    np.testing.assert_allclose(calibrate(features @ turn, text @ turn, given, rule=rule), expected, atol=1e-9)


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


def test_predicting_changes_nothing() -> None:
    features, text, _ = random_case()
    owner = Calibrator(4).fit(features)
    before, kept = owner.predict(features, text), owner.means.copy()
    owner.predict(features[:7], text)
    np.testing.assert_array_equal(owner.predict(features, text), before)
    np.testing.assert_array_equal(owner.means, kept)


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


def test_tensors_come_back_as_tensors() -> None:
    features, text, given = random_case()
    expected = calibrate(features, text, given)
    got = calibrate(torch.from_numpy(features), torch.from_numpy(text), torch.from_numpy(given))
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float64
    np.testing.assert_array_equal(got.numpy(), expected)
    half = (
        Calibrator(4).fit(torch.from_numpy(features).half(), given).predict(torch.from_numpy(features).half(), text)
    )
    assert half.dtype == torch.float32
    np.testing.assert_array_equal(half.argmax(dim=1).numpy()[:20], expected.argmax(axis=1)[:20])


def test_agreement_of_clusters_with_domains() -> None:
    domains = np.repeat([0, 1, 2], 10)
    assert agreement(np.array([5, 3, 9])[domains], domains) == pytest.approx((1, 1))
    assert agreement(np.zeros(30, int), domains) == pytest.approx((0, 1 / 3), abs=1e-12)
    assert agreement(np.zeros(4, int), np.zeros(4, int)) == (1, 1)


def test_wrong_input_is_one_line() -> None:
    features, text, given = random_case()
    bad = features.copy()
    bad[7, 2] = np.nan
    cases: list[tuple[Any, str]] = [
        (lambda: calibrate(bad, text, given), "features: row 7 is zero or holds NaN"),
        (lambda: calibrate(features, text[:1], given), "one class"),
        (lambda: calibrate(features, text[:, :5], given), "text has 5 numbers a row, 16 are needed"),
        (lambda: calibrate(features, text, given[:5]), "expected one integer for 60 rows"),
        (lambda: calibrate(features[0], text, given), "has shape"),
        (lambda: Calibrator(4).predict(features, text), "has seen no pictures"),
        (lambda: Calibrator(2).fit(features, given), "assignments run from 0 to 3, there are 2 clusters"),
        (lambda: Calibrator(4).fit(features).update(features[:, :3]), "batch has 3 numbers a row"),
        (lambda: Calibrator(4).fit(features * 0), "row 0 is zero"),
    ]
    for call, says in cases:
        with pytest.raises(InputError, match=says):
            call()
    wrong: dict[str, Any] = {"rule": "papers", "update": "mean", "decay": 1.0, "alpha": np.nan}
    for name, value in wrong.items():
        with pytest.raises(ConfigError):
            Calibrator(4, **{name: value})
    with pytest.raises(ConfigError, match="0 clusters"):
        Calibrator(0)
