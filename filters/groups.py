"""From pairs of equal pictures to groups, each with one survivor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def survivor_order(table: pa.Table, priority: Sequence[str]) -> Indices:
    """Row numbers of `table`, the one to keep first: larger original area, then source as in `priority`, then uid.

    Needs `uid, source, original_width, original_height`. An unknown size counts as 0; sources that `priority` does
    not name come after those it names, in alphabetical order.
    """
    sources = table["source"].to_pylist()
    others = sorted({s for s in sources if s is not None} - set(priority))
    place = {source: rank for rank, source in enumerate([*priority, *others])}
    width, height = (np.array(table[c].fill_null(0), np.int64) for c in ("original_width", "original_height"))
    ranks = np.array([place.get(source, len(place)) for source in sources], np.int64)
    uids = np.array(table["uid"].to_pylist(), dtype=np.str_)
    return np.lexsort((uids, ranks, -width * height)).astype(np.int64)


def keys_of(column: pa.ChunkedArray) -> Indices:
    """One number for each different value of `column`: int64 [N], −1 for null."""
    encoded = column.combine_chunks().dictionary_encode() if len(column) else column
    return np.array(encoded.indices.fill_null(-1), np.int64) if len(column) else np.empty(0, np.int64)


def equal_classes(*keys: Indices) -> Indices:
    """Number of the class of each row [N]: rows are in one class when a chain of equal keys (not −1) joins them."""
    rows, hubs, offset = [], [], len(keys[0])
    for key in keys:
        known = np.flatnonzero(key >= 0)
        rows.append(known)
        hubs.append(key[known] + offset)
        offset += int(key.max(initial=-1)) + 1
    return components(offset, np.stack([np.concatenate(rows), np.concatenate(hubs)], axis=1))[: len(keys[0])]


def components(size: int, pairs: Indices) -> Indices:
    """Number of the connected component of each of `size` nodes under `pairs` [P, 2]: int64 [size]."""
    if not size:
        return np.empty(0, np.int64)
    edges = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def is_repeat(keys: Indices, order: Indices) -> Bools:
    """Whether a row that comes earlier in `order` has the same key (not −1): bool [N]."""
    repeat = np.zeros(len(keys), np.bool_)
    _, first = np.unique(keys[order], return_index=True)
    repeat[order] = True
    repeat[order[first]] = False
    return repeat & (keys >= 0)


def stars(size: int, pairs: Indices) -> dict[int, int]:
    """The survivor of each node that has one, as {node: survivor}, for nodes 0 to `size` − 1, the best first.

    `pairs` [P, 2] are equal pictures. In their order, nodes that are still free become survivors and take all free
    nodes that are paired with themselves. A node that only a chain of likenesses joins to the survivor is not taken:
    so a chain cannot pull unlike pictures together.
    """
    neighbours: dict[int, list[int]] = {}
    for a, b in np.sort(pairs, axis=1).tolist():
        neighbours.setdefault(a, []).append(b)
    survivor: dict[int, int] = {}
    for node in range(size):
        if node not in survivor:
            survivor.update({n: node for n in neighbours.get(node, []) if n not in survivor})
    return survivor
