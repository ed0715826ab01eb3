"""Segments: immutable DuckDB files that hold the catalog's rows, of one source each, in the order of their uids.

    rows     every column of `attempts` and `samples`, and `latest`: whether no later attempt of its uid was known
    parts    one row a shard: what it was made from, its counts, and what its sidecars lack

In the order of uids, so that one row group a file answers for a uid. What came to count no more since a segment was
written is told outside of it: the shards that are dead, and lists of rows that a later attempt superseded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.store.levels import Run
from pipelines.store.marks import Part, files_of
from pipelines.store.presets import literal, quoted
from pipelines.store.reasons import REASONS, Status
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD, Column
from pipelines.store.stages import Sidecars

# Columns of few values that are known beforehand: the same type in every file, which groups faster than strings.
ENUMS = {"status": [status.value for status in Status], "reason": sorted(REASONS)}
# A small file of small blocks, a large one of DuckDB's own: those are packed better.
_SMALL_BLOCKS, _LARGE_BLOCKS, _LARGE = 16384, 262144, 100_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A published segment, and what no longer counts in it: dead shards, rows that a later attempt superseded."""

    name: str
    source: str
    rows: int
    dead: tuple[str, ...] = ()
    dead_rows: int = 0
    superseded: int = 0

    @property
    def run(self) -> Run:
        """The segment as the plan of merges sees it."""
        return Run(self.name, self.rows, min(self.rows, self.dead_rows + self.superseded))

    @property
    def alive(self) -> str:
        """The SQL condition for rows `r` of shards that are not dead."""
        return f"r.shard NOT IN ({', '.join(map(literal, self.dead))})" if self.dead else "true"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of `rows`, and which of them come from which sidecars."""

    sidecars: Sequence[Sidecars]
    columns: tuple[tuple[tuple[str, Column], ...], ...]  # of each of the sidecars: (name in the files, column)

    @property
    def joined(self) -> list[Column]:
        """The columns that come from sidecars."""
        return [column for columns in self.columns for _, column in columns]

    @property
    def names(self) -> list[str]:
        """All columns that people see, in their order."""
        return [*SHARD.names, *(column.name for column in self.joined)]


@dataclass(slots=True)
class Batch:
    """What one new segment is made of: shards as they are now, and older segments of the same source."""

    source: str
    rows: int = 0
    shards: list[ShardId] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


def attach(con: duckdb.DuckDBPyConnection, folder: Path, names: Iterable[str]) -> None:
    """Attach published files, read-only, under their own names."""
    for name in names:
        con.execute(f"ATTACH {literal(str(folder / f'{name}.duckdb'))} AS {quoted(name)} (READ_ONLY)")


def create(con: duckdb.DuckDBPyConnection, path: Path, name: str, rows: int) -> None:
    """Attach a new file for about so many rows."""
    blocks = _LARGE_BLOCKS if rows >= _LARGE else _SMALL_BLOCKS
    con.execute(f"ATTACH {literal(str(path))} AS {quoted(name)} (BLOCK_SIZE {blocks})")


def batches(source: str, shards: Mapping[ShardId, int], segments: Sequence[Segment], cap: int) -> list[Batch]:
    """Shards (with their rows) and segments of one source, cut into new segments of about `cap` rows at most."""
    # Superseded rows stay, as attempts.
    found = [Batch(source, sum(segment.rows - segment.dead_rows for segment in segments), segments=list(segments))]
    for shard, count in shards.items():
        if found[-1].rows and found[-1].rows + count > cap:
            found.append(Batch(source))
        found[-1].shards.append(shard)
        found[-1].rows += count
    return [batch for batch in found if batch.shards or batch.segments]


def write_segment(
    con: duckdb.DuckDBPyConnection,
    root: Root,
    batch: Batch,
    parts: Mapping[ShardId, Part],
    layout: Layout,
    path: Path,
) -> Segment:
    """Write one segment to `path`, named after it.

    The batch's segments must be attached, and the tables of `pipelines.store.latest` must be there.
    """
    name = path.stem
    fresh = _fresh(con, root, batch, layout) if batch.shards else ""
    create(con, path, name, batch.rows)
    _create_rows(con, name, layout)
    selects = [f"SELECT * EXCLUDE (_has) FROM ({fresh})"] if fresh else []
    body = " UNION ALL BY NAME ".join([*selects, *map(_older, batch.segments)])
    con.execute(f"INSERT INTO {quoted(name)}.rows BY NAME SELECT * FROM ({body}) ORDER BY uid, shard")
    _write_parts(con, name, fresh, batch, parts, layout)
    [(rows,)] = con.execute(f"SELECT count(*) FROM {quoted(name)}.rows").fetchall()
    con.execute(f"DETACH {quoted(name)}")
    return Segment(name, batch.source, rows)


def _create_rows(con: duckdb.DuckDBPyConnection, name: str, layout: Layout) -> None:
    schema = pa.schema([*SHARD.arrow, *(pa.field(column.name, column.type) for column in layout.joined)])
    empty = con.from_arrow(schema.empty_table())
    types = {column: str(kind) for column, kind in zip(empty.columns, empty.types, strict=True)}
    for column, values in ENUMS.items():
        types[column] = f"{quoted(name)}.{column}_t"
        con.execute(f"CREATE TYPE {types[column]} AS ENUM ({', '.join(map(literal, values))})")
    columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in types.items())
    con.execute(f"CREATE TABLE {quoted(name)}.rows ({columns}, latest BOOLEAN)")
    con.execute(f"""CREATE TABLE {quoted(name)}.parts (shard VARCHAR, stat VARCHAR, mark VARCHAR, records BIGINT,
        successes BIGINT, image_bytes BIGINT, lacks BIGINT[])""")


def _fresh(con: duckdb.DuckDBPyConnection, root: Root, batch: Batch, layout: Layout) -> str:
    """The rows of the batch's shards, joined to their sidecars; `_has` says of each of these whether it has the row.

    A row that was tried again takes from the first attempt's sidecar what is true of its uid, where it has none.
    """
    files = [files_of(shard, layout.sidecars) for shard in batch.shards]
    selects, joins, has = ["a.*", "coalesce(c.wins, true) AS latest"], [], []
    for number, (side, columns) in enumerate(zip(layout.sidecars, layout.columns, strict=True)):
        paths = [
            root.address(*file[number + 1]) for file in files if side.made_with and root.exists(*file[number + 1])
        ]
        name, source, there = f"s{number}", "(SELECT 1) WHERE false", set()
        given = ["NULL::VARCHAR AS uid", "NULL::VARCHAR AS _shard"]
        if paths:
            source = f"read_parquet({as_list(paths)}, filename = true, union_by_name = true)"
            given = ["uid", f"{shard_of('filename')} AS _shard"]
            there = set(con.read_parquet(paths, union_by_name=True).columns)
        for file_name, column in columns:
            value = side_value(file_name, column) if file_name in there else f"NULL::{sql_type(con, column)}"
            given.append(f"{value} AS {quoted(column.name)}")
        joins.append(
            f"LEFT JOIN (SELECT {', '.join(given)} FROM {source}) {name} "
            f"ON {name}.uid = a.uid AND {name}._shard = a.shard"
        )
        present, values = f"{name}.uid IS NOT NULL", [f"{name}.{quoted(c.name)}" for _, c in columns]
        if side.stage.of_uid:
            joins.append(f"LEFT JOIN _first_{number} f{number} ON f{number}.uid = a.uid AND a.attempt > 0")
            values = [f"CASE WHEN {present} THEN {v} ELSE f{number}.{quoted(c.name)} END AS {quoted(c.name)}"
                      for v, (_, c) in zip(values, columns, strict=True)]  # fmt: skip
            present = f"({present} OR f{number}.uid IS NOT NULL)"
        selects += values
        has.append(present)
    shards = as_list([root.address(*file[0]) for file in files])
    return f"""SELECT {", ".join(selects)}, [{", ".join(has)}] AS _has
        FROM (FROM read_parquet({shards}, union_by_name = true)) a {" ".join(joins)}
        LEFT JOIN _contest c ON c.uid = a.uid AND c.shard = a.shard AND c.source = {literal(batch.source)}
            AND c.segment IS NULL"""


def side_value(name: str, column: Column) -> str:
    """A column of a sidecar as SQL, null for a number that is none: NaN would pass every threshold, since DuckDB
    sorts it above all."""
    if pa.types.is_floating(column.type):
        return f"CASE WHEN isfinite({quoted(name)}) THEN {quoted(name)} END"
    return quoted(name)


def shard_of(path: str) -> str:
    """The number of the shard that a published file is of, as SQL over the expression `path`."""
    return f"replace(split_part({path}, '/', -1), '.parquet', '')"


def as_list(paths: Iterable[str]) -> str:
    """Paths as a SQL list."""
    return f"[{', '.join(map(literal, paths))}]"


def sql_type(con: duckdb.DuckDBPyConnection, column: Column) -> str:
    """DuckDB's type for a column. Not asked of the module's own connection, which all threads share."""
    relation = con.from_arrow(pa.schema([pa.field("x", column.type)]).empty_table())
    return str(relation.types[0])


def _older(segment: Segment) -> str:
    """The rows of a segment that still count, marked by what is known of their attempts now."""
    name = literal(segment.name)
    return f"""SELECT r.* EXCLUDE (_row) REPLACE (coalesce(c.wins, r.latest AND h.row IS NULL) AS latest)
        FROM (SELECT rowid AS _row, * FROM {quoted(segment.name)}.rows) r
        LEFT JOIN _contest c ON c.segment = {name} AND c.row = r._row
        LEFT JOIN _hidden h ON h.segment = {name} AND h.row = r._row WHERE {segment.alive}"""


def _write_parts(
    con: duckdb.DuckDBPyConnection,
    name: str,
    fresh: str,
    batch: Batch,
    parts: Mapping[ShardId, Part],
    layout: Layout,
) -> None:
    if fresh:
        mine = [parts[shard] for shard in batch.shards]
        marks = pa.table({
            "shard": [part.shard.number for part in mine], "stat": [part.stat for part in mine],
            "mark": [part.mark for part in mine],
        })  # fmt: skip
        con.from_arrow(marks).create("_marks")
        sides = range(1, len(layout.sidecars) + 1)
        lacks = ", ".join(f"count(*) FILTER (status = 'success' AND NOT _has[{side}])" for side in sides)
        # A shard without a row has its part too.
        con.execute(f"""INSERT INTO {quoted(name)}.parts
            SELECT shard, stat, mark, coalesce(records, 0), coalesce(successes, 0), image_bytes, coalesce(lacks, [])
            FROM _marks LEFT JOIN (SELECT shard, count(*) AS records,
                count(*) FILTER (status = 'success') AS successes,
                sum(size)::BIGINT AS image_bytes, [{lacks}] AS lacks FROM ({fresh}) GROUP BY shard) USING (shard)""")
        con.execute("DROP TABLE _marks")
    for older in batch.segments:
        con.execute(
            f"INSERT INTO {quoted(name)}.parts SELECT r.* FROM {quoted(older.name)}.parts r WHERE {older.alive}"
        )
