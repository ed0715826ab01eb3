"""Whether a classifier is right as often as it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filters.errors import InputError

Floats = NDArray[np.float64]


def expected_calibration_error(
    similarity: NDArray[np.floating], labels: NDArray[np.int64], *, scale: float = 100.0, bins: int = 15
) -> float:
    """ECE of the softmax of `scale` times `similarity` [N, C], in 0 to 1 (Guo et al. 2017, eq. 3), 15 equal bins.

    The mean over pictures of the difference, in each bin of confidence, between the share that is right and the mean
    confidence. InputError for scores that are not numbers, or no pictures.
    """
    if similarity.ndim != 2 or len(similarity) == 0 or len(labels) != len(similarity):
        raise InputError(f"calibration: scores {similarity.shape} and {len(labels)} labels do not fit together")
    if not np.isfinite(similarity).all():
        raise InputError("calibration: scores hold values that are not numbers; look for NaN in the embeddings")
    logits = similarity.astype(np.float64) * scale
    logits -= logits.max(axis=1, keepdims=True)
    chance = np.exp(logits)
    chance /= chance.sum(axis=1, keepdims=True)
    confidence = chance.max(axis=1)
    right = chance.argmax(axis=1) == labels
    # (0, 1/bins], (1/bins, 2/bins], ...
    bin_of = np.minimum(np.ceil(confidence * bins).astype(int) - 1, bins - 1)
    gap = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
