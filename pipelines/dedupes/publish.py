"""Decisions to verdict sidecars; only files whose content changes are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from filters.decisions import VERDICT_KINDS, Decisions
from filters.errors import ShardError
from filters.held_out import KINDS
from pipelines.dedupes.compact import to_hex
from pipelines.dedupes.facts import Facts
from pipelines.job import say
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import verdicts

_WRITERS = 4
_UIDS = ("uid", "duplicate_of", "group", "caption_of")

Counts = dict[str, dict[str, int]]


def write_verdicts(
    root: Root, name: str, shards: Sequence[ShardId], facts: Facts, found: Decisions, sets: Mapping[str, str]
) -> int:
    """Publish the verdicts of each shard; returns how many files were new or changed."""
    schema = verdicts(list(sets))

    def publish(number: int) -> bool:
        shard = shards[number]
        table = found.table(int(facts.start[number]), int(facts.start[number + 1]), eval_columns=sets)
        for column in _UIDS:
            index = table.column_names.index(column)
            table = table.set_column(index, column, to_hex(table[column].combine_chunks()))
        table = schema.conform(table)
        if number in facts.replaced:
            # Nothing is said of them, so that the catalog does not take them for pictures that came later.
            uids = facts.replaced[number]
            blank = {name: pa.nulls(len(uids)) for name in schema.names}
            table = pa.concat_tables([table, schema.conform(pa.table({**blank, "uid": uids}))])
        made_from = root.parquet_metadata("shards", shard.source, f"{shard.number}.parquet").get(KEY)
        mark, parts = fingerprint(name, made_from), ("verdicts", name, shard.source, f"{shard.number}.parquet")
        if root.parquet_metadata(*parts).get(KEY) == mark and _holds(root, parts, table):
            return False
        root.write_table(table, *parts, metadata={KEY: mark})
        return True

    with ThreadPoolExecutor(_WRITERS) as pool:
        return sum(pool.map(publish, range(len(shards))))


def _holds(root: Root, parts: tuple[str, ...], table: pa.Table) -> bool:
    try:
        return bool(root.read_table(*parts).equals(table))
    except ShardError as error:
        say(f"dedupe: written again: {error}")
        return False


def count_kinds(facts: Facts, found: Decisions) -> Counts:
    """Pictures by source and kind; those that survive are `unique`."""
    sources, of = _sources(facts)
    return _counted(sources, of, found.kind + 1, ["unique", *VERDICT_KINDS])


def count_overlaps(facts: Facts, found: Decisions, sets: Sequence[str]) -> dict[str, Counts]:
    """Pictures that stand in each evaluation set, by source and kind."""
    sources, of = _sources(facts)
    hits = found.hits
    counted = {}
    for name in sets:
        chosen = hits.set == (hits.names.index(name) if name in hits.names else -1)
        counted[name] = _counted(sources, of[hits.row[chosen]], hits.kind[chosen], list(KINDS))
    return counted


def _sources(facts: Facts) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The names of sources, and the number of each row's."""
    column = facts.table["source"].combine_chunks()
    return column.dictionary.to_pylist(), np.array(column.indices, np.int64)


def _counted(
    sources: list[str],
    of: np.ndarray[tuple[int], np.dtype[np.int64]],
    kinds: np.ndarray[tuple[int], np.dtype[np.int8]],
    names: list[str],
) -> Counts:
    table = np.zeros((len(sources), len(names)), np.int64)
    np.add.at(table, (of, kinds), 1)
    rows = sorted(zip(sources, table.tolist(), strict=True))
    return {s: {k: n for k, n in zip(names, row, strict=True) if n} for s, row in rows if any(row)}
