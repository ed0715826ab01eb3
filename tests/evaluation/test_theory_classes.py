"""The theory with 100 classes, section 5.4 of the study: lines, mixtures, ensembles and filters.

The study gives one draw of each figure and not its number of test pictures; with 5,000 and two seeds, accuracies read
off the lines scatter by .003 to .005 (standard deviation), those of `a` and of mixtures that are mostly `a`, whose
models end below the 30 % at which they are read, by .012 and .007. Tolerances are two to three times that.
"""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.theory_classes import AT, SIZES, World, accuracies, filtered, fitted, joined, learned, make_world

SHARES = (0.25, 0.5, 0.75)
FRACTIONS = (1.0, 0.5, 0.3, 0.1)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(np.random.default_rng(0), per_class=50)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_lines_of_sources(world: World, rng: np.random.Generator) -> None:
    expected = {"a": (1.53, 1.20, 0.654), "b": (0.43, -1.29, 0.065), "imagenet": (0.49, -1.16, 0.078)}
    for name, (slope, intercept, at) in expected.items():
        line = fitted(world, learned(world.sources[name], SIZES, rng, seeds=2))
        wide = 2.5 if name == "a" else 1
        assert line.slope == pytest.approx(slope, abs=0.05 * wide)
        assert line.intercept == pytest.approx(intercept, abs=0.06 * wide)
        assert float(line.at(AT)) == pytest.approx(at, abs=0.012 * wide)
        assert line.r2 > 0.97


def test_a4_mixtures_lie_in_order_between_their_sources_and_ensembles_predict_them(
    world: World, rng: np.random.Generator
) -> None:
    a, b = world.sources["a"], world.sources["b"]
    mixed = [read(world, learned(p * a + (1 - p) * b, SIZES, rng, 2)) for p in SHARES]
    pairs = [(learned(a, SIZES, rng, 2), learned(b, SIZES, rng, 2)) for _ in SHARES]
    ensembles = [read(world, joined(pair, (p, 1 - p))) for p, pair in zip(SHARES, pairs, strict=True)]
    alone = [read(world, np.concatenate([pair[i] for pair in pairs])) for i in (0, 1)]
    assert alone[0] > mixed[2] > mixed[1] > mixed[0] > alone[1]
    np.testing.assert_allclose(mixed, [0.118, 0.210, 0.385], atol=0.02)
    np.testing.assert_allclose(ensembles, [0.119, 0.216, 0.391], atol=0.02)
    np.testing.assert_allclose(ensembles, mixed, atol=0.02)


def test_filters_take_on_the_scorers_line(world: World, rng: np.random.Generator) -> None:
    a, b = world.sources["a"], world.sources["b"]
    scorers = {"a": a, "b": b, "random": rng.standard_normal(a.shape)}
    expected = {"a": [0.065, 0.198, 0.249, 0.322], "b": [0.065, 0.065, 0.064, 0.066], "random": [0.068] * 4}
    for name, scorer in scorers.items():
        found = [read(world, learned(filtered(b, scorer, f), SIZES, rng, 2)) for f in FRACTIONS]
        np.testing.assert_allclose(found, expected[name], atol=0.015)


def test_the_best_fraction_of_a_fixed_number_is_inside(world: World, rng: np.random.Generator) -> None:
    a, b = world.sources["a"], world.sources["b"]
    kept = [learned(filtered(b, a, f), [64 * f], rng, seeds=6) for f in FRACTIONS]
    found = [accuracies(world, models)[:, 1].mean() for models in kept]
    np.testing.assert_allclose(found, [0.047, 0.161, 0.158, 0.110], atol=0.015)
    assert min(found[1:3]) > max(found[0], found[3]) + 0.03


def read(world: World, models: np.ndarray) -> float:
    return float(fitted(world, models).at(AT))
