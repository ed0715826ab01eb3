"""Which pictures stand in an evaluation set, and how: by bytes, by pixels, nearly, or by embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.clusters import Search, cross_pairs
from filters.groups import Floats, Indices
from filters.near_pairs import NearParams, Pictures, Verify, cross_candidates, embedded, log_aspect, readable

# How two pictures may be the same, the closest first.
KINDS = ("exact_bytes", "exact_pixels", "near", "semantic")
_NEAR, _SEMANTIC = 2, 3


@dataclass(frozen=True, slots=True)
class SemanticParams:
    """What counts as the same content: embeddings whose 1 − cosine is at most `max_distance`.

    `clusters` and `probes` are those of `filters.clusters`, which chooses them where they are None.
    """

    max_distance: float
    clusters: int | None = None
    probes: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Hits:
    """The closest evaluation picture of each set for each row that has one, the rows ascending.

    Hits of a row come closest first, by set and item among equals. `row` and `distance` [H] are plain; `kind` [H]
    counts in KINDS, `place` [H] is the row of the evaluation table; `set` [H] counts in `names`. `search` says how
    embeddings were searched, None where they were not.
    """

    row: Indices
    kind: npt.NDArray[np.int8]
    distance: Floats
    place: Indices
    set: npt.NDArray[np.int32]
    names: list[str]
    search: Search | None = None


def no_hits() -> Hits:
    """What there is without evaluation pictures."""
    none = np.empty(0, np.int64)
    return Hits(none, none.astype(np.int8), none.astype(np.float32), none, none.astype(np.int32), [])


def find_hits(
    pictures: Pictures,
    order: Indices,
    head: Indices,
    evaluation: Pictures,
    params: NearParams,
    semantic: SemanticParams | None,
    verify: Verify,
) -> Hits:
    """Hits of `pictures` among `evaluation` (whose table also has `eval_set` and `eval_item`).

    Several rows of `evaluation` may be one picture, in views of it: those without hashes of bytes and pixels.
    `order` [N] has the rows, the best first; `head` [N] names for each row the one that stands for all of the same
    bytes or pixels: what is near for it is near for them. The result does not depend on the order of rows.
    """
    # Their order by name is the order of preference.
    by_name = np.array(
        pc.sort_indices(evaluation.table, sort_keys=[("eval_set", "ascending"), ("eval_item", "ascending")]), np.int64
    )
    names = sorted(pc.unique(evaluation.table["eval_set"]).to_pylist())
    sets = np.array(pc.index_in(evaluation.table["eval_set"], value_set=pa.array(names, pa.string())), np.int32)
    parts = _exact_hits(pictures, evaluation, by_name, sets[by_name])
    heads = order[head[order] == order]
    parts.append(_near_hits(pictures, readable(pictures, heads), evaluation, by_name, params, verify))
    search = None
    if semantic is not None and pictures.vectors is not None and evaluation.vectors is not None:
        part, search = _semantic_hits(pictures, heads, evaluation, by_name, semantic)
        parts.append(part)
    # From heads to all rows that they stand for; exact ones are of the rows themselves.
    row, kind, distance, place = (np.concatenate(column) for column in zip(*parts, strict=True))
    of_heads = kind >= _NEAR
    again, member = _members(head, row[of_heads])
    row = np.concatenate([row[~of_heads], member])
    kind, distance, place = (np.concatenate([x[~of_heads], x[of_heads][again]]) for x in (kind, distance, place))
    return replace(_closest(row, kind, distance, place, by_name, sets, names), search=search)


_Part = tuple[Indices, Indices, Floats, Indices]


def _exact_hits(
    pictures: Pictures, evaluation: Pictures, by_name: Indices, sets: npt.NDArray[np.int32]
) -> list[_Part]:
    """Rows whose bytes or pixels equal those of a picture of each set, with the first such by name."""
    parts = []
    for kind, column in enumerate(("sha256", "pixel_hash")):
        for number in np.unique(sets):
            items = by_name[sets == number]
            values = evaluation.table[column].take(pa.array(items)).combine_chunks()
            found = pc.index_in(pictures.table[column], value_set=values, skip_nulls=True).fill_null(-1)
            first = np.array(found, np.int64)
            row = np.flatnonzero(first >= 0)
            parts.append((row, np.full(len(row), kind), np.zeros(len(row), np.float32), items[first[row]]))
    return parts


def _near_hits(
    pictures: Pictures, heads: Indices, evaluation: Pictures, by_name: Indices, params: NearParams, verify: Verify
) -> _Part:
    # Pictures of other proportions are no candidates of squares: they need not be searched for them.
    is_square = log_aspect(evaluation.table)[by_name] == 0
    fits = ~(np.abs(log_aspect(pictures.table)[heads]) > params.max_aspect)
    parts = []
    for ours, theirs in ((heads, by_name[~is_square]), (heads[fits], by_name[is_square])):
        pairs = cross_candidates(pictures, ours, evaluation, theirs, params)
        parts.append(np.stack([ours[pairs[:, 0]], theirs[pairs[:, 1]]], axis=1))
    row, place = np.concatenate(parts).T
    distance = verify(pictures, row, evaluation, place)
    near = distance <= params.max_distance
    return row[near], np.full(int(near.sum()), _NEAR), distance[near], place[near]


def _semantic_hits(
    pictures: Pictures, heads: Indices, evaluation: Pictures, by_name: Indices, params: SemanticParams
) -> tuple[_Part, Search]:
    assert pictures.vectors is not None and evaluation.vectors is not None
    rows = evaluation.vector_rows
    rows = np.arange(len(evaluation.table)) if rows is None else rows
    heads = embedded(pictures.vectors, heads)
    # In order of names, so that the clusters do not depend on the order of the pictures.
    rank = np.empty(len(by_name), np.int64)
    rank[by_name] = np.arange(len(by_name))
    order = np.argsort(rank[rows])
    pairs, cosine, search = cross_pairs(
        pictures.vectors[heads],
        evaluation.vectors[order],
        1 - params.max_distance,
        clusters=params.clusters,
        probes=params.probes,
        seed=params.seed,
    )
    distance = np.clip(1 - cosine, 0, 1).astype(np.float32)
    return (heads[pairs[:, 0]], np.full(len(pairs), _SEMANTIC), distance, rows[order][pairs[:, 1]]), search


def _members(head: Indices, heads: Indices) -> tuple[Indices, Indices]:
    """For each of `heads` all rows that it stands for: the place in `heads`, and the row."""
    rows = np.flatnonzero(np.isin(head, heads))
    rows = rows[np.argsort(head[rows], kind="stable")]
    low, high = (np.searchsorted(head[rows], heads, side) for side in ("left", "right"))
    place = np.repeat(np.arange(len(heads)), high - low)
    start = np.repeat(low - np.cumsum(high - low) + (high - low), high - low)
    return place, rows[np.arange(len(place)) + start]


def _closest(
    row: Indices, kind: Indices, distance: Floats, place: Indices, by_name: Indices,
    sets: npt.NDArray[np.int32], names: list[str],
) -> Hits:  # fmt: skip
    """One hit for each row and set, the closest; by name among equals."""
    rank = np.empty(len(by_name), np.int64)
    rank[by_name] = np.arange(len(by_name))
    order = np.lexsort((rank[place], distance, kind, sets[place], row))
    is_first = (np.diff(row[order], prepend=-1) != 0) | (np.diff(sets[place[order]], prepend=-1) != 0)
    order = order[is_first]
    order = order[np.lexsort((rank[place[order]], distance[order], kind[order], row[order]))]
    place = place[order]
    return Hits(row[order], kind[order].astype(np.int8), distance[order], place, sets[place], names)
