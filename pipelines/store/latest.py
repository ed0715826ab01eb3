"""Which attempt of a uid is the latest, when shards come, change or go.

Only uids that something happened to are looked at: those of rows that are new, and of rows that are no more. Of all
their attempts the one with the highest number wins, then the first source and its last shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from pipelines.store.presets import literal, quoted
from pipelines.store.root import Root, ShardId
from pipelines.store.segments import Layout, Segment, as_list, shard_of, side_value, sql_type

_ATTEMPT = "uid_lo, uid, attempt, source, shard"


def load_hidden(con: duckdb.DuckDBPyConnection, lists: Sequence[str]) -> None:
    """`_hidden`: the rows of segments that an attempt superseded after they were written."""
    con.execute("CREATE TEMP TABLE _hidden (segment VARCHAR, row BIGINT)")
    for name in lists:
        con.execute(f"INSERT INTO _hidden SELECT segment, row FROM {quoted(name)}.rows")


def hold_contest(
    con: duckdb.DuckDBPyConnection,
    root: Root,
    fresh: Sequence[ShardId],
    segments: Sequence[Segment],
    buried: Mapping[str, Sequence[str]],
) -> None:
    """`_contest`: every attempt of the uids of which more than one is there, and whether it `wins`.

    `buried` names by segment the shards that have just died; the segments know them as dead already. An attempt in
    a segment has its `segment` and `row`, and `latest` as it was; a new one has nulls.
    """
    paths = as_list(root.address("shards", s.source, f"{s.number}.parquet") for s in fresh)
    new = f"(SELECT {_ATTEMPT} FROM read_parquet({paths}, union_by_name = true))" if fresh else ""
    lost = [
        f"SELECT uid_lo FROM {quoted(name)}.rows WHERE shard IN ({', '.join(map(literal, shards))})"
        for name, shards in buried.items()
    ]
    con.execute(f"CREATE TEMP TABLE _contest ({_COLUMNS})")
    con.execute(f"CREATE TEMP TABLE _rivals ({_COLUMNS})")
    if segments:
        touched = [f"SELECT uid_lo FROM {new}"] * bool(fresh) + lost or ["SELECT 0::UBIGINT AS uid_lo WHERE false"]
        con.execute(f"CREATE TEMP TABLE _touched AS {' UNION ALL '.join(touched)}")
    for segment in segments:
        con.execute(f"""INSERT INTO _rivals BY NAME SELECT {_ATTEMPT}, {literal(segment.name)} AS segment,
            _row AS row, r.latest AND h.row IS NULL AS latest
            FROM (SELECT rowid AS _row, * FROM {quoted(segment.name)}.rows) r
            LEFT JOIN _hidden h ON h.segment = {literal(segment.name)} AND h.row = r._row
            WHERE {segment.alive} AND r.uid_lo IN (SELECT uid_lo FROM _touched)""")
    if fresh:
        con.execute(f"""INSERT INTO _rivals BY NAME SELECT * FROM {new} WHERE uid_lo IN (
            SELECT uid_lo FROM _rivals UNION ALL
            (SELECT uid_lo FROM {new} GROUP BY uid_lo HAVING count(*) > 1))""")
    con.execute("""INSERT INTO _contest BY NAME SELECT * REPLACE (row_number() OVER (
        PARTITION BY uid ORDER BY attempt DESC, source, shard DESC) = 1 AS wins) FROM _rivals""")
    con.execute("DROP TABLE _rivals")


_COLUMNS = """uid_lo UBIGINT, uid VARCHAR, attempt INTEGER, source VARCHAR, shard VARCHAR, segment VARCHAR,
    row BIGINT, latest BOOLEAN, wins BOOLEAN"""


def superseded(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """By segment, how many rows of it the contest has superseded."""
    return dict(con.execute(f"SELECT segment, count(*) FROM ({SUPERSEDED}) GROUP BY segment").fetchall())


SUPERSEDED = "SELECT segment, row FROM _contest WHERE segment IS NOT NULL AND latest AND NOT wins"


def risen(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Segments with a row that is the latest again, because a later attempt is no more; no list can tell that."""
    rows = con.execute("SELECT DISTINCT segment FROM _contest WHERE segment IS NOT NULL AND wins AND NOT latest")
    return {name for (name,) in rows.fetchall()}


def load_first_attempts(
    con: duckdb.DuckDBPyConnection,
    root: Root,
    fresh: Sequence[ShardId],
    segments: Sequence[Segment],
    layout: Layout,
) -> None:
    """`_first_N` for the N-th sidecars, where they are true of a uid: what those of its first attempt say of the uids
    that new rows of one source try again."""
    paths = as_list(root.address("shards", s.source, f"{s.number}.parquet") for s in fresh)
    again = f"SELECT uid FROM read_parquet({paths}, union_by_name = true) WHERE attempt > 0" if fresh else "SELECT 1"
    for number, (side, columns) in enumerate(zip(layout.sidecars, layout.columns, strict=True)):
        if not side.stage.of_uid:
            continue
        names, table = [quoted(column.name) for _, column in columns], f"_first_{number}"
        types = ", ".join(f"{name} {sql_type(con, column)}" for name, (_, column) in zip(names, columns, strict=True))
        con.execute(f"CREATE OR REPLACE TEMP TABLE {table} (uid VARCHAR, {types})")
        if not fresh or not side.made_with or not con.execute(f"{again} LIMIT 1").fetchone():
            continue
        known = " OR ".join(f"{name} IS NOT NULL" for name in names)
        folder = (side.stage.folder, side.made_with)
        files = [(*folder, s.source, f"{s.number}.parquet") for s in fresh]
        there = as_list(root.address(*file) for file in files if root.exists(*file))
        if there != "[]":
            values = ", ".join(f"{side_value(f, c)} AS {quoted(c.name)}" for f, c in columns)
            con.execute(f"""INSERT INTO {table} SELECT s.* EXCLUDE (_shard) FROM (
                SELECT uid, {values}, {shard_of("filename")} AS _shard
                FROM read_parquet({there}, filename = true, union_by_name = true)) s
                SEMI JOIN (SELECT uid, shard FROM read_parquet({paths}, union_by_name = true)
                    WHERE attempt = 0) a ON a.uid = s.uid AND a.shard = s._shard
                SEMI JOIN ({again}) g ON g.uid = s.uid WHERE {known}""")
        for segment in segments:
            con.execute(f"""INSERT INTO {table} SELECT uid, {", ".join(names)} FROM {quoted(segment.name)}.rows r
                WHERE attempt = 0 AND {segment.alive} AND ({known}) AND uid IN ({again})""")
