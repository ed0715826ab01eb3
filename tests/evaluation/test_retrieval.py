from __future__ import annotations

import numpy as np
import pytest

from evaluation import retrieval
from evaluation.retrieval import recall
from filters.errors import InputError


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    found = rng.normal(size=(rows, 8))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def test_recall_is_what_a_plain_sort_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several captions a picture, in any order; blocks smaller than the set."""
    monkeypatch.setattr(retrieval, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    images = unit(rng, 40)
    owner = rng.permutation(np.concatenate([np.arange(40), rng.integers(0, 40, 60)]))
    texts = unit(rng, 100) * 0.7 + images[owner] * 0.3
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    found = recall(images, texts.astype(np.float32), owner, (1, 5, 10))
    scores = images.astype(np.float64) @ texts.astype(np.float32).astype(np.float64).T
    for k in (1, 5, 10):
        by_image = [bool((owner[np.argsort(-row)[:k]] == i).any()) for i, row in enumerate(scores)]
        by_text = [owner[j] in np.argsort(-scores[:, j])[:k] for j in range(100)]
        assert found.text_from_image[k] == pytest.approx(np.mean(by_image))
        assert found.image_from_text[k] == pytest.approx(np.mean(by_text))
    assert 0 < found.mean_at_1 < 1


def test_features_that_are_all_the_same_find_nothing() -> None:
    same = np.full((5, 4), 0.5, np.float32)
    found = recall(same, same, np.arange(5), (1, 4))
    assert found.mean_at_1 == 0
    assert found.image_from_text[4] == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("width", "not of one width"),
        ("owner", "needs the number of one of 3 pictures"),
        ("captionless", "1 pictures have no caption"),
        ("nan", "not numbers"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, says: str) -> None:
    rng = np.random.default_rng(0)
    images, texts, owner = unit(rng, 3), unit(rng, 3), np.arange(3)
    if change == "width":
        texts = texts[:, :4]
    elif change == "owner":
        owner = np.array([0, 1, 3])
    elif change == "captionless":
        owner = np.array([0, 1, 1])
    else:
        images[0, 0] = np.nan
    with pytest.raises(InputError, match=says):
        recall(images, texts, owner)
