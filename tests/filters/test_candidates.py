"""Candidate search: complete against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.candidates import blurred, hamming_pairs, tangent_pairs
from filters.near import thumbnail
from filters.pixels import decode
from tests.filters.drawings import FAMILIES, near_copy

# Few high bits, so that near hashes are common and all 64 bits matter.
hashes = st.lists(
    st.builds(lambda a, b: a ^ (1 << b), st.sampled_from([0, 2**64 - 1, 0x8000_0000_0000_0001]), st.integers(0, 63)),
    max_size=20,
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(hashes, hashes, st.integers(0, 64))
def test_hamming_pairs_are_complete(queries: list[int], base: list[int], radius: int) -> None:
    found = hamming_pairs(np.array(queries, np.uint64), np.array(base, np.uint64), radius)
    pairs = [(i, j) for i, a in enumerate(queries) for j, b in enumerate(base) if (a ^ b).bit_count() <= radius]
    assert found.tolist() == [list(p) for p in pairs]


def test_hamming_pairs_of_random_hashes() -> None:
    values = np.random.default_rng(1).integers(0, 2**64, 700, dtype=np.uint64)
    distance = np.array([[(a ^ b).bit_count() for b in values.tolist()] for a in values.tolist()])
    for radius in (0, 8, 20):
        assert np.array_equal(hamming_pairs(values, values, radius), np.argwhere(distance <= radius))


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
    radius = float(np.median(expected))
    clear = np.abs(expected - radius) > 1e-4
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
    pairs = tangent_pairs(thumbs.__getitem__, 2, thumbs.__getitem__, 2, 0.05)
    assert len(pairs) == 4


def test_blank_pictures_have_no_directions() -> None:
    thumbs = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 255)])
    pairs = tangent_pairs(thumbs.__getitem__, 3, thumbs.__getitem__, 3, 0.05)
    assert sorted(pairs.tolist()) == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


@pytest.mark.parametrize(("queries", "base"), [(0, 0), (0, 3), (3, 0)])
def test_no_pictures_no_pairs(queries: int, base: int) -> None:
    thumbs = np.zeros((3, 64, 64, 3), np.uint8)
    assert tangent_pairs(thumbs.__getitem__, queries, thumbs.__getitem__, base, 1).shape == (0, 2)
    assert hamming_pairs(np.zeros(queries, np.uint64), np.zeros(base, np.uint64), 64).shape == (0, 2)
