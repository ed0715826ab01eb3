"""Is it the same picture? A distance between thumbnails that re-encoding, scaling and slight cropping leave small.

The second thumbnail is laid on the first by the shift and stretch along each axis that fit best; what differs then is
smoothed a little, and its largest value anywhere counts. A mean would not do: two clock faces differ only in a hand.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from filters.pixels import RGB

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

THUMB = 64
_MENDABLE = 0.25  # largest distance after the fits at 16 and 32 pixels that is worth a fit at 64
_STEPS = 3  # Gauss-Newton steps a level
_STRETCH = (0.85, 1.18)
_SHIFT = 0.15  # of half the width
_SMOOTHING = 1.7  # standard deviation in pixels of the less detailed picture
_INSET = 0.25  # pixels at the edge that are not compared: what a crop cut off shines into them
_CHUNK = 128


def thumbnail(rgb: RGB) -> RGB:
    """`rgb` uint8 [H, W, 3] squeezed to uint8 [64, 64, 3] whatever its proportions."""
    return np.asarray(Image.fromarray(rgb).resize((THUMB, THUMB), Image.Resampling.BICUBIC), dtype=np.uint8)


def picture_distance(a: RGB, b: RGB, detail: npt.NDArray[np.int64]) -> Floats:
    """Distance float32 [P], 0 to 1, between thumbnails uint8 [P, 64, 64, 3] of `a` and of `b`, pair by pair.

    `detail` int64 [P] is the shorter side in pixels of the smaller picture of each pair: what is finer than its
    pixels cannot be compared. The distance is the largest root mean square over the colours of the smoothed
    difference where the aligned pictures overlap.
    """
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(a), _CHUNK)]
    found = [_distance(a[c], b[c], detail[c]) for c in chunks]
    return np.concatenate([np.empty(0, np.float32), *found])


def _distance(a: RGB, b: RGB, detail: npt.NDArray[np.int64]) -> Floats:
    # Colours first: then both products of `_separable` are matrix by matrix.
    first, second = (np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32) / np.float32(255) for x in (a, b))
    sigma = np.asarray(_SMOOTHING * np.maximum(1, THUMB / np.maximum(detail, 1)), np.float32)
    fit = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1))
    halves = _halved(first), _halved(second)
    fit = _refine(_halved(halves[0]), _halved(halves[1]), fit)
    fit = _refine(*halves, fit)
    distance = _largest_difference(first, second, fit, sigma)
    close = np.flatnonzero(distance < _MENDABLE)
    if len(close):
        fine = _refine(first[close], second[close], fit[close])
        mended = _largest_difference(first[close], second[close], fine, sigma[close])
        distance[close] = np.minimum(distance[close], mended)
    return distance


def _largest_difference(first: Floats, second: Floats, fit: Floats, sigma: Floats) -> Floats:
    """The distance [P] of `first` and `second` [P, 3, S, S] under `fit` [P, 4], smoothed by `sigma` [P] pixels."""
    laid, rows, columns = _lay(second, fit)
    difference = _separable(_smoothing(sigma, rows), first - laid, _smoothing(sigma, columns))
    overlap = rows[:, :, None] & columns[:, None, :]
    squared = np.einsum("pcyx,pcyx->pyx", difference, difference) * overlap
    return np.asarray(np.sqrt(squared.max(axis=(1, 2)) / 3), np.float32)


def _refine(target: Floats, moving: Floats, fit: Floats) -> Floats:
    """Gauss-Newton steps on `fit` float32 [P, 4] (stretch and shift across, stretch and shift down).

    Positions run from −1 to 1. The derivatives are those of the target (Baker and Matthews, "Lucas-Kanade 20 Years
    On", 2004, section 3): close to the fit they agree with those of the moving picture and need no renewal.
    """
    pairs, side = len(target), target.shape[-1]
    u = _positions(side)
    across, down = np.gradient(target, 2 / side, axis=3), np.gradient(target, 2 / side, axis=2)
    parts = [across * u, across, down * u[:, None], down]
    jacobian = np.stack([p.reshape(pairs, -1) for p in parts], axis=1).astype(np.float32)
    # The ridge holds blank pictures in place.
    normal = jacobian @ jacobian.transpose(0, 2, 1) + np.float32(2e-5 * side**2) * np.eye(4, dtype=np.float32)
    for _ in range(_STEPS):
        laid, rows, columns = _lay(moving, fit)
        residual = (target - laid) * (rows[:, :, None] & columns[:, None, :])[:, None]
        step = np.linalg.solve(normal, jacobian @ residual.reshape(pairs, -1, 1))[..., 0]
        fit = np.asarray(fit + step * fit[:, [0, 0, 2, 2]], np.float32)
        fit[:, [0, 2]] = np.clip(fit[:, [0, 2]], *_STRETCH)
        fit[:, [1, 3]] = np.clip(fit[:, [1, 3]], -_SHIFT, _SHIFT)
    return fit


def _lay(pictures: Floats, fit: Floats) -> tuple[Floats, Bools, Bools]:
    """`pictures` [P, 3, S, S] sampled bilinearly by `fit`, and which rows and columns [P, S] lie inside them."""
    side = pictures.shape[-1]
    sampled = []
    for stretch, shift in ((fit[:, 2], fit[:, 3]), (fit[:, 0], fit[:, 1])):
        place = (stretch[:, None] * _positions(side) + shift[:, None] + 1) * (side / 2) - 0.5
        weights = np.maximum(0, 1 - np.abs(np.clip(place, 0, side - 1)[:, :, None] - np.arange(side)))
        inside = (place > _INSET) & (place < side - 1 - _INSET)
        sampled.append((weights.astype(np.float32), inside))
    (down, rows), (across, columns) = sampled
    return _separable(down, pictures, across), rows, columns


def _smoothing(sigma: Floats, inside: Bools) -> Floats:
    """Gaussian averaging matrices float32 [P, S, S] of `sigma` [P] pixels over the positions `inside` [P, S]."""
    at = np.arange(inside.shape[1], dtype=np.float32)
    weights = np.exp(-(((at[:, None] - at) / sigma[:, None, None]) ** 2) / 2) * inside[:, None, :]
    return np.asarray(weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-9), np.float32)


def _separable(down: Floats, pictures: Floats, across: Floats) -> Floats:
    """Matrices [P, S, S] applied to the rows and to the columns of `pictures` [P, 3, S, S]."""
    return np.asarray(down[:, None] @ pictures @ across[:, None].transpose(0, 1, 3, 2), np.float32)


def _halved(pictures: Floats) -> Floats:
    """Means of 2 × 2 pixels; as sums of slices, several times faster than `mean` over short axes."""
    rows = pictures[:, :, 0::2] + pictures[:, :, 1::2]
    return np.asarray((rows[..., 0::2] + rows[..., 1::2]) * np.float32(0.25), np.float32)


def _positions(side: int) -> Floats:
    return ((np.arange(side, dtype=np.float32) + np.float32(0.5)) / side * 2 - 1).astype(np.float32)
