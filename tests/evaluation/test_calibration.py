from __future__ import annotations

import numpy as np
import pytest

from evaluation.calibration import expected_calibration_error
from filters.errors import InputError


def logits(confidence: list[float]) -> np.ndarray:
    """Scores of two classes whose softmax gives the first this chance."""
    p = np.array(confidence)
    return np.stack([np.log(p), np.log(1 - p)], axis=1)


def test_by_hand() -> None:
    """Two bins are used: 0.9 said four times and right three times, 0.62 said twice and right once."""
    labels = np.array([0, 0, 0, 1, 0, 1])
    error = expected_calibration_error(logits([0.9, 0.9, 0.9, 0.9, 0.62, 0.62]), labels, scale=1.0, bins=10)
    assert error == pytest.approx((4 * abs(0.75 - 0.9) + 2 * abs(0.5 - 0.62)) / 6)


def test_a_classifier_that_knows_its_chance_has_none_and_one_that_boasts_has() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1, 20_000)
    labels = (rng.random(20_000) > chance).astype(np.int64)
    assert expected_calibration_error(logits(chance.tolist()), labels, scale=1.0) < 0.02
    assert expected_calibration_error(logits(chance.tolist()), labels, scale=10.0) > 0.15


@pytest.mark.parametrize("scores", [np.zeros((0, 3)), np.full((2, 3), np.nan), np.zeros((3, 3))])
def test_what_does_not_fit_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(InputError, match="calibration"):
        expected_calibration_error(scores, np.zeros(2, np.int64))


def test_ties_count_by_their_share_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes tie: half right at a confidence of a half, whatever their order."""
    tied = np.array([[0.3, 0.3], [0.3, 0.3]], np.float32)
    for labels in ([0, 0], [1, 1], [0, 1]):
        assert expected_calibration_error(tied, np.array(labels)) == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    whole = expected_calibration_error(scores, truth, scale=2.0)
    monkeypatch.setattr("evaluation.calibration._BLOCK", 8)
    assert expected_calibration_error(scores, truth, scale=2.0) == whole
