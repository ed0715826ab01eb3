"""Sizes of stored pictures, as img2dataset's `--resize_mode` computes them, and the resampling to them.

A picture is never enlarged: one that is small enough keeps its pixels, in every mode.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from filters.pixels import RGB

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
Size = tuple[int, int]

# One picture a process: threads of its own would only fight over the cores.
cv2.setNumThreads(1)


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


def framed_size(size: Size, image_size: int, mode: ResizeMode) -> Size:
    """Height and width of a picture of `size` (height, width) as it is stored: shrunk, then cropped or bordered."""
    target = scaled_size(size, image_size, mode)
    return (image_size, image_size) if target != size and mode in ("center_crop", "border") else target


def shrink(rgb: RGB, size: Size, *, exact: bool = False) -> RGB:
    """`rgb` uint8 [h, w, 3] at `size` (height, width), each pixel the mean of the area that it covers.

    Unless `exact`, by Intel's library where OpenCV was built with it: three times as fast, and off by one level at
    most here and there, for which OpenCV does not use it by default. MemoryError if there is no memory for it.
    """
    if rgb.shape[:2] == size:
        return rgb
    # A switch of each thread.
    cv2.ipp.setUseIPP_NotExact(not exact)
    try:
        return np.asarray(cv2.resize(rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    except cv2.error as error:  # sizes and type are right by construction, so only memory can be short
        raise MemoryError(str(error)) from error


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
