"""Resampling against Pillow's, from whole pixels and from between them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.drawings import KINDS, draw
from trainer.resample import Box, Interpolation, resize, roughness

FILTERS: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@pytest.mark.parametrize("kind", ["photo", "text"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("box", [Box(0, 0, 300, 400), Box(7, 11, 280, 171), Box(250, 3, 50, 31), Box(5, 5, 1, 1)])
def test_a_box_is_what_pillow_makes_of_it(kind: str, interpolation: Interpolation, box: Box) -> None:
    rgb = draw(kind, 300, 400, seed=1)
    cut = Image.fromarray(rgb).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    for side in (32, 224, 301):
        theirs = np.asarray(cut.resize((side, side), FILTERS[interpolation]))
        ours = resize(rgb, box, side, interpolation)
        assert ours.shape == (side, side, 3)
        assert ours.flags.c_contiguous
        assert cv2.PSNR(ours, theirs) > 55


@pytest.mark.parametrize("part", [2, 4])
def test_a_box_that_begins_between_pixels(part: int) -> None:
    """Against Pillow, which takes boxes of fractions of pixels; its kernel looks beyond the box, ours not always."""
    rgb, side = draw("captioned", 300, 300, seed=1), 224
    for top in range(4 * part):
        box = Box(top, 3 * part - top % part, 250 * part + top % 7, 260 * part - top)
        left, above = box.left / part, box.top / part
        place = (left, above, left + box.width / part, above + box.height / part)
        theirs = np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BICUBIC, box=place))
        assert cv2.PSNR(resize(rgb, box, side, part=part), theirs) > 42


def test_a_step_of_one_pixel_meets_no_box_between_pixels() -> None:
    """Then Pillow does it."""
    rgb = draw("photo", 225, 225, seed=1)
    found = resize(rgb, Box(1, 0, 448, 448), 224, part=2)
    theirs = Image.fromarray(rgb).resize((224, 224), Image.Resampling.BICUBIC, box=(0, 0.5, 224, 224.5))
    assert np.array_equal(found, np.asarray(theirs))
    assert found.flags.writeable


def test_roughness_is_that_of_second_differences() -> None:
    for kind in KINDS:
        rgb = draw(kind, 300, 250, seed=0)
        second = [np.diff(rgb.astype(float), 2, axis=along) for along in (0, 1)]
        assert roughness(rgb) == pytest.approx(math.sqrt(sum((d**2).mean() for d in second)), rel=0.02)
    assert roughness(np.full((9, 9, 3), 77, np.uint8)) == 0
