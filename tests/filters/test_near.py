"""The picture distance separates near copies from pictures that differ in one detail."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from filters.duplicates import NearParams
from filters.near import picture_distance, thumbnail
from filters.pixels import RGB, decode
from tests.filters.drawings import FAMILIES, jpeg, near_copy

LIMIT = NearParams().max_distance


def distance(a: bytes, b: bytes) -> float:
    one, other = (decode(data, max_pixels=10**7).rgb for data in (a, b))
    detail = np.array([min(*one.shape[:2], *other.shape[:2])])
    return float(picture_distance(thumbnail(one)[None], thumbnail(other)[None], detail)[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("scale", "crop", "quality"),
    [(0.5, 0, 90), (2, 0, 90), (1, 0, 60), (1, 0.02, 90), (1, 0.05, 90), (0.5, 0.05, 60), (1.7, 0.04, 75)],
)
def test_near_copies_are_close(family: str, scale: float, crop: float, quality: int) -> None:
    for member in range(4):
        image = FAMILIES[family](member * 3 % 4)
        original, copy = jpeg(image), near_copy(image, scale, crop, quality)
        assert distance(original, copy) <= LIMIT
        assert distance(copy, original) <= LIMIT


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_one_different_detail_is_far(family: str, scale: float) -> None:
    members = [near_copy(FAMILIES[family](number), scale, 0, 90) for number in range(4)]
    for a, b in combinations(members, 2):
        assert distance(a, b) > 1.3 * LIMIT


def test_equal_thumbnails_have_distance_zero() -> None:
    thumbs = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert picture_distance(thumbs, thumbs, np.array([64, 300, 20])) == pytest.approx([0, 0, 0], abs=1e-6)


def test_pairs_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(1)
    thumbs: RGB = np.stack([thumbnail(np.asarray(FAMILIES[f](i))) for f in FAMILIES for i in range(4)])
    a, b = rng.integers(0, len(thumbs), (2, 300))
    detail = rng.integers(20, 100, 300)
    together = picture_distance(thumbs[a], thumbs[b], detail)
    back = picture_distance(thumbs[a[::-1]], thumbs[b[::-1]], detail[::-1])[::-1]
    assert np.array_equal(together, back)


def test_blank_pictures() -> None:
    black, white = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, 64, 64, 3), 255, np.uint8)
    one = np.array([64])
    assert picture_distance(black, black, one)[0] == 0
    assert picture_distance(black, white, one)[0] == pytest.approx(1)


def test_no_pairs() -> None:
    none = np.empty((0, 64, 64, 3), np.uint8)
    found = picture_distance(none, none, np.empty(0, np.int64))
    assert found.shape == (0,)
    assert found.dtype == np.float32
