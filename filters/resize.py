"""Sizes of stored pictures, as img2dataset's `--resize_mode` computes them, and the resampling to them.

A picture is never enlarged: one that is small enough keeps its pixels, in every mode.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from filters.pixels import RGB

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
Size = tuple[int, int]

# One picture a process: threads of its own would only fight over the cores.
cv2.setNumThreads(1)
# From which factor on steps are better than one, and to which factor the last two of them are near the mean.
_IN_STEPS, _NEAR_TWO = 1.5, 2.6


def scaled_size(size: Size, image_size: int, mode: ResizeMode) -> Size:
    """Height and width to which a picture of `size` (height, width) is shrunk, before any crop or border.

    `keep_ratio` and `center_crop` bring the shorter side to `image_size` pixels, `keep_ratio_largest` and `border`
    the longer one.
    """
    if mode == "no":
        return size
    side = min(size) if mode in ("keep_ratio", "center_crop") else max(size)
    if side <= image_size:
        return size
    scale = image_size / side
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink(rgb: RGB, size: Size, *, whole: Size | None = None, exact: bool = False) -> RGB:
    """`rgb` uint8 [h, w, 3] at `size` (height, width), each pixel the mean of the area that it covers.

    From a factor of 1.5 on the mean is made in steps, unless `exact`: means of 2 x 2 pixels, linear interpolation
    (to twice the size, so by a factor near one, which leaves out and invents little), and means of 2 x 2 again. It is
    within about 40 dB of OpenCV's one step, which goes pixel by pixel and takes more than twice as long. `whole` is
    the height and width of the picture that `rgb` is a decoding of at some eighths of its size: the last row and
    column of such a decoding cover less than the others. MemoryError if there is no memory for it.
    """
    if rgb.shape[:2] == size:
        return rgb
    height, width = _extent(rgb.shape[:2], whole or rgb.shape[:2])
    try:
        if exact or min(height / size[0], width / size[1]) < _IN_STEPS:
            return _resized(rgb, size, cv2.INTER_AREA)
        while min(height / size[0], width / size[1]) > _NEAR_TWO:
            even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
            rgb = _resized(even, (even.shape[0] // 2, even.shape[1] // 2), cv2.INTER_AREA)
            height, width = height / 2, width / 2
        # Told the scale and not the size, OpenCV keeps to it, and makes a row or column more for what is left over.
        scale = 2 * size[0] / height, 2 * size[1] / width
        twice = cv2.resize(rgb, None, fx=scale[1], fy=scale[0], interpolation=cv2.INTER_LINEAR)
        return _resized(twice[: 2 * size[0], : 2 * size[1]], size, cv2.INTER_AREA)
    except cv2.error as error:  # sizes and type are right by construction, so only memory can be short
        raise MemoryError(str(error)) from error


def _resized(rgb: npt.NDArray[Any], size: Size, interpolation: int) -> RGB:
    return np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=interpolation), dtype=np.uint8)


def _extent(decoded: Size, whole: Size) -> tuple[float, float]:
    """How many rows and columns of a decoding at some eighths of the size of `whole` the picture really fills."""
    eighths = round(8 * max(decoded) / max(whole))
    return whole[0] * eighths / 8, whole[1] * eighths / 8


def frame(rgb: RGB, image_size: int, mode: ResizeMode) -> RGB:
    """A shrunk picture with what its mode adds: `center_crop` cuts a square, `border` fills one with white.

    Only for pictures that were shrunk: the others keep their shape, as img2dataset's `--resize_only_if_bigger` does.
    """
    height, width = rgb.shape[:2]
    if mode == "center_crop":
        top, left = (height - image_size) // 2, (width - image_size) // 2
        return np.ascontiguousarray(rgb[top : top + image_size, left : left + image_size])
    if mode == "border":
        square = np.full((image_size, image_size, 3), 255, np.uint8)
        top, left = (image_size - height) // 2, (image_size - width) // 2
        square[top : top + height, left : left + width] = rgb
        return square
    return rgb
