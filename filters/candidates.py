"""Which pairs of pictures are worth a closer look, by what small shifts and stretches leave of their difference.

`tangent_pairs` compares all pictures with all and suits some thousands of them on one core. `near_tangent_pairs`
finds the same pairs among some ten thousands: lower bounds of the distance, in few dimensions and through the centres
of clusters, pass over the pairs that cannot be near. What is left still grows with the square of the number of
pictures, so among more a picture visits only the clusters nearest to it, and few pairs are lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from filters.pixels import RGB

Rows = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Thumbs = Callable[[Rows], RGB]

_GRID = 16
_BLUR = 1.3  # in cells of the grid: enough for a shift of 10 % of the width to stay in the linear range
_LENGTH = np.sqrt(3.0) * _GRID  # of a vector whose root mean square is 1
_BLOCK = 512
_TANGENTS = 4
_COARSE = 64  # dimensions of the first comparison: nearly all that differs between blurred pictures
_FITTED = 16_384  # pictures that the coarse dimensions and the clusters are fitted to
_FEW = 4096  # pictures that are not worth clusters
_SLACK = 0.01  # of a length: what rounding may add to a lower bound
_TOGETHER = 1 << 15  # coarsely near pairs that are looked at in all dimensions together: 100 MB of blurred pictures
_LEAST = 0.011  # curvature that is assumed of smooth pictures, for what codecs do to them


def tangent_pairs(queries: Thumbs, n_queries: int, base: Thumbs, n_base: int, radius: float) -> Pairs:
    """All (i, j) whose one-sided tangent distance is at most `radius` times their curvature: int64 [P, 2], sorted.

    `queries` and `base` return thumbnails uint8 [n, T, T, 3] for row numbers (T: 16 times a power of 2). It is
    the root mean square difference (0 to 1) of the blurred 16 × 16 pictures after the best small shift and stretch of
    the query along each axis, in the linear approximation: the difference is freed of its part in the span of the
    four derivatives (Simard, LeCun and Denker, "Efficient Pattern Recognition Using a New Transformation Distance",
    1993). So a slightly cropped picture stays near its original, which a perceptual hash does not promise. What
    the linear approximation leaves of a shift is of second order: it grows with the second differences of the
    picture. So the limit is `radius` times their root mean square, that of the smoother picture of the two.
    Complete; the cost grows with n_queries × n_base, and 3 kB a picture of the base are held.
    """
    found = [np.empty((0, 2), np.int64)]
    flat = np.concatenate([np.empty((0, 3 * _GRID**2), np.float32), *(_flat(b) for b in _blurred(base, n_base))])
    limits = _limits(flat.reshape(-1, _GRID, _GRID, 3), radius)
    for block, pictures in enumerate(_blurred(queries, n_queries if n_base else 0)):
        squared = _squared_distance(_flat(pictures), _tangent_axes(pictures), flat)
        rows, columns = np.nonzero(squared <= np.minimum(_limits(pictures, radius)[:, None], limits) ** 2)
        found.append(np.stack([rows + block * _BLOCK, columns], axis=1))
    return np.concatenate(found)


def near_tangent_pairs(
    queries: Thumbs,
    n_queries: int,
    base: Thumbs,
    n_base: int,
    radius: float,
    *,
    clusters: int | None = None,
    probes: int | None = None,
    seed: int = 0,
) -> Pairs:
    """The pairs of `tangent_pairs`, found inside clusters of the base pictures: int64 [P, 2], sorted.

    A query visits each cluster that a lower bound of the distance does not rule out, so the result is complete; with
    `probes` it visits at most so many of them, the nearest, and pairs may be missing. Where `queries` is `base` both
    (i, j) and (j, i) are then missing only if neither of the two visits the other. The cost grows with
    n_queries × n_base, with `probes` with n_queries × √n_base. 0.3 kB a picture are held, and as much for each query
    where `queries` is not `base`.
    The bounds: projecting both pictures and the tangents onto a few dimensions cannot enlarge the distance; nor is a
    picture b of the cluster with the centre c nearer to a query than the distance of c less |b − c|.
    """
    if not n_queries or not n_base:
        return np.empty((0, 2), np.int64)
    mean, axes = _coarse_space(base, n_base, seed)
    points, limit = _coarse(base, n_base, mean, axes, radius)
    starts = points if queries is base else _coarse(queries, n_queries, mean, axes, radius)[0]
    groups = _clustered(points, limit, clusters or _cluster_count(n_base, probes), seed)
    # Neighbours together: they visit the same clusters.
    walk = np.argsort(_home(starts, groups.centre)[0], kind="stable")
    found = [np.empty((0, 2), np.int64)]
    for few in np.split(walk, range(_BLOCK, len(walk), _BLOCK)):
        rows, columns = _near_block(blurred(queries(few)), starts[few], axes, groups, base, radius, probes)
        found.append(np.stack([few[rows], columns], axis=1))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _cluster_count(size: int, probes: int | None) -> int:
    if size <= _FEW and probes is None:
        return 1
    # With probes small clusters: to find the nearest centres costs less than to visit them.
    return round((1 if probes is None else 2) * math.sqrt(size))


@dataclass(frozen=True, slots=True)
class _Clusters:
    """Clusters of `point` [N, d]: of c the rows row[start[c] : start[c + 1]], at most reach[c] from centre[c].

    `limit` [N] is how long a difference from each point may be.
    """

    point: Floats
    limit: Floats
    centre: Floats
    reach: Floats
    row: Rows
    start: Rows


def _near_block(
    pictures: Floats, starts: Floats, axes: Floats, groups: _Clusters, base: Thumbs, radius: float, probes: int | None
) -> tuple[Rows, Rows]:
    """Near pairs (number in the block, number in the base) of a block of blurred pictures, coarsely `starts`."""
    limit = _limits(pictures, radius)
    tangents = _tangent_axes(pictures)
    coarse = _orthonormal(np.einsum("dc,ndk->nck", axes, tangents, optimize=True))
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for rows, others in _together(_coarsely_near(starts, coarse, limit, groups, probes)):
        both = np.minimum(limit[rows], groups.limit[others])
        kept = _verified(pictures, tangents, base, rows, others, both)
        found.append((rows[kept], others[kept]))
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


def _coarsely_near(
    starts: Floats, coarse: Floats, limit: Floats, groups: _Clusters, probes: int | None
) -> Iterator[tuple[Rows, Rows]]:
    """Pairs (number in the block, number in the base) that are near in the coarse dimensions, cluster by cluster."""
    away = np.sqrt(np.maximum(_squared_distance(starts, coarse, groups.centre), 0))
    visit = away <= groups.reach + limit[:, None] + _SLACK
    if probes is not None:
        last = min(probes, len(groups.centre)) - 1
        visit &= away <= np.partition(away, last)[:, [last]]
    for cluster in np.flatnonzero(visit.any(axis=0)):
        members = groups.row[groups.start[cluster] : groups.start[cluster + 1]]
        rows = np.flatnonzero(visit[:, cluster])
        squared = _squared_distance(starts[rows], coarse[rows], groups.point[members])
        both = np.minimum(limit[rows, None], groups.limit[members])
        a, b = np.divmod(np.flatnonzero(squared <= (both + _SLACK) ** 2), len(members))
        yield rows[a], members[b]


def _together(parts: Iterator[tuple[Rows, Rows]]) -> Iterator[tuple[Rows, Rows]]:
    """The same pairs in fewer and larger parts, of about as many as are looked at together."""
    held, count = [(np.empty(0, np.int64), np.empty(0, np.int64))], 0
    for part in parts:
        held.append(part)
        count += len(part[0])
        if count >= _TOGETHER:
            yield np.concatenate([a for a, _ in held]), np.concatenate([b for _, b in held])
            held, count = held[:1], 0
    yield np.concatenate([a for a, _ in held]), np.concatenate([b for _, b in held])


def blurred(thumbs: RGB) -> Floats:
    """Thumbnails uint8 [N, T, T, 3] as blurred pictures float32 [N, 16, 16, 3], 0 to 1."""
    small = thumbs.astype(np.float32) / np.float32(255)
    while small.shape[1] > _GRID:
        # Sums of slices: several times faster than `mean` over short axes.
        rows = small[:, 0::2] + small[:, 1::2]
        small = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)
    return np.asarray(gaussian_filter(small, (0, _BLUR, _BLUR, 0), mode="nearest"), np.float32)


def _limits(pictures: Floats, radius: float) -> Floats:
    """How long a difference from each of `pictures` [N, 16, 16, 3] may be, float32 [N]: see `tangent_pairs`."""
    second = [np.gradient(np.gradient(pictures, axis=axis), axis=axis) for axis in (1, 2)]
    curvature = np.sqrt(sum(np.einsum("nyxc,nyxc->n", part, part) for part in second))
    return np.asarray(radius * np.maximum(_LEAST * _LENGTH, curvature), np.float32)


def _verified(pictures: Floats, tangents: Floats, base: Thumbs, a: Rows, b: Rows, limit: Floats) -> Rows:
    """Which pairs (pictures[a], picture b of the base) are at most `limit` [P] apart in all dimensions."""
    if not len(b):
        return np.empty(0, np.int64)
    needed, place = np.unique(b, return_inverse=True)
    others, flat, kept = _flat(blurred(base(needed))), _flat(pictures), []
    for start in range(0, len(a), _BLOCK):
        i, j = a[start : start + _BLOCK], place[start : start + _BLOCK]
        apart = others[j] - flat[i]
        along = np.einsum("pd,pdk->pk", apart, tangents[i])
        squared = np.einsum("pd,pd->p", apart, apart) - np.einsum("pk,pk->p", along, along)
        kept.append(start + np.flatnonzero(squared <= limit[start : start + _BLOCK] ** 2))
    return np.concatenate(kept)


def _squared_distance(vectors: Floats, tangents: Floats, base: Floats) -> Floats:
    """Squared distance [N, M] of vectors [N, D] and base [M, D], less its part along the tangents [N, D, 4]."""
    norms = np.einsum("nd,nd->n", base, base)
    squared = np.einsum("nd,nd->n", vectors, vectors)[:, None] + norms - 2 * vectors @ base.T
    for axis in range(_TANGENTS):
        along = tangents[:, :, axis]
        squared -= (along @ base.T - np.einsum("nd,nd->n", along, vectors)[:, None]) ** 2
    return np.asarray(squared, np.float32)


def _coarse_space(base: Thumbs, size: int, seed: int) -> tuple[Floats, Floats]:
    """Mean [D] of a sample of blurred pictures, and the directions [D, 64] in which they differ the most."""
    rows = np.sort(np.random.default_rng(seed).choice(size, min(size, _FITTED), replace=False))
    flat = np.concatenate([_flat(blurred(base(rows[s : s + _BLOCK]))) for s in range(0, len(rows), _BLOCK)])
    mean = flat.mean(axis=0)
    _, directions = np.linalg.eigh((flat - mean).T @ (flat - mean))
    return mean, np.asarray(directions[:, -_COARSE:], np.float32)


def _coarse(thumbs: Thumbs, size: int, mean: Floats, axes: Floats, radius: float) -> tuple[Floats, Floats]:
    """Pictures in the coarse dimensions [N, d], and how long a difference from each may be [N]."""
    points, limit = np.empty((size, axes.shape[1]), np.float32), np.empty(size, np.float32)
    for block, pictures in enumerate(_blurred(thumbs, size)):
        rows = slice(block * _BLOCK, block * _BLOCK + len(pictures))
        points[rows], limit[rows] = (_flat(pictures) - mean) @ axes, _limits(pictures, radius)
    return points, limit


def _clustered(points: Floats, limit: Floats, count: int, seed: int) -> _Clusters:
    centre = _centres(points, count, seed)
    home, gap = _home(points, centre)
    row = np.argsort(home, kind="stable")
    start = np.searchsorted(home[row], np.arange(len(centre) + 1))
    reach = [gap[row[a:b]].max(initial=-np.inf) for a, b in pairwise(start)]
    return _Clusters(points, limit, centre, np.array(reach, np.float32), row, start)


def _centres(points: Floats, count: int, seed: int) -> Floats:
    """Centres [count, D] of a k-means over a seeded sample."""
    rows = np.random.default_rng(seed).choice(len(points), min(len(points), max(_FITTED, 32 * count)), replace=False)
    kmeans = faiss.Kmeans(
        points.shape[1],
        min(count, len(rows)),
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    kmeans.train(points[np.sort(rows)])
    return np.asarray(kmeans.centroids, np.float32)


def _home(points: Floats, centres: Floats) -> tuple[Rows, Floats]:
    """The nearest centre of each point, and how far it is."""
    squared, found = faiss.knn(points, centres, 1)
    return found[:, 0], np.sqrt(np.maximum(squared[:, 0], 0))


def _blurred(thumbs: Thumbs, size: int) -> Iterator[Floats]:
    for start in range(0, size, _BLOCK):
        yield blurred(thumbs(np.arange(start, min(start + _BLOCK, size), dtype=np.int64)))


def _flat(pictures: Floats) -> Floats:
    return pictures.reshape(len(pictures), -1)


def _tangent_axes(pictures: Floats) -> Floats:
    """Orthonormal basis float32 [N, D, 4] of what small shifts and stretches of each picture change."""
    down, across = np.gradient(pictures, axis=1), np.gradient(pictures, axis=2)
    u = np.linspace(-1, 1, _GRID, dtype=np.float32)
    stacked = [across, across * u[:, None], down, down * u[:, None, None]]
    return _orthonormal(np.stack([t.reshape(len(pictures), -1) for t in stacked], axis=2))


def _orthonormal(tangents: Floats) -> Floats:
    """Orthonormal bases [N, D, 4] of the same spans."""
    basis, triangle = np.linalg.qr(tangents)
    # A blank picture has no directions: drop the arbitrary ones that QR returns for it.
    strength = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    return np.asarray(basis * (strength > 1e-4)[:, None, :], np.float32)
