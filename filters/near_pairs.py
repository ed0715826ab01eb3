"""Pairs of pictures that may be nearly the same: candidates by hash and by blurred pixels, and their distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.candidates import Pairs, Thumbs, near_tangent_pairs
from filters.groups import Floats, Indices, row_hashes, unique_pairs
from filters.hamming import hamming_pairs, hamming_self_pairs
from filters.near import THUMB, picture_distance

Hashes = npt.NDArray[np.uint64]
_Members = tuple[Indices, Indices]  # the places of each distinct hash, see `_distinct`
_Joined = tuple[_Members, _Members, Pairs]  # pairs of numbers of such hashes
Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]

_VERIFY_BLOCK = 4096
_VECTOR_BLOCK = 1 << 16
_ALL = 4096  # pairs of pictures of two equal or near hashes up to which all are candidates
_COMPLETE = 1 << 30  # pairs of pictures up to which the search by pixels is complete: half a minute of one core


@dataclass(frozen=True, slots=True)
class NearParams:
    """What counts as nearly the same picture.

    `hamming_radius` (bits of 64) and `tangent_radius` (in units of the pictures' curvature, see `tangent_pairs`)
    bound the candidates, `max_distance` (0 to 1) the verified `picture_distance`; `max_aspect` bounds the difference
    of the logarithms of width/height, which a crop of 5 % on each side changes by 0.1. A `tangent_radius` of 0
    switches the search by pixels off. Among so many pictures that the complete one takes minutes to days each is
    compared with those of the `tangent_probes` nearest clusters only; None: with all, whatever it takes.
    """

    hamming_radius: int = 8
    tangent_radius: float = 1.8
    tangent_probes: int | None = 16
    max_distance: float = 0.09
    max_aspect: float = 0.15


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as columns: hashes and sizes, and a function from row numbers to thumbnails uint8 [n, 64, 64, 3].

    `table` has `sha256, pixel_hash` (texts or bytes), `phash` (uint64), `original_width, original_height` (integers),
    any of them null where unknown: an unknown hash equals nothing. It may have `aspect` (width/height of what the
    thumbnail shows, null where unknown) where that is not of the whole original, and `readable`, false for pictures
    without a thumbnail, which are near to none. Thumbnails may have a side of 16
    where another function than `distances` verifies pairs. `vectors` float16 or float32 [M, D] are L2-normalised
    embeddings of the rows `vector_rows` [M], of all rows where that is None; a row of zeros has none.
    """

    table: pa.Table
    thumbs: Thumbs
    vectors: Vectors | None = None
    vector_rows: Indices | None = None


def readable(pictures: Pictures, rows: Indices) -> Indices:
    """Those of `rows` that have a thumbnail, in their order."""
    if "readable" not in pictures.table.column_names:
        return rows
    return rows[np.array(pictures.table["readable"], np.bool_)[rows]]


def embedded(vectors: Vectors, rows: Indices) -> Indices:
    """Those of `rows` that have a vector, in their order."""
    starts = range(0, len(rows), _VECTOR_BLOCK)
    has = [vectors[rows[start : start + _VECTOR_BLOCK]].any(axis=1) for start in starts]
    found: Indices = rows[np.concatenate([np.empty(0, np.bool_), *has])]
    return found


# The distance float32 [P] of rows[p] of the first pictures and others[p] of the second.
Verify = Callable[[Pictures, Indices, Pictures, Indices], Floats]


def distances(one: Pictures, rows: Indices, other: Pictures, others: Indices) -> Floats:
    """`picture_distance` float32 [P] of rows[p] of `one` and others[p] of `other`, from thumbnails of 64 × 64."""
    detail = np.minimum(shorter_side(one.table)[rows], shorter_side(other.table)[others])
    found = [np.empty(0, np.float32)]
    for start in range(0, len(rows), _VERIFY_BLOCK):
        block = slice(start, start + _VERIFY_BLOCK)
        found.append(picture_distance(one.thumbs(rows[block]), other.thumbs(others[block]), detail[block]))
    return np.concatenate(found)


def self_candidates(pictures: Pictures, rows: Indices, params: NearParams) -> Pairs:
    """Pairs [P, 2] of places in `rows`, the smaller first, worth verifying, of about the same proportions."""
    return _candidates(pictures, rows, None, rows, params)


def cross_candidates(one: Pictures, rows: Indices, other: Pictures, others: Indices, params: NearParams) -> Pairs:
    """Pairs [P, 2] of places in `rows` (of `one`) and in `others` (of `other`), as `self_candidates`."""
    return _candidates(one, rows, other, others, params)


def pixel_probes(queries: int, base: int, params: NearParams) -> int | None:
    """How many clusters each of `queries` pictures visits among `base` ones; None for all that may matter."""
    complete = params.tangent_radius == 0 or queries * base <= _COMPLETE
    return None if complete else params.tangent_probes


def _candidates(one: Pictures, rows: Indices, other: Pictures | None, others: Indices, params: NearParams) -> Pairs:
    base = other or one
    aspects = log_aspect(one.table)[rows], log_aspect(base.table)[others]
    our_shapes, their_shapes = (np.floor(a / max(params.max_aspect, 1e-6)) for a in aspects)
    second = None if other is None else _hashes(other, others)
    joined = [_by_hash(_hashes(one, rows), second, params.hamming_radius)]
    if params.tangent_radius > 0:
        joined.append(_by_pixels(one, rows, other, others, params))
    found = np.concatenate([_expanded(*part, our_shapes, their_shapes) for part in joined])
    if other is None:
        # One orientation for each pair: the distance is not quite symmetric.
        found = np.sort(found[found[:, 0] != found[:, 1]], axis=1)
    found = unique_pairs(found, len(others))
    return np.asarray(found[alike_in_shape(one, rows[found[:, 0]], base, others[found[:, 1]], params)], np.int64)


def alike_in_shape(
    one: Pictures, rows: Indices, other: Pictures, others: Indices, params: NearParams
) -> npt.NDArray[np.bool_]:
    """Whether rows[p] of `one` and others[p] of `other` are of about the same proportions, or unknown: bool [P]."""
    apart = np.abs(log_aspect(one.table)[rows] - log_aspect(other.table)[others])
    # That of an unknown size is NaN.
    return np.asarray(~(apart > params.max_aspect), np.bool_)


def _hashes(pictures: Pictures, rows: Indices) -> tuple[Hashes, Indices]:
    """The hashes of those of `rows` that have one, and their places."""
    column = pictures.table["phash"].take(pa.array(rows))
    known = np.flatnonzero(np.array(column.is_valid(), np.bool_))
    return np.array(column.fill_null(0), np.uint64)[known], known


def _by_hash(first: tuple[Hashes, Indices], second: tuple[Hashes, Indices] | None, radius: int) -> _Joined:
    """Pairs of hashes within `radius`; all pictures of one hash are candidates for each other."""
    values, ours = _distinct(*first)
    if second is None:
        itself = np.arange(len(values))[:, None].repeat(2, axis=1)
        return ours, ours, np.concatenate([hamming_self_pairs(values, radius), itself])
    theirs, others = _distinct(*second)
    return ours, others, hamming_pairs(values, theirs, radius)


def _by_pixels(one: Pictures, rows: Indices, other: Pictures | None, others: Indices, params: NearParams) -> _Joined:
    """Pairs of thumbnails within the tangent radius of each other; equal thumbnails are searched once."""
    ours, first = _distinct_thumbs(one, rows)
    theirs, second = (ours, first) if other is None else _distinct_thumbs(other, others)
    queries = _thumbs_of(one, first)
    base = queries if other is None else _thumbs_of(other, second)
    found = near_tangent_pairs(
        queries,
        len(first),
        base,
        len(second),
        params.tangent_radius,
        probes=pixel_probes(len(rows), len(others), params),
    )
    return ours, theirs, found


def _distinct_thumbs(pictures: Pictures, rows: Indices) -> tuple[_Members, Indices]:
    """The places in `rows` of each distinct thumbnail, and a row that has it."""
    members = _distinct(_thumb_hashes(pictures, rows), np.arange(len(rows)))[1]
    return members, rows[members[0][members[1][:-1]]]


def _thumbs_of(pictures: Pictures, rows: Indices) -> Thumbs:
    return lambda places: pictures.thumbs(rows[places])


def _thumb_hashes(pictures: Pictures, rows: Indices) -> Hashes:
    parts = [np.empty(0, np.uint64)]
    for start in range(0, len(rows), _VERIFY_BLOCK):
        thumbs = pictures.thumbs(rows[start : start + _VERIFY_BLOCK])
        parts.append(row_hashes(np.ascontiguousarray(thumbs).reshape(len(thumbs), -1).view(np.uint64)))
    return np.concatenate(parts)


def _distinct(hashes: Hashes, places: Indices) -> tuple[Hashes, _Members]:
    """The distinct hashes, and the places of each, which `_members` gives by the number of the hash."""
    order = np.argsort(hashes, kind="stable")
    values, start = np.unique(hashes[order], return_index=True)
    return values, (places[order], np.append(start, len(order)))


def _members(members: _Members, number: int) -> Indices:
    return members[0][members[1][number] : members[1][number + 1]]


def _expanded(one: _Members, other: _Members, pairs: Pairs, our_shapes: Floats, their_shapes: Floats) -> Pairs:
    """Pairs of numbers of hashes as pairs of the places that have them.

    Many pictures may have one hash, as blank ones have. Of two hashes (or of one with itself) that too many share,
    all pictures of either are paired with the first of each shape of the other (pictures of one shape have about the
    same proportions): so a hash that 100,000 share does not give 5 billion pairs.
    """
    sizes = np.diff(one[1])[pairs[:, 0]], np.diff(other[1])[pairs[:, 1]]
    small = sizes[0] * sizes[1] <= _ALL
    parts = [_products(one, other, pairs[small])]
    for a, b in pairs[~small].tolist():
        left, right = _members(one, a), _members(other, b)
        parts += [np.stack([left, np.full(len(left), first)], axis=1) for first in _firsts(right, their_shapes)]
        parts += [np.stack([np.full(len(right), first), right], axis=1) for first in _firsts(left, our_shapes)]
    return np.concatenate(parts)


def _firsts(places: Indices, shapes: Floats) -> Indices:
    """The first of `places` of each shape."""
    return places[np.unique(shapes[places], return_index=True)[1]]


def _products(one: _Members, other: _Members, pairs: Pairs) -> Pairs:
    """Every member of pairs[p, 0] with every member of pairs[p, 1]."""
    counts = np.diff(one[1])[pairs[:, 0]], np.diff(other[1])[pairs[:, 1]]
    total = counts[0] * counts[1]
    pair = np.repeat(np.arange(len(pairs)), total)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(total) - total, total)
    left = one[1][pairs[pair, 0]] + place // counts[1][pair]
    right = other[1][pairs[pair, 1]] + place % counts[1][pair]
    return np.stack([one[0][left], other[0][right]], axis=1)


def log_aspect(table: pa.Table) -> npt.NDArray[np.float32]:
    """Logarithm of width/height of what thumbnails show, float32 [N]; NaN where unknown."""
    if "aspect" in table.column_names:
        return np.asarray(np.log(table["aspect"].to_numpy()), np.float32)
    width, height = _sizes(table)
    return np.asarray(np.log(width / height), np.float32)


def shorter_side(table: pa.Table) -> npt.NDArray[np.int64]:
    """The shorter side in pixels, int64 [N]; that of a thumbnail where unknown."""
    shorter = np.minimum(*_sizes(table))
    return np.where(np.isnan(shorter), THUMB, shorter).astype(np.int64)


def _sizes(table: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    width, height = (
        np.array(table[c].cast(pa.float64()).to_numpy(), np.float64) for c in ("original_width", "original_height")
    )
    return width, height
