"""Which captions are nearly the same text: MinHash over pieces of four characters.

The signatures are datasketch's (Broder, "On the resemblance and containment of documents", 1997); they are compared
only where they agree on a band of values (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4),
with as many bands as datasketch's `MinHashLSH` advises for the threshold.

Equal captions alone do not make two pictures the same: this is a signal of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from filters.groups import Floats, Indices, row_hashes, stars

Signatures = npt.NDArray[np.uint32]

PERMUTATIONS = 128  # the estimate of a similarity of 0.8 is off by 0.035 (standard deviation)
_PIECE = 4
_STEP = np.uint32(0x9E3779B1)  # 2**32 over the golden ratio: neighbouring codes come far apart
_ALL = 64  # captions in one bucket up to which all are compared with all
_BLOCK = 1 << 16
_SEED = 1


def caption_signatures(captions: pa.ChunkedArray) -> Signatures:
    """Signatures uint32 [N, 128] of `captions`; all ones where there is no caption, or an empty one.

    Case and runs of white space do not count. The set that is hashed are all runs of four characters; a shorter
    caption is one piece.
    """
    normal = [" ".join((text or "").casefold().split()) for text in captions.to_pylist()]
    distinct = sorted({text for text in normal if text})
    hashed = MinHash.generator(map(_pieces, distinct), num_perm=PERMUTATIONS, seed=_SEED, hashfunc=int)
    found = np.full((len(distinct) + 1, PERMUTATIONS), np.iinfo(np.uint32).max, np.uint32)
    for row, signature in enumerate(hashed):
        found[row] = signature.hashvalues
    place = {text: row for row, text in enumerate(distinct)}
    return found[np.array([place.get(text, len(distinct)) for text in normal], np.int64)]


def _pieces(text: str) -> list[int]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.pad(codes, (0, max(0, _PIECE - len(codes))))
    last = len(codes) - _PIECE + 1
    piece = codes[:last].copy()
    for place in range(1, _PIECE):
        piece = piece * _STEP + codes[place : last + place]
    pieces: list[int] = np.unique(piece).tolist()
    return pieces


def caption_groups(signatures: Signatures, order: Indices, threshold: float) -> tuple[Indices, Floats]:
    """For each row the first row with nearly the same caption, int64 [N], and the estimated similarity, float32 [N].

    `order` has the rows, the best first. A row that is the first of its group, or alone, has −1 and NaN. Each row's
    caption was compared with that of the row it names: similarity does not pass along a chain. Where more than 64
    different captions share a band, they are compared with the first of them only.
    """
    first = np.full(len(signatures), -1, np.int64)
    similarity = np.full(len(signatures), np.nan, np.float32)
    rows = order[_is_text(signatures, order)]
    if not len(rows):
        return first, similarity
    # Equal captions are one node.
    _, place, of = np.unique(row_hashes(signatures)[rows], return_index=True, return_inverse=True)
    nodes = np.sort(place)
    heads = rows[nodes]
    pairs = _bucket_pairs(signatures, heads, threshold)
    near = pairs[_similarity(signatures, heads[pairs[:, 0]], heads[pairs[:, 1]]) >= np.float32(threshold)]
    chosen = heads[stars(len(heads), near)[np.searchsorted(nodes, place[of])]]
    others = np.flatnonzero(chosen != rows)
    first[rows[others]] = chosen[others]
    similarity[rows[others]] = _similarity(signatures, chosen[others], rows[others])
    return first, similarity


def _is_text(signatures: Signatures, rows: Indices) -> npt.NDArray[np.bool_]:
    parts = [
        (signatures[rows[start : start + _BLOCK]] != np.iinfo(np.uint32).max).any(axis=1)
        for start in range(0, len(rows), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.bool_), *parts])


def _bucket_pairs(signatures: Signatures, rows: Indices, threshold: float) -> Indices:
    """Numbers [P, 2] into `rows` of captions that agree on a band, each pair once."""
    lsh = MinHashLSH(threshold=min(threshold, 0.999), num_perm=PERMUTATIONS)
    codes = [np.empty(0, np.int64)]
    for band in range(lsh.b):
        keys = row_hashes(signatures[rows, band * lsh.r : (band + 1) * lsh.r], band)
        ordered = np.argsort(keys, kind="stable")
        runs = np.flatnonzero(np.concatenate([[True], keys[ordered][1:] != keys[ordered][:-1]]))
        sizes = np.diff(np.append(runs, len(rows)))
        place = np.arange(len(rows)) - np.repeat(runs, sizes)
        crowd = np.repeat(sizes, sizes) > _ALL
        for back in range(1, min(_ALL, int(sizes.max()))):
            late = np.flatnonzero((place >= back) & ~crowd)
            codes.append(ordered[late - back] * len(rows) + ordered[late])
        late = np.flatnonzero(crowd & (place > 0))
        codes.append(ordered[late - place[late]] * len(rows) + ordered[late])
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), len(rows)), axis=1)


def _similarity(signatures: Signatures, a: Indices, b: Indices) -> Floats:
    """The share of equal values of the signatures of rows `a` and rows `b`, pair by pair: float32 [P]."""
    parts = [
        (signatures[a[start : start + _BLOCK]] == signatures[b[start : start + _BLOCK]]).mean(
            axis=1, dtype=np.float32
        )
        for start in range(0, len(a), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.float32), *parts])
