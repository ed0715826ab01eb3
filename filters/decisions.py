"""Decisions about pictures as numbers, and as the rows of a verdict table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.clusters import Search
from filters.groups import Floats, Indices
from filters.held_out import KINDS, Hits

Bools = npt.NDArray[np.bool_]

# `Decisions.kind` counts in these; −1 for a survivor.
VERDICT_KINDS = (*KINDS, "placeholder")


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided on each row of a table, as numbers: 40 bytes a row, so that many rows fit.

    `kind` int8 [N] counts in VERDICT_KINDS; `survivor`, `group` and `caption_of` int64 [N] are rows: `survivor` the
    row itself where it survives or is a placeholder, the others −1 for none. `distance` and `caption_similarity`
    float32 [N] are NaN for none. `uid` [N] are the names of the rows, `items` those of the evaluation pictures.
    `semantic` says how embeddings were searched for duplicates, None where they were not; `hits.search` for `hits`.
    """

    uid: pa.ChunkedArray
    kind: npt.NDArray[np.int8]
    survivor: Indices
    distance: Floats
    group: Indices
    caption_of: Indices
    caption_similarity: Floats
    hits: Hits
    items: pa.ChunkedArray | None
    semantic: Search | None = None

    def table(
        self, start: int = 0, stop: int | None = None, *, eval_columns: Mapping[str, str] | None = None
    ) -> pa.Table:
        """The verdicts on rows `start` to `stop` as columns; `eval_columns` maps evaluation sets to their columns."""
        stop = len(self.uid) if stop is None else stop
        part = slice(start, stop)
        rows = np.arange(start, stop)
        of = np.where(self.survivor[part] == rows, -1, self.survivor[part])
        columns = {
            "uid": self.uid.slice(start, stop - start).combine_chunks(),
            "kind": _texts(self.kind[part], VERDICT_KINDS),
            "duplicate_of": self._named(of),
            "distance": _numbers(self.distance[part]),
            "group": self._named(self.group[part]),
            "caption_of": self._named(self.caption_of[part]),
            "caption_similarity": _numbers(self.caption_similarity[part]),
        }
        return pa.table({**columns, **self._evaluation(start, stop, eval_columns or {})})

    def _named(self, rows: Indices) -> pa.Array:
        """The uids of `rows`, null for −1."""
        named: pa.Array = self.uid.take(pa.array(np.maximum(rows, 0), mask=rows < 0)).combine_chunks()
        return named

    def _evaluation(self, start: int, stop: int, columns: Mapping[str, str]) -> dict[str, pa.Array]:
        hits, size = self.hits, stop - start
        low, high = np.searchsorted(hits.row, [start, stop])
        row, kind, number = hits.row[low:high] - start, hits.kind[low:high], hits.set[low:high]
        # The first hit of a row is its closest.
        first = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]])[: len(row)])
        best = np.full(size, -1, np.int64)
        best[row[first]] = low + first
        known = best >= 0
        found = {
            "eval_set": _texts(_spread(hits.set, best, known), hits.names),
            "eval_kind": _texts(_spread(hits.kind, best, known), KINDS),
            "eval_item": self._item(best, known),
            "eval_distance": pa.array(
                np.where(known, _spread(hits.distance, best, known), 0), pa.float32(), mask=~known
            ),
        }
        for name, column in columns.items():
            of_set = number == (hits.names.index(name) if name in hits.names else -1)
            kinds = np.full(size, -1, np.int8)
            kinds[row[of_set]] = kind[of_set]
            found[column] = _texts(kinds, KINDS)
        return found

    def _item(self, best: Indices, known: Bools) -> pa.Array:
        if self.items is None or not len(self.hits.place):
            return pa.nulls(len(best), pa.string())
        places = pa.array(self.hits.place[np.maximum(best, 0)], mask=~known)
        return self.items.take(places).combine_chunks()


def _spread(values: npt.NDArray[np.generic], best: Indices, known: Bools) -> npt.NDArray[np.float64]:
    """`values` at the places `best`, −1 where not known."""
    out = np.full(len(best), -1, np.float64)
    out[known] = values[best[known]]
    return out


def _texts(numbers: npt.NDArray[np.generic], names: tuple[str, ...] | list[str]) -> pa.Array:
    """`names` by number, null for −1."""
    absent = np.asarray(numbers) < 0
    indices = pa.array(np.where(absent, 0, numbers).astype(np.int32), mask=absent)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(names) or [""], pa.string())).cast(pa.string())


def _numbers(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
