"""Random changes of a picture's colours, as torchvision's ColorJitter and Grayscale make them, on bytes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from trainer.batch import Pixels

JITTER_DRAWS = 8
_LEVELS = np.arange(256, dtype=np.float32)


def jitter(rgb: Pixels, strengths: tuple[float, float, float, float], uniform: npt.NDArray[np.float64]) -> Pixels:
    """Brightness, contrast, saturation and hue of uint8 [H, W, 3] changed in a random order.

    Each of the first three is multiplied by a number uniform in 1 ± its strength (at least 0), the hue turned by
    one uniform in ± its strength, as a part of the circle; a strength of 0 leaves that property alone. `uniform`
    [8], each in [0, 1): four numbers whose order is the order of the changes, then the four changes.
    """
    changes = (_brightness, _contrast, _saturation, _hue)
    for number in np.argsort(uniform[:4]).tolist():
        strength, drawn = strengths[number], float(uniform[4 + number])
        if strength > 0:
            least = -strength if number == 3 else max(0.0, 1 - strength)
            most = strength if number == 3 else 1 + strength
            rgb = changes[number](rgb, least + (most - least) * drawn)
    return rgb


def grey(rgb: Pixels) -> Pixels:
    """uint8 [H, W, 3] with three equal channels, the luma of ITU-R BT.601."""
    return _pixels(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def _brightness(rgb: Pixels, factor: float) -> Pixels:
    return _blend(rgb, 0.0, factor)


def _contrast(rgb: Pixels, factor: float) -> Pixels:
    return _blend(rgb, float(int(cv2.mean(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))[0] + 0.5)), factor)


def _blend(rgb: Pixels, ground: float, factor: float) -> Pixels:
    """From `ground` (factor 0) through the picture (1) and beyond; fractions of a level are cut, as Pillow does."""
    table = np.clip(ground + np.float32(factor) * (_LEVELS - ground), 0, 255).astype(np.uint8)
    return _pixels(cv2.LUT(rgb, table))


def _saturation(rgb: Pixels, factor: float) -> Pixels:
    # OpenCV rounds; with half a level less it cuts.
    return _pixels(cv2.addWeighted(rgb, factor, grey(rgb), 1 - factor, -0.5))


def _hue(rgb: Pixels, turn: float) -> Pixels:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turn * 255) % 256)  # the circle is 256 levels, so that it wraps by itself
    return _pixels(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


def _pixels(found: object) -> Pixels:
    return np.asarray(found, dtype=np.uint8)
