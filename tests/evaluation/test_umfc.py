"""UMFC against a plain float64 implementation, its clusters given; T1 to T15 are those of its page."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.umfc import Calibrator, Rule, calibrate
from filters.errors import ConfigError, InputError
from tests.evaluation.umfc_plain import RULES, n, oracle, random_case


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_t1_logits_are_the_oracles(rule: Rule, seed: int) -> None:
    features, text, given = random_case(seed)
    expected = oracle(features, text, given, rule)
    np.testing.assert_allclose(calibrate(features, text, given, rule=rule), expected, atol=1e-8, rtol=0)
    single = calibrate(features.astype(np.float32), text.astype(np.float32), given, rule=rule)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-4, rtol=0)


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
def test_t14_rotating_all_features_changes_nothing(rule: Rule) -> None:
    features, text, given = random_case()
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((16, 16)))[0]
    expected = calibrate(features, text, given, rule=rule)
    np.testing.assert_allclose(calibrate(features @ turn, text @ turn, given, rule=rule), expected, atol=1e-9)


def test_predicting_changes_nothing() -> None:
    features, text, _ = random_case()
    owner = Calibrator(4).fit(features)
    before, kept = owner.predict(features, text), owner.means.copy()
    owner.predict(features[:7], text)
    np.testing.assert_array_equal(owner.predict(features, text), before)
    np.testing.assert_array_equal(owner.means, kept)


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
