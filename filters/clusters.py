"""Pairs of vectors that point almost the same way, found inside clusters instead of among all pairs.

Each vector belongs to its nearest centroid of a spherical k-means and is compared with the members of the clusters
whose centroids are nearest to it: its own and `probes` − 1 more. (One probe is the search of Abbas et al.,
"SemDeDup", 2023; it loses the pairs that a boundary parts.) Every pair reported was checked by its own cosine; what
share of all pairs is reported, `pair_recall` measures on a sample, and where `probes` is not given as many are taken
as a sample needs for `GOAL`; a search says how many it took, and what share of the sample's pairs they find. With
one cluster the search compares all with all and is complete; that is the default for up to 32,768 vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from filters.errors import InputError
from filters.products import (
    SPAN,
    Floats,
    Found,
    Ints,
    Products,
    Rows,
    Vectors,
    check_form,
    check_lengths,
    distinct,
    products,
)

Pairs = npt.NDArray[np.int64]

MOST_PAIRS = 100_000_000
GOAL = 0.995  # share of a sample's pairs that the chosen number of probes must find
_SMALL = 1 << 15  # vectors that are compared all with all
_ITERATIONS = 10
_SAMPLE = 500  # vectors whose pairs say how many clusters must be visited
_PER_CENTROID = 64  # vectors of the training sample for each centroid


@dataclass(frozen=True, slots=True)
class Search:
    """How vectors were searched: the number of clusters, how many of them each visited, and the pairs this finds.

    `recall` is the share that these visits find of the true pairs of 500 random vectors, or of as many planted pairs
    of exactly the threshold's cosine in random directions (the hardest that count), whichever is less.
    """

    clusters: int
    probes: int
    recall: float


class Similar(NamedTuple):
    """Pairs int64 [P, 2], sorted, their cosines float32 [P], and how they were searched."""

    pairs: Pairs
    cosine: Floats
    search: Search


@dataclass(frozen=True, slots=True)
class _Lists:
    """Members of each cluster: those of cluster c are row[start[c] : start[c + 1]], ascending."""

    row: Rows
    start: Rows

    def of(self, cluster: int) -> Rows:
        return self.row[self.start[cluster] : self.start[cluster + 1]]


def train_centroids(vectors: Vectors, k: int, *, seed: int, sample: int | None = None) -> Floats:
    """Centroids float32 [k, D] of unit length of a spherical k-means over a seeded sample of `vectors` [N, D].

    `sample` vectors (64 for each centroid unless given) take part. Fewer than k vectors give as many centroids.
    """
    check_form(vectors)
    count = min(len(vectors), max(k, sample or _PER_CENTROID * k))
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), count, replace=False))
    chosen = np.ascontiguousarray(vectors[rows], np.float32)
    k = min(k, count)
    kmeans = faiss.Kmeans(
        vectors.shape[1], k, niter=_ITERATIONS, spherical=True, seed=seed, gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1, max_points_per_centroid=count,
    )  # fmt: skip
    kmeans.train(chosen)
    return np.asarray(kmeans.centroids, np.float32)


def nearest(vectors: Vectors, centroids: Floats, probes: int) -> Ints:
    """The numbers of the `probes` centroids nearest to each vector, nearest first: int32 [N, probes]."""
    check_form(vectors, centroids.shape[1])
    return _nearest(products(vectors), len(vectors), centroids, probes)


def similar_pairs(
    vectors: Vectors,
    threshold: float,
    *,
    clusters: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    most: int = MOST_PAIRS,
) -> Similar:
    """Pairs (i, j), i < j, with a cosine of at least `threshold`, their cosines, and how they were searched.

    `vectors` are L2-normalised, float16 or float32 [N, D], and may be a memory map. Of equal rows the first stands
    for all: each other one is paired with it alone, at 1. `clusters` and `probes` are chosen by the number of vectors
    and by a sample where they are None. Pairs take up to 40 bytes each while they are sorted.
    InputError for vectors that are not finite or not of length 1, and for more than `most` pairs.
    """
    check_form(vectors)
    work = products(vectors)
    check_lengths(work, len(vectors))
    rows, first_of = distinct(vectors)
    centroids, search = _layout(vectors, threshold, clusters, probes, seed)
    visited = _nearest(work, len(vectors), centroids, search.probes)
    found = _self_search(work, visited, rows, len(centroids), threshold)
    repeats = np.flatnonzero(first_of != np.arange(len(vectors)))
    equal = first_of[repeats], repeats, np.ones(len(repeats), np.float32)
    return Similar(*_gathered(chain(found, [equal]), len(vectors), most), search)


def cross_pairs(
    queries: Vectors,
    base: Vectors,
    threshold: float,
    *,
    clusters: int | None = None,
    probes: int | None = None,
    seed: int = 0,
    most: int = MOST_PAIRS,
) -> Similar:
    """Pairs (i, j) where queries[i] and base[j] have a cosine of at least `threshold`, as `similar_pairs` gives them.

    All rows are compared for themselves, equal ones too. The clusters are those of `base`, and only queries visit.
    """
    check_form(base)
    check_form(queries, base.shape[1])
    if not len(queries) or not len(base):
        return Similar(*_gathered([], 0, most), Search(1, 1, 1.0))
    ours, theirs = products(queries), products(base)
    check_lengths(ours, len(queries))
    check_lengths(theirs, len(base))
    centroids, search = _layout(base, threshold, clusters, probes, seed, both=False)
    members = _lists(_nearest(theirs, len(base), centroids, 1), np.arange(len(base)), len(centroids))
    visitors = _lists(_nearest(ours, len(queries), centroids, search.probes), np.arange(len(queries)), len(centroids))
    found = (_over(ours, visitors.of(c), theirs, members.of(c), threshold) for c in range(len(centroids)))
    return Similar(*_gathered(found, len(base), most), search)


def pair_recall(vectors: Vectors, threshold: float, pairs: Pairs, *, sample: int = 1000, seed: int = 0) -> float:
    """Share of the true pairs of `sample` random vectors, found by comparing them with all, that `pairs` has.

    Equal rows count as one, as `similar_pairs` joins them through the first. NaN where the sample has no pairs.
    """
    check_form(vectors)
    size = len(vectors)
    _, first_of = distinct(vectors)
    true = first_of[_true_pairs(vectors, threshold, sample, seed)]
    true = np.unique(np.sort(true[true[:, 0] != true[:, 1]], axis=1), axis=0)
    if not len(true):
        return float("nan")
    return float(np.isin(true @ [size, 1], np.sort(first_of[pairs], axis=1) @ [size, 1]).mean())


def _sampled_visits(
    vectors: Vectors, centroids: Floats, threshold: float, sample: int, seed: int, both: bool
) -> list[Rows]:
    """How many clusters must be visited for each planted pair to be found, and for each true one if there are any."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(vectors), min(sample, len(vectors)), replace=False)
    first = np.ascontiguousarray(vectors[np.sort(rows)], np.float32)
    random = rng.standard_normal(first.shape, dtype=np.float32)
    random -= np.einsum("nd,nd->n", random, first)[:, None] * first
    random *= np.float32(np.sqrt(1 - threshold**2)) / np.linalg.norm(random, axis=1, keepdims=True)
    planted = _visits(first, threshold * first + random, centroids, both)
    true = _true_pairs(vectors, threshold, sample, seed)[: 20 * sample]
    natural = _visits(vectors[true[:, 0]], vectors[true[:, 1]], centroids, both)
    return [visits for visits in (planted, natural) if len(visits)]


def _visits(a: Vectors, b: Vectors, centroids: Floats, both: bool) -> Rows:
    """For each pair of rows how many clusters the first, or either of `both`, must visit to meet the other."""
    scores = [np.asarray(side, np.float32) @ centroids.T for side in (a, b)]
    homes = [s.argmax(axis=1)[:, None] for s in scores]
    nearer: list[npt.NDArray[np.bool_]] = [
        s > np.take_along_axis(s, home, axis=1) for s, home in zip(scores, homes[::-1], strict=True)
    ]
    ours, theirs = (1 + side.sum(axis=1) for side in nearer)
    return np.asarray(np.minimum(ours, theirs) if both else ours, np.int64)


def _true_pairs(vectors: Vectors, threshold: float, sample: int, seed: int) -> Pairs:
    """All pairs (i, j), i ≠ j, of at least `threshold` with i among `sample` random rows, by comparing with all."""
    work = products(vectors)
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), min(sample, len(vectors)), replace=False))
    pairs, _ = _gathered([_over(work, rows, work, np.arange(len(vectors)), threshold)], len(vectors), MOST_PAIRS)
    others: Pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return others


def _self_search(work: Products, visited: Ints, rows: Rows, clusters: int, threshold: float) -> Iterator[Found]:
    """Pairs i < j among `rows`, each once, cluster by cluster; visited [N, probes] begins with the own cluster."""
    home = visited[:, 0]
    members = _lists(home[rows, None], rows, clusters)
    visitors = _lists(visited[rows, 1:], rows, clusters)
    for cluster in range(clusters):
        own = members.of(cluster)
        yield _over(work, own, work, own, threshold, within=True)
        a, b, cosine = _over(work, visitors.of(cluster), work, own, threshold)
        # Where both visit each other the pair is found twice, and counts from its smaller row.
        once = (a < b) | ~(visited[b, 1:] == home[a, None]).any(axis=1)
        yield np.minimum(a, b)[once], np.maximum(a, b)[once], cosine[once]


def _over(
    ours: Products, rows: Rows, theirs: Products, columns: Rows, threshold: float, *, within: bool = False
) -> Found:
    """Pairs of ours[rows] with theirs[columns] at `threshold` or more; each once where rows and columns are one."""
    parts = [(rows[:0], columns[:0], np.empty(0, np.float32))]
    for start in range(0, len(columns) if len(rows) else 0, theirs.tile):
        some = columns[start : start + theirs.tile]
        block = theirs.take(some)
        for begin in range(0, start + len(some) if within else len(rows), ours.tile):
            few = rows[begin : begin + ours.tile]
            a, b, cosine = ours.over(ours.take(few), block, threshold, begin - start if within else None)
            parts.append((few[a], some[b], cosine))
    return _joined(parts)


def _joined(parts: Sequence[Found]) -> Found:
    first, second, cosine = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(second), np.concatenate(cosine)


def _gathered(parts: Iterable[Found], size: int, most: int) -> tuple[Pairs, Floats]:
    """All found pairs (i, j), j < `size`, sorted; InputError as soon as there are more than `most`."""
    keys, cosines, total = [np.empty(0, np.int64)], [np.empty(0, np.float32)], 0
    for a, b, cosine in parts:
        total += len(a)
        if total > most:
            raise InputError(f"more than {most:,} pairs of embeddings are as near as the threshold asks: raise it")
        keys.append(a * size + b)
        cosines.append(cosine)
    key = np.concatenate(keys)
    keys.clear()
    order = np.argsort(key, kind="stable")
    return np.stack(np.divmod(key[order], max(1, size)), axis=1), np.concatenate(cosines)[order]


def _layout(
    vectors: Vectors, threshold: float, clusters: int | None, probes: int | None, seed: int, *, both: bool = True
) -> tuple[Floats, Search]:
    """The centroids of a search among `vectors`, and how it goes."""
    if clusters is None:
        clusters = 1 if len(vectors) <= _SMALL else 2 ** round(np.log2(len(vectors)) / 2)
    if clusters == 1:
        # Everything is nearest to the only one.
        return np.ones((1, vectors.shape[1]), np.float32), Search(1, 1, 1.0)
    centroids = train_centroids(vectors, clusters, seed=seed)
    visits = _sampled_visits(vectors, centroids, threshold, _SAMPLE, seed, both)
    if probes is None:
        probes = max(int(np.quantile(needed, GOAL, method="higher")) for needed in visits)
    probes = min(probes, len(centroids))
    # Of the sample that has the most to lose.
    recall = min(float(np.mean(needed <= probes)) for needed in visits)
    return centroids, Search(len(centroids), probes, recall)


def _nearest(work: Products, size: int, centroids: Floats, probes: int) -> Ints:
    if len(centroids) == 1:
        return np.zeros((size, 1), np.int32)
    parts = [work.top(work.take(slice(s, s + SPAN)), centroids, probes) for s in range(0, size, SPAN)]
    return np.concatenate([np.empty((0, probes), np.int32), *parts])


def _lists(clusters: Ints, rows: Rows, count: int) -> _Lists:
    """The rows that have each cluster in their line of `clusters` [N, any]."""
    flat = clusters.reshape(-1)
    # Numbers of 16 bits are sorted by counting.
    order = np.argsort(flat.astype(np.uint16) if count < 1 << 16 else flat, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=count))]).astype(np.int64)
    return _Lists(rows[order // max(1, clusters.shape[1])], start)
