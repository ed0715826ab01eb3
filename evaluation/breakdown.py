"""A set's accuracy part by part: by class, by domain."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from evaluation.metrics import Floats, Ints, clopper_pearson
from evaluation.results import Part


def parts(names: Sequence[str], members: Ints, right: Floats) -> list[Part]:
    """Top-1 accuracy of each named group of pictures that has any, in the order of `names`, with its exact interval.

    `members` int64 [N] index `names`; `right` [N] is the chance, 0 or 1 but for ties, that a picture's class comes
    first.
    """
    counts = np.bincount(members, minlength=len(names))
    sums = np.bincount(members, weights=right, minlength=len(names))
    interval = functools.cache(clopper_pearson)  # of a thousand classes of fifty pictures few counts differ
    found = []
    for name, n, hits in zip(names, counts.tolist(), sums.tolist(), strict=True):
        if n:
            low, high = interval(min(hits, n), n)  # a sum of shares may round above its count
            found.append(Part(name=name, n=n, acc1=hits / n, low=low, high=high))
    return found
