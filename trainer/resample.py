"""A box of a picture resized to a square in one antialiased step, with the pixels that Pillow would give.

torch has Pillow's own resampling for bytes in vector code, five times as fast; OpenCV's bicubic does not antialias.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from trainer.batch import Pixels

# One picture a thread: OpenCV's own would only fight over the cores. And a process that is forked while OpenCV has
# threads, as a loader's workers are, waits for ever once it sets their number.
cv2.setNumThreads(1)
Interpolation = Literal["bicubic", "bilinear"]
_TORCHS = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}
_PILLOWS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# How far a view's grid may lie beside its place, in pixels of the picture: 1/24 costs less than a level of error
# even in text. Of 48 pixels of a view nearly always one lies so near.
_NEAR, _LEADING = 1 / 24, 48


class Box(NamedTuple):
    """A part of a picture, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class Axis(NamedTuple):
    """Where resampling along one axis begins and ends in the pixels that there are.

    torch can begin at whole pixels only. So it begins at the whole pixel `first` (below 0: before the picture, whose
    edge is repeated there), from which on every `step`-th place is a pixel of the view, and the `leading` ones that
    lie before the box are dropped. `end` is the first pixel behind the box.
    """

    first: int
    end: int
    leading: int
    step: float


def resize(rgb: Pixels, box: Box, side: int, interpolation: Interpolation = "bicubic", part: int = 1) -> Pixels:
    """A box of a picture, of which `rgb` uint8 [h, w, 3] has every `part`-th pixel, as uint8 [side, side, 3].

    C-contiguous. With all pixels it is what Pillow's crop and then resize gives, within 55 dB.
    """
    rows, columns = _axis(box.top, box.height, side, part), _axis(box.left, box.width, side, part)
    if rows is None or columns is None:
        # Pillow can begin anywhere, slowly.
        left, top = box.left / part, box.top / part
        place = (left, top, min(left + box.width / part, rgb.shape[1]), min(top + box.height / part, rgb.shape[0]))
        image = Image.fromarray(rgb).resize((side, side), _PILLOWS[interpolation], box=place)
        return np.array(image, dtype=np.uint8)
    seen = rgb[max(rows.first, 0) : rows.end, max(columns.first, 0) : columns.end]
    above, before = max(-rows.first, 0), max(-columns.first, 0)
    if above or before:
        seen = np.asarray(cv2.copyMakeBorder(seen, above, 0, before, 0, cv2.BORDER_REPLICATE), np.uint8)
    # Its code for pixels whose channels lie side by side takes only whole arrays of them.
    whole = np.require(seen, requirements=("C", "W"))
    out: Pixels = np.empty((side + rows.leading, side + columns.leading, 3), np.uint8)
    _TORCHS[interpolation](_planes(whole), out.shape[:2], False, 1 / rows.step, 1 / columns.step, out=_planes(out))
    return np.ascontiguousarray(out[rows.leading :, columns.leading :])


def _axis(start: int, length: int, side: int, part: int) -> Axis | None:
    """How to make `side` pixels of `length` from `start` on, of which every `part`-th is there.

    None where no beginning lies near enough, as when the step is a whole number and the start is not.
    """
    step, begin, end = length / part / side, start / part, -(-(start + length) // part)
    if start % part == 0:
        return Axis(start // part, end, 0, step)
    firsts = begin - np.arange(_LEADING) * step
    near = np.flatnonzero(np.abs(firsts - np.rint(firsts)) <= _NEAR)
    if not len(near):
        return None
    leading = int(near[0])
    return Axis(round(float(firsts[leading])), end, leading, step)


def roughness(rgb: npt.NDArray[np.uint8]) -> float:
    """Root mean square of the second differences along rows and along columns of uint8 [h, w, 3], in levels.

    The mean square of x[i-1] - 2 x[i] + x[i+1] is four times that of neighbours' differences less that of
    differences over two pixels, which OpenCV adds up without an array between.
    """
    square = 0.0
    for a, b, two_a, two_b in (
        (rgb[1:], rgb[:-1], rgb[2:], rgb[:-2]),
        (rgb[:, 1:], rgb[:, :-1], rgb[:, 2:], rgb[:, :-2]),
    ):
        square += 4 * cv2.norm(a, b, cv2.NORM_L2SQR) / a.size - cv2.norm(two_a, two_b, cv2.NORM_L2SQR) / two_a.size
    return math.sqrt(max(0.0, square))


def _planes(rgb: Pixels) -> torch.Tensor:
    """The same memory as a batch of one, [1, 3, h, w]."""
    return torch.from_numpy(rgb.reshape(1, *rgb.shape)).permute(0, 3, 1, 2)
