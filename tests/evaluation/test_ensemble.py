"""Output mixing: the ensemble of a model with itself is the model (the study's A9), and what else must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from evaluation.cache import FeatureCache
from evaluation.ensemble import ensemble
from evaluation.results import RunInfo
from evaluation.shifts import Protocol, evaluate_similarities
from evaluation.zeroshot import zero_shot
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask
from trainer.model import LoadedModel

NAMES = ["fox", "hen", "sea", "cup", "elk", "fig"]


def cosines(seed: int, pictures: int = 50) -> Any:
    return np.random.default_rng(seed).uniform(-0.1, 0.3, (pictures, 6)).astype(np.float32)


@pytest.mark.parametrize("space", ["logits", "probabilities"])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_a9_a_model_with_itself_is_the_model(
    space: Any, weights: list[float] | None, tiny: LoadedModel, make_task: MakeTask
) -> None:
    """Figures, calibration and predictions of a real model on two sets; logits to the last digit."""
    tasks = [make_task("ref", NAMES, per_class=4), make_task("ink", NAMES[:4], per_class=4, seed=1)]
    scores = dict(zip(("ref", "ink"), zero_shot(tiny, tasks, cache=FeatureCache()), strict=True))
    twice = {name: ensemble([one, one], weights, space=space) for name, one in scores.items()}
    info, protocol = RunInfo(run_id="r", kind="output_mix"), Protocol(ways=3)
    alone, both = (evaluate_similarities(info, tasks, of, "ref", protocol=protocol) for of in (scores, twice))
    if space == "logits":
        assert both.result == alone.result
    for name in scores:
        figure, other = alone.result.eval[name], both.result.eval[name]
        assert (other.acc1, other.acc5, other.value) == (figure.acc1, figure.acc5, figure.value)
        assert other.ece == pytest.approx(figure.ece, abs=1e-5)
    assert both.images["predicted"].equals(alone.images["predicted"])
    assert both.images["rank"].equals(alone.images["rank"])


def test_by_hand() -> None:
    first, second = cosines(0), cosines(1)
    np.testing.assert_allclose(ensemble([first, second]), (first + second) / 2, atol=1e-7)
    np.testing.assert_allclose(ensemble([first, second], [1, 3]), first / 4 + 3 * second / 4, atol=1e-7)
    mixed = ensemble([first, second], [1, 3], space="probabilities", scale=30)
    expected = softmax(30 * first.astype(float), axis=1) / 4 + 3 * softmax(30 * second.astype(float), axis=1) / 4
    np.testing.assert_allclose(softmax(30 * mixed.astype(float), axis=1), expected, atol=1e-6)
    np.testing.assert_array_equal(ensemble([first, second]), ensemble([second, first]))


@pytest.mark.parametrize(
    ("scores", "weights", "says"),
    [
        ([], None, "of no model"),
        ([cosines(0), cosines(1, 49)], None, r"\(49, 6\), \(50, 6\); they must be of one shape"),
        ([cosines(0), cosines(1)], [1.0], r"2 models need as many weights above 0, here are \[1.0\]"),
        ([cosines(0), cosines(1)], [1.0, -1.0], "as many weights above 0"),
    ],
)
def test_what_cannot_be_mixed(scores: list[Any], weights: list[float] | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ensemble(scores, weights)
