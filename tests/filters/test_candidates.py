"""Candidate search: complete against brute force."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from filters import candidates
from filters.candidates import blurred, near_tangent_pairs, tangent_pairs
from filters.near import thumbnail
from filters.pixels import decode
from tests.filters.drawings import FAMILIES, near_copy


def test_tangent_pairs_equal_least_squares() -> None:
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 255, (40, 4, 4, 3), dtype=np.uint8)
    thumbs = np.stack([thumbnail(c) for c in coarse])
    pictures = blurred(thumbs).astype(np.float64)
    u = np.linspace(-1, 1, 16)
    expected = np.empty((40, 40))
    for i, picture in enumerate(pictures):
        down, across = np.gradient(picture, axis=(0, 1))
        tangents = [across, across * u[:, None], down, down * u[:, None, None]]
        matrix = np.stack([t.ravel() for t in tangents], axis=1)
        for j, other in enumerate(pictures):
            difference = (other - picture).ravel()
            fit = np.linalg.lstsq(matrix, difference, rcond=None)[0]
            expected[i, j] = np.sqrt(np.mean((difference - matrix @ fit) ** 2))
    second = [np.gradient(np.gradient(pictures, axis=axis), axis=axis) for axis in (1, 2)]
    curvature = np.sqrt(sum((part**2).mean(axis=(1, 2, 3)) for part in second))
    expected /= np.minimum(curvature[:, None], curvature)
    radius = float(np.median(expected))
    clear = np.abs(expected - radius) > 1e-4 * radius
    found = np.zeros((40, 40), bool)
    pairs = tangent_pairs(thumbs.__getitem__, 40, thumbs.__getitem__, 40, radius)
    found[pairs[:, 0], pairs[:, 1]] = True
    assert np.array_equal(found[clear], (expected <= radius)[clear])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scale", "crop"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.05), (0.6, 0.05)])
def test_near_copies_are_candidates(family: str, scale: float, crop: float) -> None:
    image = FAMILIES[family](1)
    copy = decode(near_copy(image, scale, crop, 60), max_pixels=10**7).rgb
    thumbs = np.stack([thumbnail(np.asarray(image)), thumbnail(copy)])
    pairs = tangent_pairs(thumbs.__getitem__, 2, thumbs.__getitem__, 2, 1.8)
    assert len(pairs) == 4


def pictures(size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Soft pictures [size, 16, 16, 3], three of them blank; every fourth is another one, brighter and shifted."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (size, 6, 6, 3), dtype=np.uint8)
    thumbs = np.stack([np.asarray(Image.fromarray(c).resize((18, 18), Image.Resampling.BICUBIC)) for c in coarse])
    whole = np.ascontiguousarray(thumbs[:, 1:17, 1:17])
    whole[3::4] = np.minimum(thumbs[2::4, 1:17, 0:16], 250) + rng.integers(0, 4)
    whole[:3] = np.array([0, 255, 254])[:, None, None, None]
    return whole


@pytest.mark.parametrize("clusters", [1, 12])
def test_near_tangent_pairs_are_those_of_all_with_all(clusters: int) -> None:
    thumbs = pictures(480, 4)
    queries = thumbs[::3]
    for radius in (1.0, 1.8, 4.0):
        # Nothing at the very edge of the radius, where rounding decides.
        inside = as_set(tangent_pairs(queries.__getitem__, len(queries), thumbs.__getitem__, 480, radius * 0.9999))
        outside = as_set(tangent_pairs(queries.__getitem__, len(queries), thumbs.__getitem__, 480, radius * 1.0001))
        found = near_tangent_pairs(
            queries.__getitem__, len(queries), thumbs.__getitem__, 480, radius, clusters=clusters
        )
        assert inside <= as_set(found) <= outside
        assert found.tolist() == sorted(found.tolist())
        assert len(inside) > len(queries)


def test_few_probes_lose_little() -> None:
    thumbs = pictures(600, 5)
    args = (thumbs.__getitem__, 600, thumbs.__getitem__, 600, 1.8)
    every = as_set(near_tangent_pairs(*args, clusters=30))
    some = as_set(near_tangent_pairs(*args, clusters=30, probes=4))
    assert some <= every
    assert len(some) >= 0.95 * len(every)
    assert as_set(near_tangent_pairs(*args, clusters=30, probes=99)) == every
    assert as_set(near_tangent_pairs(*args, clusters=30, probes=4)) == some


def test_where_queries_are_the_base_only_the_work_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbs = pictures(300, 6)
    look = thumbs.__getitem__
    expected = near_tangent_pairs(look, 300, lambda rows: thumbs[rows], 300, 1.8, clusters=9, probes=3)
    assert np.array_equal(near_tangent_pairs(look, 300, look, 300, 1.8, clusters=9, probes=3), expected)
    # Pairs that are looked at in smaller parts are the same ones.
    monkeypatch.setattr(candidates, "_TOGETHER", 7)
    assert np.array_equal(near_tangent_pairs(look, 300, look, 300, 1.8, clusters=9, probes=3), expected)


def as_set(pairs: npt.NDArray[np.int64]) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in pairs}


def test_blank_pictures_have_no_directions() -> None:
    thumbs = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 255)])
    pairs = tangent_pairs(thumbs.__getitem__, 3, thumbs.__getitem__, 3, 1.8)
    assert sorted(pairs.tolist()) == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize(("queries", "base"), [(0, 0), (0, 3), (3, 0)])
def test_no_pictures_no_pairs(queries: int, base: int) -> None:
    thumbs = np.zeros((3, 64, 64, 3), np.uint8)
    assert tangent_pairs(thumbs.__getitem__, queries, thumbs.__getitem__, base, 1).shape == (0, 2)
    found = near_tangent_pairs(thumbs.__getitem__, queries, thumbs.__getitem__, base, 1)
    assert found.shape == (0, 2)
