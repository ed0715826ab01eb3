"""The views of a catalog: one definition, over the published files by their paths or over attached ones.

The published catalog names its segments by path, so that the plain `duckdb` shell and any Python can open it.
Headwater's own readers attach the segments and shut the door to all other files; their views come first there, and
answer in half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.store.presets import literal, quoted
from pipelines.store.schema import MANIFEST, REMOVALS, SHARD, Column
from pipelines.store.segments import Layout, Segment, as_list

# A FROM clause for the table `rows` or `parts` of files, by their names.
Scan = Callable[[Sequence[str], str], str]


def by_path(folder: Path) -> Scan:
    """Files by their full paths."""

    def scan(names: Sequence[str], table: str) -> str:
        paths = as_list(str(folder / f"{name}.duckdb") for name in names)
        return f"(SELECT rowid AS _row, * FROM read_duckdb({paths}, table_name = {literal(table)}))"

    return scan


def attached(names: Sequence[str], table: str) -> str:
    """Files that are attached under their names."""
    selects = (f"SELECT rowid AS _row, * FROM {quoted(name)}.{table}" for name in names)
    return f"({' UNION ALL '.join(selects)})"


def definitions(
    columns: Sequence[str],
    segments: Sequence[Segment],
    lists: Sequence[str],
    mixtures: Sequence[tuple[str, str]],
    scan: Scan,
) -> dict[str, str]:
    """The query of each view over segments, lists of superseded rows, and files of mixtures (name, file)."""
    names = ", ".join(map(quoted, columns))
    return {
        "attempts": _rows(", ".join(map(quoted, SHARD.names)), segments, lambda _: ("", "true"), scan),
        "samples": _rows(names, segments, lambda segment: _latest(segment, lists, scan), scan),
        "shards": _shards(segments, scan),
        "mixture_samples": _mixture_samples(mixtures, scan),
    }


def _latest(segment: Segment | None, lists: Sequence[str], scan: Scan) -> tuple[str, str]:
    """The join and the condition that keep superseded rows out; None stands for segments that no list names."""
    if segment is None or not segment.superseded:
        return "", "r.latest"
    hidden = f"SELECT row FROM {scan(lists, 'rows')} WHERE segment = {literal(segment.name)}"
    return f"ANTI JOIN ({hidden}) h ON h.row = r._row", "r.latest"


def _rows(
    columns: str, segments: Sequence[Segment], keeps: Callable[[Segment | None], tuple[str, str]], scan: Scan
) -> str:
    """`columns` of all rows that count; segments of which nothing is hidden are read together."""
    whole = [segment for segment in segments if not segment.dead and not segment.superseded]
    selects = []
    if whole:
        _, where = keeps(None)
        selects.append(f"SELECT {columns} FROM {scan([segment.name for segment in whole], 'rows')} r WHERE {where}")
    for segment in segments:
        if segment.dead or segment.superseded:
            join, where = keeps(segment)
            rows = scan([segment.name], "rows")
            selects.append(f"SELECT {columns} FROM {rows} r {join} WHERE {segment.alive} AND {where}")
    return " UNION ALL ".join(selects)


def _shards(segments: Sequence[Segment], scan: Scan) -> str:
    counts = "r.shard, records, successes, image_bytes"
    selects = [
        f"SELECT {literal(segment.source)} AS source, {counts} FROM {scan([segment.name], 'parts')} r "
        f"WHERE {segment.alive} AND records > 0"
        for segment in segments
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(selects)}) ORDER BY source, shard"


def _mixture_samples(mixtures: Sequence[tuple[str, str]], scan: Scan) -> str:
    names = ", ".join(map(quoted, MANIFEST.names))
    selects = [f"SELECT {literal(name)} AS mixture, {names} FROM {scan([file], 'rows')}" for name, file in mixtures]
    if not selects:
        with duckdb.connect() as con:  # the module's own connection is shared by all threads
            types = con.from_arrow(MANIFEST.arrow.empty_table()).types
        nulls = (f"NULL::{kind} AS {quoted(name)}" for name, kind in zip(MANIFEST.names, types, strict=True))
        return f"SELECT NULL::VARCHAR AS mixture, {', '.join(nulls)} WHERE false"
    return " UNION ALL ".join(selects)


SOURCES = """SELECT source, count(*) AS records, count(*) FILTER (status = 'success') AS successes,
    avg(clip_score) AS mean_clip_score, count(duplicate_of) AS duplicates, count(eval_set) AS eval_overlaps
    FROM samples GROUP BY source ORDER BY source"""

_S, _I, _F = pa.string(), pa.int64(), pa.float64()
# What the columns mean that no published file has.
MEANINGS: dict[str, tuple[Column, ...]] = {
    "sources": (
        Column("source", _S, "name of the source"),
        Column("records", _I, "samples of the source, each uid once"),
        Column("successes", _I, "samples whose picture is stored"),
        Column("mean_clip_score", _F, "mean of clip_score, −1 to 1, over the samples that have one"),
        Column("duplicates", _I, "samples that are duplicates of others"),
        Column("eval_overlaps", _I, "samples that an evaluation set holds"),
    ),
    "shards": (
        Column("source", _S, "name of the source"),
        Column("shard", _S, "number of the shard in its source, zero padded"),
        Column("records", _I, "rows of the shard, all attempts"),
        Column("successes", _I, "rows whose picture is stored"),
        Column("image_bytes", _I, "bytes of the stored pictures"),
    ),
    "runs": (
        Column("id", _S, "name of the run: time, job and process"),
        Column("job", _S, "the job"),
        Column("started", _S, "when it began, ISO 8601 in UTC"),
        Column("status", _S, "done or failed"),
        Column("seconds", _F, "how long it took, in seconds"),
        Column("rows_in", _I, "rows that it looked at"),
        Column("error", _S, "why it failed"),
        Column("config", _S, "its settings as JSON"),
        Column("summary", _S, "what it did, as JSON: its counts, and whatever else the job prints"),
    ),
    "mixtures": (
        Column("mixture", _S, "name of the mixture"),
        Column("seed", _I, "seed of the order in which samples were drawn"),
        Column("asked", _I, "samples asked for"),
        Column("samples", _I, "samples in it, repetitions counted"),
        Column("digest", _S, "SHA-256 of its content, hex"),
    ),
    "mixture_samples": (Column("mixture", _S, "name of the mixture"), *MANIFEST.columns),
    "removals": REMOVALS.columns,
    "entries": (
        Column("entry", pa.int32(), "number of the metadata entry: its position in the list, from 0"),
        Column("text", _S, "the entry"),
        Column("matches", _I, "samples whose caption holds it"),
    ),
    "presets": (
        Column("preset", _S, "name of the macro"),
        Column("call", _S, "how it is called"),
        Column("lacks", _S, "what to run before it can be called; null if nothing"),
        Column("meaning", _S, "what it keeps"),
        Column("source", _S, "where it was published"),
    ),
    "columns": (
        Column("table", _S, "name of the table or view"),
        Column("column", _S, "name of the column"),
        Column("type", _S, "its type in DuckDB"),
        Column("meaning", _S, "what it says, with its unit"),
    ),
}


def meanings(layout: Layout) -> dict[str, Sequence[Column]]:
    """The columns of every table and view that people are to use, with what they mean."""
    return {"samples": [*SHARD.columns, *layout.joined], "attempts": SHARD.columns, **MEANINGS}
