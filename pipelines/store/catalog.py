"""The catalog: one DuckDB file over everything that was published, rebuilt at will and swapped in by rename.

Tables are built in a new file beside the old one, because DuckDB locks out readers while a writer is open; readers
of the old file keep it until they close. Views: `samples` (the latest attempt of each uid with scores and verdicts),
`attempts`, `sources`, `shards`, `runs`, `mixtures`, `mixture_samples`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from filters.errors import ConfigError, InputError
from filters.sampling import sample_order_sql
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import MANIFEST, SHARD, VERDICTS, features

FILE = "catalog.duckdb"
# Off, because DuckDB would otherwise try to fetch extensions from the network when a query names one.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
# For readers, whose SQL may come from anywhere: no files, no network, and no way to change that.
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "lock_configuration": "true",
}

_RUNS = pa.schema([
    ("id", pa.string()), ("job", pa.string()), ("started", pa.string()), ("status", pa.string()),
    ("seconds", pa.float64()), ("rows_in", pa.int64()), ("error", pa.string()), ("config", pa.string()),
])  # fmt: skip
_MIXTURES = pa.schema([
    ("mixture", pa.string()), ("seed", pa.int64()), ("asked", pa.int64()), ("samples", pa.int64()),
    ("digest", pa.string()),
])  # fmt: skip


def connect(root: Root) -> duckdb.DuckDBPyConnection:
    """The catalog, read-only and closed to files and network; InputError where there is none."""
    path = root.local(FILE)
    if not path.exists():
        raise InputError(f"{path}: no catalog; run `headwater index --root {root.url}` first")
    return duckdb.connect(str(path), read_only=True, config={**_SETTINGS, **_CLOSED})


def snapshot(con: duckdb.DuckDBPyConnection) -> str:
    """Digest of what the sample tables were built from."""
    rows = con.execute("SELECT value FROM catalog_info WHERE name = 'samples'").fetchall()
    return str(rows[0][0]) if rows else ""


def is_current(root: Root, marks: dict[str, str]) -> bool:
    """Whether the published catalog was built from exactly these inputs."""
    if not root.exists(FILE):
        return False
    try:
        with connect(root) as con:
            found = dict(con.execute("SELECT name, value FROM catalog_info").fetchall())
    except duckdb.Error:
        return False
    return found == marks


def build(
    root: Root, scores: str | None, verdicts: str | None, marks: dict[str, str], runs: list[dict[str, Any]]
) -> tuple[int, dict[str, int]]:
    """Write a new catalog from all published files and swap it in; its distinct uids, and samples by status."""
    path = root.local(FILE)
    temporary = path.with_name(f".{FILE}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(temporary), config=_SETTINGS) as con:
            con.execute(sample_order_sql())
            _load_samples(con, root, scores, verdicts)
            _load_ledger(con, root, runs)
            con.execute("CREATE TABLE catalog_info (name VARCHAR, value VARCHAR)")
            con.executemany("INSERT INTO catalog_info VALUES (?, ?)", sorted(marks.items()))
            _comment(con)
            [(records,)] = con.execute("SELECT count(DISTINCT uid) FROM attempts").fetchall()
            statuses = con.execute("SELECT status::VARCHAR, count(*) FROM samples GROUP BY status").fetchall()
        temporary.replace(path)
        return records, dict(statuses)
    finally:
        temporary.unlink(missing_ok=True)


def sample_marks(root: Root, scores: str | None, verdicts: str | None) -> str:
    """Digest of the fingerprints of every file behind the sample tables."""
    folders = [("shards",)] + [("features", scores)] * bool(scores) + [("verdicts", verdicts)] * bool(verdicts)
    return fingerprint(
        [
            (*folder, str(shard), root.parquet_metadata(*folder, shard.source, f"{shard.number}.parquet").get(KEY))
            for folder in folders
            for shard in root.shards(*folder)
        ]
    )


def explain_error(error: duckdb.Error, con: duckdb.DuckDBPyConnection) -> str:
    """One line for a DuckDB error, with the nearest column names where a column is unknown."""
    text = str(error).split("\n\n")[0].replace("\n", " ").strip()
    unknown = re.search(r'[Cc]olumn "?([\w.]+)"? ', text)
    if isinstance(error, duckdb.BinderException) and unknown:
        known = con.execute("SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        names = [row[0] for row in known]
        close = difflib.get_close_matches(unknown.group(1).split(".")[-1], names, n=3, cutoff=0.5)
        text = text.split(" Candidate")[0] + (f" Nearest columns: {', '.join(close)}." if close else "")
    return text


def _paths(root: Root, *folder: str) -> list[str]:
    return [root.path(*folder, shard.source, f"{shard.number}.parquet") for shard in root.shards(*folder)]


def _load_samples(con: duckdb.DuckDBPyConnection, root: Root, scores: str | None, verdicts: str | None) -> None:
    """`attempts`, then `samples`: the latest attempt of each uid, joined with its score and its verdict."""
    shards = _paths(root, "shards")
    if not shards:
        raise InputError(f"{root.url}/shards: nothing downloaded; run `headwater download` first")
    con.execute("CREATE TABLE _shards AS SELECT * FROM read_parquet(?)", [shards])
    for name in ("source", "status", "reason", "mime"):
        # ENUMs group about five times faster than strings.
        con.execute(
            f"CREATE TYPE {name}_t AS ENUM (SELECT DISTINCT {name} FROM _shards WHERE {name} IS NOT NULL ORDER BY 1)"
        )
        con.execute(f"ALTER TABLE _shards ALTER {name} TYPE {name}_t")
    con.execute("CREATE TABLE attempts AS SELECT * FROM _shards ORDER BY source, shard, key")
    con.execute("DROP TABLE _shards")
    _load_sidecar(
        con, "_scores", _paths(root, "features", scores) if scores else [], "uid, clip_score", features(1).arrow
    )
    _load_sidecar(con, "_verdicts", _paths(root, "verdicts", verdicts) if verdicts else [], "*", VERDICTS.arrow)
    con.execute("""
        CREATE TABLE samples AS
        SELECT a.*, s.clip_score, v.* EXCLUDE (uid)
        FROM (FROM attempts QUALIFY row_number() OVER (PARTITION BY uid ORDER BY attempt DESC, shard DESC) = 1) a
        LEFT JOIN _scores s USING (uid) LEFT JOIN _verdicts v USING (uid)
        ORDER BY a.source, a.shard, a.key;
        DROP TABLE _scores; DROP TABLE _verdicts;
        CREATE VIEW sources AS SELECT source, count(*) AS records, count(*) FILTER (status = 'success') AS successes,
            avg(clip_score) AS mean_clip_score, count(duplicate_of) AS duplicates, count(eval_set) AS eval_overlaps
            FROM samples GROUP BY source ORDER BY source;
        CREATE VIEW shards AS SELECT source, shard, count(*) AS records,
            count(*) FILTER (status = 'success') AS successes,
            sum(size)::BIGINT AS image_bytes FROM attempts GROUP BY source, shard ORDER BY source, shard;
    """)


def _load_sidecar(
    con: duckdb.DuckDBPyConnection, table: str, paths: list[str], columns: str, schema: pa.Schema
) -> None:
    """A table over a stage's sidecars; an empty one of the same columns where the stage has not run."""
    if paths:
        con.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM read_parquet(?)", [paths])
        return
    # DuckDB does not take Arrow's half floats, so only the columns that are asked for are made.
    fields = [field for field in schema if columns == "*" or field.name in columns]
    empty = pa.schema(fields).empty_table()
    con.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM empty")
    del empty


def _load_ledger(con: duckdb.DuckDBPyConnection, root: Root, runs: list[dict[str, Any]]) -> None:
    """`runs`, `mixtures` and `mixture_samples`."""
    run_rows = pa.Table.from_pylist(runs, _RUNS)
    con.execute("CREATE TABLE runs AS SELECT * FROM run_rows ORDER BY id")
    names = mixture_names(root)
    locks = [root.read_json("mixes", name, "mix.lock.json") for name in names]
    mixtures = pa.Table.from_pylist(
        [
            {"mixture": n, "seed": lock["config"]["seed"], "asked": lock["asked"], "samples": lock["samples"],
             "digest": lock["digest"]}
            for n, lock in zip(names, locks, strict=True)
        ],
        _MIXTURES,
    )  # fmt: skip
    con.execute("CREATE TABLE mixtures AS SELECT * FROM mixtures ORDER BY mixture")
    empty = MANIFEST.arrow.empty_table()
    con.execute("CREATE TABLE mixture_samples AS SELECT ''::VARCHAR AS mixture, * FROM empty LIMIT 0")
    for name in names:
        con.execute(
            "INSERT INTO mixture_samples SELECT ?, * FROM read_parquet(?)",
            [name, root.path("mixes", name, "manifest.parquet")],
        )
    del run_rows, mixtures, empty


def mixture_names(root: Root) -> list[str]:
    """Names of the finished mixtures."""
    return [name for name in root.names("mixes") if root.exists("mixes", name, "mix.lock.json")]


def _comment(con: duckdb.DuckDBPyConnection) -> None:
    """The meaning of each column, where DESCRIBE's neighbours and other tools find it."""
    columns = {c.name: c.meaning for c in (*SHARD.columns, *features(1).columns, *VERDICTS.columns)}
    for table in ("attempts", "samples"):
        for (name,) in con.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table]
        ).fetchall():
            meaning = columns[name].replace("'", "''")
            con.execute(f"COMMENT ON COLUMN {table}.\"{name}\" IS '{meaning}'")


def only(root: Root, stage: str, wanted: str | None) -> str | None:
    """The fingerprint folder of a stage to use: the one asked for, the only one, or none; ConfigError if unclear."""
    found = [name for name in root.names(stage) if Path(root.path(stage, name)).is_dir()]
    if wanted is not None and wanted not in found:
        raise ConfigError(
            f"{stage}: {wanted!r} is not under {root.url}/{stage}; there is {', '.join(found) or 'none'}"
        )
    if wanted is None and len(found) > 1:
        raise ConfigError(f"{stage}: several fingerprints ({', '.join(found)}); say which with --{stage}")
    return wanted or (found[0] if found else None)
