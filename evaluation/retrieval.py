"""Retrieval between pictures and their captions: recall at k, as CLIP_benchmark counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filters.errors import InputError

Features = NDArray[np.float32]
_BLOCK = 1024  # pictures whose scores with all captions are held at once


@dataclass(frozen=True, slots=True)
class Recall:
    """`text_from_image[k]`: share of pictures with one of their captions in the first k; and the reverse."""

    text_from_image: dict[int, float]
    image_from_text: dict[int, float]

    @property
    def mean_at_1(self) -> float:
        """DataComp's figure for retrieval: the mean of both at 1."""
        return (self.text_from_image[1] + self.image_from_text[1]) / 2


def recall(images: Features, texts: Features, owner: NDArray[np.int64], ks: Sequence[int] = (1, 5, 10)) -> Recall:
    """Recall at each of `ks` of pictures [N, E] and captions [M, E], unit vectors; `owner` [M] is each one's picture.

    What ties with a right answer stands before it, so that features that are all the same find nothing. InputError
    for widths or owners that do not fit, for a picture without a caption, and for features that are no numbers.
    """
    _check(images, texts, owner)
    own = np.full(len(texts), -np.inf)  # a caption's score with its own picture
    best = np.full(len(images), -np.inf)  # a picture's score with the best of its captions
    for start in range(0, len(images), _BLOCK):
        scores = _scores(images[start : start + _BLOCK], texts)
        mine = np.flatnonzero((owner >= start) & (owner < start + len(scores)))
        own[mine] = scores[owner[mine] - start, mine]
        np.maximum.at(best, owner[mine], own[mine])
    above_image = np.zeros(len(images), np.int64)
    above_text = np.zeros(len(texts), np.int64)
    for start in range(0, len(images), _BLOCK):
        scores = _scores(images[start : start + _BLOCK], texts)
        rows = np.arange(start, start + len(scores))
        others = owner[None, :] != rows[:, None]
        above_image[rows] = ((scores >= best[rows, None]) & others).sum(axis=1)
        above_text += ((scores >= own[None, :]) & others).sum(axis=0)
    return Recall({k: float((above_image < k).mean()) for k in ks}, {k: float((above_text < k).mean()) for k in ks})


def _scores(images: Features, texts: Features) -> NDArray[np.float64]:
    return images.astype(np.float64) @ texts.astype(np.float64).T


def _check(images: Features, texts: Features, owner: NDArray[np.int64]) -> None:
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise InputError(f"retrieval: pictures {images.shape} and captions {texts.shape} are not of one width")
    if len(owner) != len(texts) or (len(owner) and (owner.min() < 0 or owner.max() >= len(images))):
        raise InputError(
            f"retrieval: each of the {len(texts)} captions needs the number of one of {len(images)} pictures"
        )
    if len(np.unique(owner)) != len(images):
        raise InputError(f"retrieval: {len(images) - len(np.unique(owner))} pictures have no caption")
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise InputError("retrieval: features hold values that are not numbers; check the model's weights")
