"""The power estimate against studies drawn picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.lines import least_squares, to_axis
from evaluation.power import Design, Expected, images_needed, points, power, shared_answers, smallest_dilution, spread
from filters.errors import InputError

IMAGES, REPEATS = 1500, 300


def answers(z: np.ndarray, alike: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Accuracies [models] of models of probits z over the same pictures, and the correlation of their answers.

    Each picture has a difficulty that the models share and one for each model.
    """
    own = rng.standard_normal((IMAGES, len(z)))
    right = np.sqrt(alike) * rng.standard_normal((IMAGES, 1)) + np.sqrt(1 - alike) * own < z
    found = np.corrcoef(right.T)
    return right.mean(axis=0), float(found[np.triu_indices(len(z), 1)].mean()) if len(z) > 1 else 0.0


def drawn(
    design: Design, expected: Expected, dilution: float, alike: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Dilutions as REPEATS studies measure them, and the correlation of answers of one source's models."""
    x = np.repeat(expected.across(design.sizes), design.seeds)
    mixed = x if design.line else x[-design.seeds :]
    dilutions, alikes = [], []
    for _ in range(REPEATS):
        measured = []
        for places, below in ((x, 0.0), (mixed, dilution)):
            up = expected.slope * places + expected.intercept - below
            up = up + expected.seed_noise * rng.standard_normal(len(up))
            pairs = [answers(z, alike, rng) for z in (places, up)]
            alikes += [value for _, value in pairs if value]
            measured.append([accuracy for accuracy, _ in pairs])
        line = least_squares(measured[0][0], measured[0][1], images=(IMAGES, IMAGES))
        if design.line:
            other = least_squares(measured[1][0], measured[1][1], images=(IMAGES, IMAGES))
            at = x.mean()
            dilutions.append((line.slope - other.slope) * at + line.intercept - other.intercept)
        else:
            across, up = (to_axis(values, images=IMAGES) for values in measured[1])
            dilutions.append(float(np.mean(line.slope * across + line.intercept - up)))
    return np.array(dilutions), float(np.mean(alikes))


@pytest.mark.parametrize("line", [True, False])
@pytest.mark.parametrize(("alike", "noise"), [(0.0, 0.05), (0.5, 0.0)])
def test_error_and_power_are_those_of_simulated_studies(line: bool, alike: float, noise: float) -> None:
    """300 studies give a standard deviation to 4 % (one of its own), a power to .03; tolerances are thrice that."""
    rng = np.random.default_rng(3)
    design, dilution = Design(5, 2, line), 0.15
    found, shared = drawn(design, Expected(1.2, -0.4, 0.15, 0.45, noise), dilution, alike, rng)
    expected = Expected(1.2, -0.4, 0.15, 0.45, noise, max(0.0, shared))
    said = spread(design, expected, dilution)
    assert found.mean() == pytest.approx(dilution, abs=0.015)
    assert found.std() == pytest.approx(said.error(IMAGES), rel=0.12)
    seen = np.mean(found > norm.ppf(0.975) * said.error(IMAGES))
    assert seen == pytest.approx(power(said, dilution, IMAGES), abs=0.09)


def test_the_numbers_answer_each_other() -> None:
    expected = Expected()
    said = spread(Design(6, 3), expected, 0.15)
    images = images_needed(said, 0.15, 0.9)
    assert images is not None
    assert power(said, 0.15, images) == pytest.approx(0.9, abs=1e-3) and power(said, 0.15, images - 1) < 0.9
    assert smallest_dilution(said, images, 0.9) == pytest.approx(0.15, abs=1e-3)


def test_more_of_anything_helps_until_the_seed_noise_is_left() -> None:
    expected = Expected(seed_noise=0.1)
    errors = [spread(Design(4, seeds, True), expected, 0.1).error(1000) for seeds in (1, 2, 8)]
    assert errors == sorted(errors, reverse=True)
    assert spread(Design(8, 1, True), expected, 0.1).error(1000) < errors[0]
    assert images_needed(spread(Design(4, 1), expected, 0.1), 0.1) is None
    assert images_needed(spread(Design(4, 40), expected, 0.1), 0.1) is not None


def test_what_a_source_shares_is_not_averaged_out() -> None:
    alone = [spread(Design(4, 1000, True), Expected(shared=s), 0.1).error(1000) for s in (0.0, 0.2)]
    assert alone[0] < 0.005 and alone[1] > 0.02


def test_shared_answers_are_measured() -> None:
    """Pictures with a difficulty for all models, 0.2 of the variance, and one for the source's, 0.3."""
    rng = np.random.default_rng(0)
    common, ours, own = (rng.standard_normal((models, 40_000)) for models in (1, 1, 4))
    common = np.sqrt(0.2) * common
    source = common + np.sqrt(0.3) * ours + np.sqrt(0.5) * own[:2] < 0
    mixture = common + np.sqrt(0.8) * own[2:] < 0
    # Of two normal numbers with correlation r, cut in the middle, the signs have 2/π asin r.
    expected = 2 / np.pi * (np.arcsin(0.5) - np.arcsin(0.2))
    assert shared_answers(source, mixture) == pytest.approx(expected, abs=0.02)
    with pytest.raises(InputError, match="at least two"):
        shared_answers(source[:1], mixture)


def test_points() -> None:
    expected = Expected(slope=1, intercept=0)
    assert points(expected, 0.5, 0.1) == pytest.approx(100 * (0.5 - norm.cdf(-0.1)))


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="a line needs 4 sizes"):
        Design(3, 1)
    with pytest.raises(InputError, match="must rise"):
        Expected(low=0.4, high=0.1)
    with pytest.raises(InputError, match="shared 2 in 0 to 1"):
        Expected(shared=2)
