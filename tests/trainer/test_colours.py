"""Changes of colour against torchvision's on Pillow's pictures."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
from open_clip.transform import color_jitter, gray_scale
from PIL import Image
from scipy import stats
from torchvision.transforms import functional

from benchmarks.drawings import KINDS, draw
from trainer.batch import Pixels
from trainer.colours import JITTER_DRAWS, grey, jitter
from trainer.config import AugmentConfig
from trainer.views import TrainView

STRENGTHS = (0.4, 0.5, 0.3, 0.1)
ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("drawn", [0.0, 0.3, 0.999])
def test_each_change_is_torchvisions(kind: str, number: int, drawn: float) -> None:
    rgb = draw(kind, 96, 96, seed=3)
    strengths, uniform = [0.0] * 4, np.full(JITTER_DRAWS, drawn)
    strengths[number] = STRENGTHS[number]
    middle = 0 if number == 3 else 1
    factor = middle + STRENGTHS[number] * (2 * drawn - 1)
    theirs = np.asarray(ADJUST[number](Image.fromarray(rgb), factor))
    ours = jitter(rgb, (strengths[0], strengths[1], strengths[2], strengths[3]), uniform)
    # Hue has 256 steps in either library, not quite the same ones.
    assert np.abs(ours.astype(int) - theirs).max() <= 1 if number < 3 else cv2.PSNR(ours, theirs) > 38


def test_order_is_decided_by_the_first_numbers() -> None:
    rgb = draw("photo", 96, 96, seed=3)
    uniform = np.array([0.9, 0.1, 0.5, 0.2, 0.8, 0.1, 0.9, 0.7])
    image = Image.fromarray(rgb)
    for number in (1, 3, 2, 0):
        middle = 0 if number == 3 else 1
        image = ADJUST[number](image, middle + STRENGTHS[number] * (2 * uniform[4 + number] - 1))
    assert cv2.PSNR(jitter(rgb, STRENGTHS, uniform), np.asarray(image)) > 38


def test_grey_is_torchvisions() -> None:
    rgb = draw("screen", 96, 96, seed=3)
    theirs = np.asarray(functional.to_grayscale(Image.fromarray(rgb), 3))
    assert np.abs(grey(rgb).astype(int) - theirs).max() <= 1


def levels(rgb: Pixels) -> tuple[float, ...]:
    """Means of the channels, and the spread of their differences."""
    means = rgb.reshape(-1, 3).mean(axis=0)
    return (*means, float(rgb.astype(float).std()), float((rgb[..., 0].astype(float) - rgb[..., 2]).std()))


def test_colours_are_distributed_as_open_clips() -> None:
    """1,500 views of one picture on either side; Kolmogorov and Smirnov's test of five numbers of each."""
    count, rgb = 1500, draw("photo", 64, 64, seed=3)[20:44, 20:44]
    random.seed(0)
    torch.manual_seed(0)
    theirs_jitter, theirs_grey = color_jitter(*STRENGTHS, p=0.8), gray_scale(0.2)
    theirs = [np.asarray(theirs_grey(theirs_jitter(Image.fromarray(rgb)))) for _ in range(count)]
    config = AugmentConfig(crop=(1.0, 1.0), jitter=STRENGTHS, jitter_prob=0.8, grey=0.2)
    view, rng = TrainView(24, config), np.random.default_rng(0)
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    ours = [view(data, rng) for _ in range(count)]
    for a, b in zip(np.array([*map(levels, ours)]).T, np.array([*map(levels, theirs)]).T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 0.001
    for found in (ours, theirs):
        plain = sum(np.ptp(view, axis=2).max() == 0 for view in found)
        assert stats.binomtest(plain, count, 0.2).pvalue > 0.001
        assert stats.binomtest(sum(np.array_equal(view, rgb) for view in found), count, 0.16).pvalue > 0.001
