"""Whether a classifier is right as often as it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filters.errors import InputError

_BLOCK = 4096  # pictures whose chances are held at once


def expected_calibration_error(
    similarity: NDArray[np.floating], labels: NDArray[np.int64], *, scale: float = 100.0, bins: int = 15
) -> float:
    """ECE of the softmax of `scale` times `similarity` [N, C], in 0 to 1 (Guo et al. 2017, eq. 3), 15 equal bins.

    The mean over pictures of the difference, in each bin of confidence, between the share that is right and the mean
    confidence. Of classes that tie for the first place each is right by its share. InputError for scores that are not
    numbers, or no pictures.
    """
    if similarity.ndim != 2 or len(similarity) == 0 or len(labels) != len(similarity):
        raise InputError(f"calibration: scores {similarity.shape} and {len(labels)} labels do not fit together")
    if not np.isfinite(similarity).all():
        raise InputError("calibration: scores hold values that are not numbers; look for NaN in the embeddings")
    confidence, right = np.empty(len(labels)), np.empty(len(labels))
    for start in range(0, len(labels), _BLOCK):
        rows = slice(start, start + _BLOCK)
        logits = similarity[rows].astype(np.float64) * scale
        highest = logits.max(axis=1, keepdims=True)
        confidence[rows] = 1 / np.exp(logits - highest).sum(axis=1)
        first = logits == highest
        right[rows] = np.take_along_axis(first, labels[rows, None], axis=1)[:, 0] / first.sum(axis=1)
    # (0, 1/bins], (1/bins, 2/bins], ...
    bin_of = np.minimum(np.ceil(confidence * bins).astype(int) - 1, bins - 1)
    gap = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
