"""Grey levels and frames of pictures: what tells blank, low-entropy and moving ones apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.drawings import draw
from filters.pixels import RGB, frames_of, grey_levels, opened
from filters.stored import Recipe, facts, store
from tests.filters.mutations import packed

CAP = 10**7


def grey(*levels: int) -> RGB:
    """A picture of one row with these grey levels."""
    return np.repeat(np.array(levels, np.uint8)[None, :, None], 3, axis=2)


# Grey levels → entropy in bits, standard deviation of the levels as fractions.
TRUTH = [
    ((0,), 0.0, 0.0),
    ((255, 255), 0.0, 0.0),
    ((0, 255), 1.0, 0.5),
    ((0, 0, 0, 255), 2 - 0.75 * math.log2(3), math.sqrt(3) / 4),
    ((10, 20, 30, 40), 2.0, math.sqrt(125) / 255),
    (tuple(range(256)), 8.0, math.sqrt((256**2 - 1) / 12) / 255),
]


@pytest.mark.parametrize(("levels", "entropy", "contrast"), TRUTH)
def test_levels_by_hand(levels: tuple[int, ...], entropy: float, contrast: float) -> None:
    assert grey_levels(grey(*levels)) == pytest.approx({"entropy": entropy, "contrast": contrast}, abs=1e-9)


def test_colours_count_by_their_luma() -> None:
    """Red, green and blue of BT.601: 76, 150 and 29 of 255."""
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    levels = np.array([76, 150, 29, 255]) / 255
    assert grey_levels(rgb) == pytest.approx({"entropy": 2.0, "contrast": float(levels.std())}, abs=1e-9)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_levels_know_no_places_and_have_bounds(levels: list[int], random: Any) -> None:
    found = grey_levels(grey(*levels))
    assert 0 <= found["entropy"] <= min(8, math.log2(len(set(levels)))) + 1e-9
    assert 0 <= found["contrast"] <= 0.5 + 1e-9
    assert (found["contrast"] == pytest.approx(0, abs=1e-7)) == (len(set(levels)) == 1) == (found["entropy"] == 0)
    random.shuffle(levels)
    assert grey_levels(grey(*levels)) == pytest.approx(found, abs=1e-12)


def animation(format: str, frames: int) -> bytes:
    pictures = [Image.fromarray(draw("photo", 120, 160, seed=i)) for i in range(frames)]
    return packed(pictures[0], format, save_all=True, append_images=pictures[1:])


@pytest.mark.parametrize(
    ("format", "frames"), [("GIF", 3), ("WEBP", 3), ("PNG", 3), ("TIFF", 2), ("GIF", 1), ("JPEG", 1)]
)
def test_frames_are_counted(format: str, frames: int) -> None:
    data = (
        animation(format, frames) if frames > 1 else packed(Image.fromarray(draw("photo", 120, 160, seed=0)), format)
    )
    assert store(data, Recipe()).frames == facts(data, CAP).frames == frames


def test_the_second_view_of_a_camera_is_no_frame() -> None:
    assert store(animation("MPO", 2), Recipe()).frames == 1


def test_frames_of_a_cut_animation_are_those_before_the_cut_or_unknown() -> None:
    data, found = animation("GIF", 3), set()
    for end in range(len(data) // 2, len(data), 97):
        with opened(data[:end], CAP) as image:
            found.add(frames_of(image))
    assert found == {2, 3, None}


def test_bytes_are_those_of_the_download() -> None:
    data = packed(Image.fromarray(draw("photo", 300, 400, seed=0)), "JPEG")
    stored = store(data, Recipe(image_size=64))
    assert stored.original_bytes == facts(data, CAP).original_bytes == len(data)
    assert len(stored.image) < len(data)


def test_levels_are_of_the_stored_picture_without_its_border() -> None:
    data = packed(Image.new("RGB", (400, 100), (90, 90, 90)), "PNG")
    plain = store(data, Recipe(image_size=64))
    framed = store(data, Recipe(image_size=64, resize_mode="border"))
    assert (plain.entropy, plain.contrast) == (framed.entropy, framed.contrast) == (0, 0)
