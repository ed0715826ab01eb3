"""From pairs of equal pictures to groups, each with one survivor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_BLOCK = 1 << 16
_SEED = 1


def survivor_order(table: pa.Table, priority: Sequence[str]) -> Indices:
    """Row numbers of `table`, the one to keep first: source as in `priority`, larger original area, score, uid.

    Needs `uid, source, original_width, original_height`; `score` (higher is better, unknown last) may be there, and
    `readable`: rows for which that is false come after all others, since nobody is served by a damaged survivor.
    Sources that `priority` does not name come after those it names and tie among themselves. An unknown size counts
    as 0. The smallest uid decides at last, so the order of the rows does not matter.
    """
    rank = pc.index_in(table["source"].cast(pa.string()), value_set=pa.array(priority, pa.string()))
    width, height = (table[c].fill_null(0).cast(pa.int64()) for c in ("original_width", "original_height"))
    columns = {"rank": rank.fill_null(len(priority)), "area": pc.multiply(width, height), "uid": table["uid"]}
    keys = [("rank", "ascending"), ("area", "descending"), ("uid", "ascending")]
    if "score" in table.column_names:
        columns["score"] = table["score"]
        keys.insert(2, ("score", "descending"))
    if "readable" in table.column_names:
        columns["readable"] = table["readable"].cast(pa.int8())
        keys.insert(0, ("readable", "descending"))
    return np.array(pc.sort_indices(pa.table(columns), sort_keys=keys), np.int64)


def keys_of(column: pa.ChunkedArray) -> Indices:
    """A number for each value that `column` has more than once, equal for equal values: int64 [N], −1 elsewhere."""
    if not len(column):
        return np.empty(0, np.int64)
    keys = np.array(column.combine_chunks().dictionary_encode().indices.fill_null(-1), np.int64)
    repeated = np.bincount(keys + 1) > 1
    repeated[0] = False
    keys[~repeated[keys + 1]] = -1
    return keys


def row_hashes(values: npt.NDArray[np.unsignedinteger], salt: int = 0) -> npt.NDArray[np.uint64]:
    """One number uint64 [N] for each row of `values` [N, D]: equal rows have equal ones, others hardly ever."""
    odd = np.random.default_rng([_SEED, salt]).integers(0, 2**64, values.shape[1], np.uint64) | np.uint64(1)
    parts = [
        (values[start : start + _BLOCK] * odd).sum(axis=1, dtype=np.uint64) for start in range(0, len(values), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def heads_of(order: Indices, *keys: Indices) -> Indices:
    """The best row of the class of each row, int64 [N]: a chain of equal `keys` (not −1) joins the rows of a class.

    `order` has the rows, the best first; a row without an equal is its own.
    """
    head = np.arange(len(order))
    known = np.flatnonzero(np.logical_or.reduce([key >= 0 for key in keys]))
    if len(known):
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        classes = _classes([key[known] for key in keys])
        best = np.full(classes.max() + 1, len(order), np.int64)
        np.minimum.at(best, classes, rank[known])
        head[known] = order[best[classes]]
    return head


def _classes(keys: Sequence[Indices]) -> Indices:
    """Number of the class of each row: rows and the values of their keys are the nodes of a graph."""
    rows, hubs, offset = [], [], len(keys[0])
    for key in keys:
        known = np.flatnonzero(key >= 0)
        values, hub = np.unique(key[known], return_inverse=True)
        rows.append(known)
        hubs.append(hub + offset)
        offset += len(values)
    return components(offset, np.stack([np.concatenate(rows), np.concatenate(hubs)], axis=1))[: len(keys[0])]


def components(size: int, pairs: Indices) -> Indices:
    """Number of the connected component of each of `size` nodes under `pairs` [P, 2]: int64 [size]."""
    if not size:
        return np.empty(0, np.int64)
    edges = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def unique_pairs(pairs: Indices, size: int) -> Indices:
    """`pairs` [P, 2] in order and each once; their second numbers are below `size`."""
    # Sorting single numbers is ten times faster than sorting by two keys.
    return np.stack(np.divmod(np.unique(pairs[:, 0] * size + pairs[:, 1]), max(1, size)), axis=1)


def is_repeat(keys: Indices, order: Indices) -> Bools:
    """Whether a row that comes earlier in `order` has the same key (not −1): bool [N]."""
    known = order[keys[order] >= 0]
    _, first = np.unique(keys[known], return_index=True)
    repeat = np.zeros(len(keys), np.bool_)
    repeat[known] = True
    repeat[known[first]] = False
    return repeat


def stars(size: int, pairs: Indices) -> Indices:
    """The survivor of each of `size` nodes, the best first; its own number for a node that survives: int64 [size].

    `pairs` [P, 2] are equal pictures. In their order, nodes that are still free become survivors and take all free
    nodes that are paired with themselves. A node that only a chain of likenesses joins to the survivor is not taken:
    so a chain cannot pull unlike pictures together.
    """
    survivor = np.arange(size)
    ranked = unique_pairs(np.sort(pairs, axis=1), size)
    nodes, starts = np.unique(ranked[:, 0], return_index=True)
    stops = np.append(starts, len(ranked))[1:]
    for node, start, stop in zip(nodes.tolist(), starts.tolist(), stops.tolist(), strict=True):
        if survivor[node] == node:
            paired = ranked[start:stop, 1]
            survivor[paired[survivor[paired] == paired]] = node
    return survivor
