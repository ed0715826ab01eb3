"""Sizes of stored pictures against img2dataset's own resizer, and the resampling against OpenCV's area average."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from benchmarks.drawings import KINDS, draw
from filters.pixels import RGB, decode
from filters.resize import ResizeMode, frame, scaled_size, shrink

MODES: list[ResizeMode] = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
SIZES = [(64, 48), (48, 64), (40, 40), (33, 200), (201, 33), (97, 61), (300, 7), (41, 43), (600, 450)]


@pytest.fixture(scope="module")
def theirs() -> Callable[[RGB, int, str], RGB]:
    """What img2dataset makes of pixels: size, mode to pixels, without loss."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imghdr is deprecated
        from img2dataset.resizer import Resizer

    def resized(rgb: RGB, image_size: int, mode: str) -> RGB:
        resizer = Resizer(image_size, mode, resize_only_if_bigger=True, encode_format="png", encode_quality=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = resizer(io.BytesIO(cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()))[0]
        return decode(body, max_pixels=10**6).rgb

    return resized


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_those_of_img2dataset(mode: ResizeMode, theirs: Callable[[RGB, int, str], RGB]) -> None:
    rng = np.random.default_rng(3)
    for height, width in SIZES:
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for image_size in (8, 40, 41, 64):
            target = scaled_size((height, width), image_size, mode)
            mine = shrink(rgb, target, exact=True)
            if target != (height, width):
                mine = frame(mine, image_size, mode)
            expected = theirs(rgb, image_size, mode)
            assert mine.shape == expected.shape, (height, width, image_size)
            assert np.array_equal(mine, expected), (height, width, image_size)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_enlarged(mode: ResizeMode) -> None:
    for size in SIZES:
        assert scaled_size(size, 1000, mode) == size
        height, width = scaled_size(size, 50, mode)
        assert 1 <= height <= size[0]
        assert 1 <= width <= size[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.1, 1.6, 2, 2.1, 2.5, 2.9, 3.3, 4.7, 6.2, 9.5])
def test_shrinking_is_near_the_exact_mean(kind: str, factor: float) -> None:
    rgb = draw(kind, 420, 560, seed=1)
    size = (round(420 / factor), round(560 / factor))
    mine, exact = shrink(rgb, size), shrink(rgb, size, exact=True)
    assert mine.shape == exact.shape
    assert np.abs(mine.astype(int) - exact).max() <= 2


def test_extreme_shapes() -> None:
    thin = np.full((5000, 3, 3), 9, np.uint8)
    assert (shrink(thin, scaled_size((5000, 3), 16, "keep_ratio_largest")) == 9).all()
    assert shrink(thin, scaled_size((5000, 3), 2, "keep_ratio")).shape == (3333, 2, 3)
