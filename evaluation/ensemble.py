"""Output mixing: several models' answers as one, to set beside one model of their data (the study, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from filters.errors import InputError

Features = NDArray[np.float32]


def ensemble(
    scores: Sequence[Features],
    weights: Sequence[float] | None = None,
    *,
    space: Literal["logits", "probabilities"] = "logits",
    scale: float = 100.0,
) -> Features:
    """Scores float32 [N, C] of an ensemble, from the cosines [N, C] of each model with its own head.

    "logits" is the weighted mean of the cosines: all models have one scale, since learned ones would weigh them.
    "probabilities" is the logarithm, divided by `scale`, of the weighted mean of softmax(`scale` times cosine), so
    that `scale` makes logits of both. Weights are the same unless given; they are divided by their sum. InputError
    for scores of different shape, and for weights that are not one a model or not positive.
    """
    shapes = sorted({one.shape for one in scores})
    if len(shapes) != 1:
        raise InputError(
            f"ensemble: scores are {', '.join(map(str, shapes)) or 'of no model'}; they must be of one shape"
        )
    given = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (len(scores),) or not (np.isfinite(given).all() and (given > 0).all()):
        raise InputError(f"ensemble: {len(scores)} models need as many weights above 0, here are {given.tolist()}")
    shares = (given / given.sum())[:, None, None]
    stacked = np.stack([one.astype(np.float64) for one in scores])
    if space == "logits":
        mixed = (shares * stacked).sum(axis=0)
    else:
        mixed = logsumexp(log_softmax(scale * stacked, axis=2), axis=0, b=shares) / scale
    found: Features = mixed.astype(np.float32)
    return found
