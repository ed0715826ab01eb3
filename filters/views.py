"""What a stored square may show of a picture that was not square: its middle, or all of it on white.

So img2dataset's modes `center_crop` and `border` store pictures, and nobody may know in which mode a shard was
stored. A picture and a square of it are the same in that view of the picture only.
"""

from __future__ import annotations

import math

import numpy as np

from filters.pixels import RGB, grey_levels
from filters.resize import Size

# Difference of the logarithms of width and height up to which a picture counts as square: the search for near
# duplicates shifts and stretches pictures that far anyway.
SQUARE = 0.05
_BLANK = 0.01  # of the range of grey levels, their standard deviation


def is_square(size: Size) -> bool:
    """Whether a picture of `size` (height, width) is square, or nearly."""
    return abs(math.log(size[1] / size[0])) <= SQUARE


def square_views(whole: RGB, small: RGB) -> dict[str, RGB]:
    """The square views of a picture by the resize mode that stores them, uint8 [side, side, 3]; none of a square one.

    `whole` uint8 [H, W, 3] has all its pixels, of which the middle is taken; `small` [h, w, 3] is the picture shrunk,
    which is laid on white. A middle of one colour is no view: any blank picture would be the same.
    """
    height, width = whole.shape[:2]
    if is_square((height, width)):
        return {}
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = np.ascontiguousarray(whole[top : top + side, left : left + side])
    views = {"border": _on_white(small)}
    if grey_levels(middle)["contrast"] > _BLANK:
        views["center_crop"] = middle
    return views


def shown_aspect(stored: Size, original: Size) -> float | None:
    """Width/height of what a picture stored at `stored` (height, width) shows of its `original`.

    None where a square is stored of one that was not: it may show the middle, or all, on white or squeezed.
    """
    return None if is_square(stored) and not is_square(original) else original[1] / original[0]


def _on_white(rgb: RGB) -> RGB:
    height, width = rgb.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = rgb
    return square
