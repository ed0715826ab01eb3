"""Retrieval between pictures and their captions: recall at k, as CLIP_benchmark counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filters.errors import InputError

Features = NDArray[np.float32]
Ints = NDArray[np.int64]
KS = (1, 5, 10)
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


def recall(images: Features, texts: Features, owner: Ints, ks: Sequence[int] = KS) -> Recall:
    """Recall at each of `ks` of pictures [N, E] and captions [M, E], unit vectors; `owner` [M] is each one's picture.

    What ties with a right answer stands before it, so that features that are all the same find nothing. InputError
    for widths or owners that do not fit, for a picture without a caption, and for features that are no numbers.
    """
    above_image, above_text = wrong_before(images, texts, owner)
    return Recall({k: float((above_image < k).mean()) for k in ks}, {k: float((above_text < k).mean()) for k in ks})


def recall_figures(
    images: Features, texts: Features, owner: Ints, ks: Sequence[int] = KS, *, seed: int = 0, resamples: int = 1000
) -> dict[str, tuple[float, float, float]]:
    """`recall` under CLIP_benchmark's names, each with its 95 % interval: value, lower and upper bound.

    The interval is of resampled pictures, each with all of its captions. Raises as `recall` does.
    """
    above_image, above_text = wrong_before(images, texts, owner)
    each = np.bincount(owner, minlength=len(images)).astype(np.float64)
    hits: dict[str, NDArray[np.float64]] = {
        f"text_retrieval_recall@{k}": (above_image < k).astype(np.float64) for k in ks
    }
    for k in ks:
        hits[f"image_retrieval_recall@{k}"] = np.bincount(owner[above_text < k], minlength=len(images)).astype(
            np.float64
        )
    stack = np.stack([*hits.values(), np.ones(len(images)), each], axis=1)
    rng = np.random.default_rng(seed)
    even = np.full(len(images), 1 / len(images))
    drawn = np.stack([rng.multinomial(len(images), even) @ stack for _ in range(resamples)])
    found = {}
    for place, (name, values) in enumerate(hits.items()):
        whole = -2 if name.startswith("text") else -1
        low, high = np.quantile(drawn[:, place] / drawn[:, whole], [0.025, 0.975])
        found[name] = (float(values.sum() / stack[:, whole].sum()), float(low), float(high))
    return found


def wrong_before(images: Features, texts: Features, owner: Ints) -> tuple[Ints, Ints]:
    """How many of others' captions score no less than the best of a picture's own [N], and pictures for captions [M].

    Arguments and errors as of `recall`.
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
    return above_image, above_text


def _scores(images: Features, texts: Features) -> NDArray[np.float64]:
    return images.astype(np.float64) @ texts.astype(np.float64).T


def _check(images: Features, texts: Features, owner: Ints) -> None:
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
