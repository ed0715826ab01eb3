"""Clusters of unit feature vectors, which stand for the domains that pictures come from."""

from __future__ import annotations

from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHORT = 1e-6  # a vector shorter than this is rounding noise, and its direction means nothing

_CHUNK = 1 << 14  # rows compared or summed together
_STARTS = 10  # k-means runs, of which the best counts
_ITERATIONS = 50
_PER_CLUSTER = 1 << 14  # rows a cluster that k-means is trained on, at most
_SETTLE = 100  # rounds of Lloyd's algorithm after it


def cluster(rows: Floats, clusters: int, seed: int = 0) -> Ints:
    """Cluster int64 [N] of each of the unit `rows` [N, E] by k-means (faiss, the best of ten seeded starts).

    Rounds in float64 follow until no row moves, so that every row is with its nearest mean.
    """
    few = np.ascontiguousarray(rows, np.float32)
    kmeans = faiss.Kmeans(
        rows.shape[1], clusters, niter=_ITERATIONS, nredo=_STARTS, seed=seed, gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1, max_points_per_centroid=_PER_CLUSTER,
    )  # fmt: skip
    kmeans.train(few)
    there = np.ones(clusters, np.bool_)
    assignments = nearest(rows, np.asarray(kmeans.centroids, np.float64), there)
    for _ in range(_SETTLE):
        counts = np.bincount(assignments, minlength=clusters)
        centres = sums(rows, assignments, clusters) / np.maximum(counts, 1)[:, None]
        moved = nearest(rows, centres, counts > 0)
        if np.array_equal(moved, assignments):
            break
        assignments = moved
    return assignments


def nearest(rows: Floats, centres: Floats, there: npt.NDArray[np.bool_]) -> Ints:
    """The nearest by Euclidean distance of the centres [M, E] that are `there` bool [M], the first of equals."""
    own = np.where(there, (centres**2).sum(axis=1), np.inf)
    parts = [(own - 2 * rows[s : s + _CHUNK] @ centres.T).argmin(axis=1) for s in range(0, len(rows), _CHUNK)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def sums(rows: Floats, assignments: Ints, clusters: int) -> Floats:
    """Sum of the rows [N, E] of each cluster: float64 [clusters, E]."""
    total = np.zeros((clusters, rows.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = assignments[start : start + _CHUNK]
        total += (part == np.arange(clusters)[:, None]).astype(np.float64) @ rows[start : start + _CHUNK]
    return total


def unit(rows: Floats, instead: Floats) -> Floats:
    """Rows at length 1; those too short to have a direction are replaced by the rows of `instead`."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length < SHORT, instead, rows / np.maximum(length, SHORT))


class Agreement(NamedTuple):
    """Normalised mutual information and accuracy under the best matching, both 0 to 1."""

    nmi: float
    accuracy: float


def agreement(assignments: Ints, domains: Ints) -> Agreement:
    """How well clusters int [N] agree with the true domains int [N], whatever either is numbered."""
    found, true = (np.unique(x, return_inverse=True)[1] for x in (assignments, domains))
    table = np.zeros((found.max() + 1, true.max() + 1))
    np.add.at(table, (found, true), 1)
    joint = table / len(found)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mutual = float(np.nansum(joint * np.log(joint / np.outer(rows, columns))))
    entropy = -float((rows * np.log(rows)).sum() + (columns * np.log(columns)).sum()) / 2
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return Agreement(mutual / entropy if entropy > 0 else 1.0, float(matched / len(found)))
