from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.probe import few_shot, fit_probe
from filters.errors import InputError


def blobs(each: int, classes: int = 4, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(9).normal(size=(classes, 16))
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    found = centres[labels] + noise * rng.normal(size=(len(labels), 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), labels


def test_a_probe_tells_classes_apart_and_is_at_its_minimum() -> None:
    features, labels = blobs(40)
    probe = fit_probe(features, labels, 4, strength=1e-3)
    fresh, truth = blobs(40, seed=1)
    assert (probe.scores(fresh).argmax(axis=1) == truth).mean() > 0.95
    # the gradient by hand
    scores = features.astype(np.float64) @ probe.weight.T + probe.bias
    chance = np.exp(scores - scores.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    wrong = (chance - np.eye(4)[labels]) / len(labels)
    assert np.abs(wrong.T @ features + 1e-3 * probe.weight).max() < 1e-5
    assert np.abs(wrong.sum(axis=0)).max() < 1e-5


def test_the_penalty_is_chosen_by_held_back_pictures() -> None:
    features, labels = blobs(20, noise=1.2)
    probe = fit_probe(features, labels, 4)
    assert probe.strength in [10.0**power for power in range(-6, 3)]
    again = fit_probe(features, labels, 4)
    np.testing.assert_array_equal(again.weight, probe.weight)
    fresh, truth = blobs(100, noise=1.2, seed=1)

    def loss(strength: float) -> float:
        scores = torch.from_numpy(fit_probe(features, labels, 4, strength=strength).scores(fresh))
        return float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(truth)))

    assert loss(probe.strength) < min(loss(1e-6), loss(100.0))


def test_few_shots_are_nested_and_even() -> None:
    _, labels = blobs(10)
    two, five = few_shot(labels, 2), few_shot(labels, 5)
    assert set(two) < set(five)
    assert np.bincount(labels[five]).tolist() == [5] * 4
    assert not np.array_equal(two, few_shot(labels, 2, seed=1))
    with pytest.raises(InputError, match="class 0 has 10 pictures, fewer than 11"):
        few_shot(labels, 11)


def test_what_cannot_be_fitted_is_refused() -> None:
    features, labels = blobs(5)
    with pytest.raises(InputError, match="4 of 5 classes have pictures"):
        fit_probe(features, labels, 5)
    with pytest.raises(InputError, match="1 of 1 classes"):
        fit_probe(features[:5], labels[:5], 1)
    features[0, 0] = np.nan
    with pytest.raises(InputError, match="not numbers"):
        fit_probe(features, labels, 4)
