"""The tables of a catalog, loaded from the published files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from filters.errors import ShardError
from pipelines.store import presets
from pipelines.store.root import Root
from pipelines.store.schema import MANIFEST, SHARD, Column
from pipelines.store.stages import SCORE, Sidecars

ENTRIES = "entries.txt"  # what `headwater signals` looked for, one a line

_RUNS = pa.schema([
    ("id", pa.string()), ("job", pa.string()), ("started", pa.string()), ("status", pa.string()),
    ("seconds", pa.float64()), ("rows_in", pa.int64()), ("error", pa.string()), ("config", pa.string()),
])  # fmt: skip
_MIXTURES = pa.schema([
    ("mixture", pa.string()), ("seed", pa.int64()), ("asked", pa.int64()), ("samples", pa.int64()),
    ("digest", pa.string()),
])  # fmt: skip


def load_samples(con: duckdb.DuckDBPyConnection, root: Root, sidecars: Sequence[Sidecars]) -> dict[str, int]:
    """`attempts`, then `samples`: the latest attempt of each uid, joined with its row in each of the sidecars.

    A sidecar's row counts only for the shard that it was made from: sidecars outlive shards that were made anew, and
    two rows of one uid would count its sample twice. Returns by command the pictures that its sidecars lack.
    """
    _load_attempts(con, root)
    joined = {f"_side_{i}": _load_sidecar(con, root, side, f"_side_{i}") for i, side in enumerate(sidecars)}
    names = [f'{table}."{c.name}"' for table, columns in joined.items() for c in columns]
    joins = [f"LEFT JOIN {table} ON {_same('a', table)}" for table in joined]
    con.execute(f"""
        CREATE TABLE samples AS SELECT {", ".join(["a.*", *names])}
        FROM (FROM attempts
            QUALIFY row_number() OVER (PARTITION BY uid ORDER BY attempt DESC, source, shard DESC) = 1) a
        {" ".join(joins)} ORDER BY a.source, a.shard, a.key;
        CREATE VIEW sources AS SELECT source, count(*) AS records, count(*) FILTER (status = 'success') AS successes,
            avg(clip_score) AS mean_clip_score, count(duplicate_of) AS duplicates, count(eval_set) AS eval_overlaps
            FROM samples GROUP BY source ORDER BY source;
        CREATE VIEW shards AS SELECT source, shard, count(*) AS records,
            count(*) FILTER (status = 'success') AS successes,
            sum(size)::BIGINT AS image_bytes FROM attempts GROUP BY source, shard ORDER BY source, shard;
    """)
    missing = {
        _command(side, sidecars): _without(con, table)
        for (table, _), side in zip(joined.items(), sidecars, strict=True)
        if side.made_with is not None
    }
    _comment(con, "attempts", SHARD.columns)
    _comment(con, "samples", [*SHARD.columns, *(column for columns in joined.values() for column in columns)])
    con.execute("; ".join(f"DROP TABLE {table}" for table in joined))
    return missing


def _load_attempts(con: duckdb.DuckDBPyConnection, root: Root) -> None:
    """`attempts`: every row of every shard; columns that shards of an older version lack are null."""
    con.from_arrow(SHARD.arrow.empty_table()).create("_shards")
    paths = [root.path("shards", s.source, f"{s.number}.parquet") for s in root.shards("shards")]
    con.execute("INSERT INTO _shards BY NAME FROM read_parquet(?, union_by_name = true)", [paths])
    for name in ("source", "status", "reason", "mime"):
        # ENUMs group about five times faster than strings; one without values there cannot be.
        values = f"SELECT DISTINCT {name} FROM _shards WHERE {name} IS NOT NULL ORDER BY 1"
        if con.execute(values).fetchone():
            con.execute(f"CREATE TYPE {name}_t AS ENUM ({values})")
            con.execute(f"ALTER TABLE _shards ALTER {name} TYPE {name}_t")
    con.execute("CREATE TABLE attempts AS SELECT * FROM _shards ORDER BY source, shard, key")
    con.execute("DROP TABLE _shards")


def _load_sidecar(con: duckdb.DuckDBPyConnection, root: Root, side: Sidecars, table: str) -> list[Column]:
    """A table over a stage's sidecars, with the shard that each row is of; empty where the stage has not run.

    Returns its columns for `samples`.
    """
    paths = side.paths(root)
    rows = con.read_parquet(paths, filename=True, union_by_name=True) if paths else None
    columns = side.columns_in(rows.columns if rows else [])
    place = [pa.field(name, pa.string()) for name in ("uid", "_source", "_shard")]
    # DuckDB does not take Arrow's half floats, so only the columns that are asked for are made.
    schema = pa.schema([*place, *(pa.field(column.name, column.type) for _, column in columns)])
    con.from_arrow(schema.empty_table()).create(table)
    if rows is not None:
        values = [_number(name) if pa.types.is_floating(c.type) else f'"{name}"' for name, c in columns]
        shard = "split_part(filename, '/', -2), replace(split_part(filename, '/', -1), '.parquet', '')"
        rows.project(", ".join(["uid", shard, *values])).insert_into(table)
    if side.stage.of_uid:
        con.execute(f"""
            INSERT INTO {table} SELECT s.* REPLACE (r.source AS _source, r.shard AS _shard)
            FROM attempts r JOIN attempts f ON f.uid = r.uid AND f.source = r.source AND f.attempt = 0
            JOIN {table} s ON {_same("f", "s")}
            ANTI JOIN {table} own ON {_same("r", "own")}
            WHERE r.attempt > 0""")
    return [column for _, column in columns]


def _number(name: str) -> str:
    """A number of a sidecar, null if it is none: NaN would pass every threshold, since DuckDB sorts it above all."""
    return f'CASE WHEN isfinite("{name}") THEN "{name}" END'


def _same(row: str, side: str) -> str:
    return f"{side}.uid = {row}.uid AND {side}._source = {row}.source::VARCHAR AND {side}._shard = {row}.shard"


def _without(con: duckdb.DuckDBPyConnection, table: str) -> int:
    """Pictures for which a sidecar table has no row."""
    [(count,)] = con.execute(f"""SELECT count(*) FROM samples a ANTI JOIN {table} ON {_same("a", table)}
        WHERE status = 'success'""").fetchall()
    return int(count)


def _command(side: Sidecars, sidecars: Sequence[Sidecars]) -> str:
    """The command that writes these sidecars, with the model's column where several models have scores."""
    several = sum(other.stage is side.stage for other in sidecars) > 1
    return f"`headwater {side.stage.job}`" + (f" for {side.columns[-1][1].name}" if several else "")


def load_entries(con: duckdb.DuckDBPyConnection, root: Root, sidecars: Sequence[Sidecars]) -> None:
    """`entries`: the metadata entries that captions were matched to, and how many samples each matched."""
    texts: list[str] = []
    for side in sidecars:
        if side.made_with and root.exists(side.stage.folder, side.made_with, ENTRIES):
            texts = (
                root.read_bytes(side.stage.folder, side.made_with, ENTRIES).decode().removesuffix("\n").split("\n")
            )
    numbered = pa.table({"entry": pa.array(range(len(texts)), pa.int32()), "text": pa.array(texts, pa.string())})
    con.from_arrow(numbered).create("_texts")
    [(highest,)] = con.execute("SELECT max(list_max(entries)) FROM samples").fetchall()
    if highest is not None and highest >= len(texts):
        raise ShardError(
            f"{root.path('signals')}: captions hold entry {highest}, {ENTRIES} ends at {len(texts) - 1}; run "
            "`headwater signals` again"
        )
    con.execute("""
        CREATE TABLE entries AS SELECT entry, text, coalesce(n, 0) AS matches FROM _texts LEFT JOIN
            (SELECT entry, count(*) AS n FROM (SELECT unnest(entries) AS entry FROM samples) GROUP BY entry)
            USING (entry) ORDER BY entry;
        DROP TABLE _texts;
        COMMENT ON COLUMN entries.entry IS 'number of the metadata entry: its position in the list, from 0';
        COMMENT ON COLUMN entries.text IS 'the entry';
        COMMENT ON COLUMN entries.matches IS 'samples whose caption holds it';
    """)


def load_presets(con: duckdb.DuckDBPyConnection, sidecars: Sequence[Sidecars]) -> None:
    """The presets as macros, and the table `presets` that says what each is and what it still lacks."""
    scores = [column.name for side in sidecars if side.stage is SCORE for _, column in side.columns]
    present = _filled(con, {*scores, *(name for preset in presets.PRESETS for name in preset.needs)})
    for statement in presets.macros(present, sorted(present.intersection(scores))):
        con.execute(statement)
    rows = [
        (preset.name, preset.call, presets.hint(lacking) if lacking else None, preset.meaning, preset.source)
        for preset, lacking in ((preset, presets.lacking(preset, present)) for preset in presets.PRESETS)
    ]
    con.execute("CREATE TABLE presets (preset VARCHAR, call VARCHAR, lacks VARCHAR, meaning VARCHAR, source VARCHAR)")
    con.executemany("INSERT INTO presets VALUES (?, ?, ?, ?, ?)", rows)


def _filled(con: duckdb.DuckDBPyConnection, names: set[str]) -> set[str]:
    """Those of `names` that are columns of `samples` and not all null; all columns where there is no picture."""
    known = [row[0] for row in con.execute("SELECT column_name FROM (DESCRIBE samples)").fetchall()]
    there = [name for name in known if name in names]
    counts = ", ".join(f'count("{name}")' for name in there)
    [(pictures, *found)] = con.execute(
        f"SELECT count(*) FILTER (status = 'success'), {counts} FROM samples"
    ).fetchall()
    return {name for name, count in zip(there, found, strict=True) if count or not pictures}


def load_ledger(con: duckdb.DuckDBPyConnection, root: Root, runs: list[dict[str, Any]], names: Sequence[str]) -> None:
    """`runs`, and of the mixtures with these `names` `mixtures` and `mixture_samples`."""
    con.from_arrow(pa.Table.from_pylist(runs, _RUNS)).order("id").create("runs")
    locks = [root.read_json("mixes", name, "mix.lock.json") for name in names]
    mixtures = pa.Table.from_pylist(
        [
            {"mixture": n, "seed": lock["config"]["seed"], "asked": lock["asked"], "samples": lock["samples"],
             "digest": lock["digest"]}
            for n, lock in zip(names, locks, strict=True)
        ],
        _MIXTURES,
    )  # fmt: skip
    con.from_arrow(mixtures).create("mixtures")
    columns = [pa.field("mixture", pa.string()), *MANIFEST.arrow]
    con.from_arrow(pa.schema(columns).empty_table()).create("mixture_samples")
    for name in names:
        con.execute(
            "INSERT INTO mixture_samples SELECT ?, * FROM read_parquet(?)",
            [name, root.path("mixes", name, "manifest.parquet")],
        )


def _comment(con: duckdb.DuckDBPyConnection, table: str, columns: Sequence[Column]) -> None:
    """The meaning of each column, where DESCRIBE's neighbours and other tools find it."""
    for column in columns:
        con.execute(f"COMMENT ON COLUMN {table}.{presets.quoted(column.name)} IS {presets.literal(column.meaning)}")
