"""Which pairs of pictures are worth a closer look: two searches that compare all pictures with all.

Both are complete within their radius. They cost O(N × M) and suit some ten thousands of pictures on one core; larger
collections bring their own candidate pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from filters.pixels import RGB

Pairs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Thumbs = Callable[[npt.NDArray[np.int64]], RGB]

_GRID = 16
_BLUR = 1.3  # in cells of the grid: enough for a shift of 10 % of the width to stay in the linear range
_BLOCK = 512
_TANGENTS = 4


def hamming_pairs(queries: npt.NDArray[np.uint64], base: npt.NDArray[np.uint64], radius: int) -> Pairs:
    """All (i, j) with at most `radius` differing bits between queries[i] and base[j]: int64 [P, 2], sorted."""
    if not len(queries) or not len(base):
        return np.empty((0, 2), np.int64)
    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(base).view(np.uint8).reshape(-1, 8))
    # faiss reports distances strictly below its radius.
    limits, _, found = index.range_search(np.ascontiguousarray(queries).view(np.uint8).reshape(-1, 8), radius + 1)
    ends = np.asarray(limits, np.int64)
    pairs = np.stack([np.repeat(np.arange(len(queries)), ends[1:] - ends[:-1]), found.astype(np.int64)], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def tangent_pairs(queries: Thumbs, n_queries: int, base: Thumbs, n_base: int, radius: float) -> Pairs:
    """All (i, j) whose one-sided tangent distance is at most `radius`: int64 [P, 2], sorted.

    `queries` and `base` return thumbnails uint8 [n, T, T, 3] for row numbers (T: 16 times a power of 2). It is
    the root mean square difference (0 to 1) of the blurred 16 × 16 pictures after the best small shift and stretch of
    the query along each axis, in the linear approximation: the difference is freed of its part in the span of the
    four derivatives (Simard, LeCun and Denker, "Efficient Pattern Recognition Using a New Transformation Distance",
    1993). So a slightly cropped picture stays near its original, which a perceptual hash does not promise.
    """
    found = [np.empty((0, 2), np.int64)]
    blocks = [blurred(base(_rows(start, n_base))) for start in range(0, n_base, _BLOCK)]
    flat = np.concatenate([b.reshape(len(b), -1) for b in blocks]) if blocks else np.empty((0, 1), np.float32)
    norms = np.einsum("nd,nd->n", flat, flat)
    for start in range(0, n_queries if n_base else 0, _BLOCK):
        pictures = blurred(queries(_rows(start, n_queries)))
        vectors = pictures.reshape(len(pictures), -1)
        distance = np.einsum("nd,nd->n", vectors, vectors)[:, None] + norms - 2 * vectors @ flat.T
        axes = _tangent_axes(pictures)
        for axis in range(_TANGENTS):
            along = axes[:, :, axis]
            distance -= (along @ flat.T - np.einsum("nd,nd->n", along, vectors)[:, None]) ** 2
        rows, columns = np.nonzero(distance <= radius**2 * vectors.shape[1])
        found.append(np.stack([rows + start, columns], axis=1))
    return np.concatenate(found)


def blurred(thumbs: RGB) -> Floats:
    """Thumbnails uint8 [N, T, T, 3] as blurred pictures float32 [N, 16, 16, 3], 0 to 1."""
    small = thumbs.astype(np.float32) / np.float32(255)
    while small.shape[1] > _GRID:
        # Sums of slices: several times faster than `mean` over short axes.
        rows = small[:, 0::2] + small[:, 1::2]
        small = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)
    return np.asarray(gaussian_filter(small, (0, _BLUR, _BLUR, 0), mode="nearest"), np.float32)


def _tangent_axes(pictures: Floats) -> Floats:
    """Orthonormal basis float32 [N, D, 4] of what small shifts and stretches of each picture change."""
    down, across = np.gradient(pictures, axis=1), np.gradient(pictures, axis=2)
    u = np.linspace(-1, 1, _GRID, dtype=np.float32)
    stacked = [across, across * u[:, None], down, down * u[:, None, None]]
    tangents = np.stack([t.reshape(len(pictures), -1) for t in stacked], axis=2)
    basis, triangle = np.linalg.qr(tangents)
    # A blank picture has no directions: drop the arbitrary ones that QR returns for it.
    strength = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    return np.asarray(basis * (strength > 1e-4)[:, None, :], np.float32)


def _rows(start: int, stop: int) -> npt.NDArray[np.int64]:
    return np.arange(start, min(start + _BLOCK, stop), dtype=np.int64)
