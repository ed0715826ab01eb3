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

from filters.errors import ConfigError, InputError, ShardError
from filters.sampling import sample_order_sql
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import MANIFEST, SCHEMA_VERSION, SHARD, VERDICTS, features

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
    """The catalog, read-only and closed to files and network; InputError where there is none that can be read."""
    path = root.local(FILE)
    if not path.exists():
        raise InputError(f"{path}: no catalog; run `headwater index --root {root.url}` first")
    again = f"run `headwater index --root {root.url}` again"
    try:
        con = duckdb.connect(str(path), read_only=True, config={**_SETTINGS, **_CLOSED})
        found = con.execute("SELECT value FROM catalog_info WHERE name = 'schema_version'").fetchall()
    except duckdb.Error as error:
        raise InputError(f"{path}: is not a catalog that can be read ({_first_line(error)}); {again}") from error
    if found != [(str(SCHEMA_VERSION),)]:
        con.close()
        raise InputError(f"{path}: the catalog is of another version; {again}")
    return con


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
    except (duckdb.Error, InputError):
        return False
    return found == marks


def build(
    root: Root, scores: str | None, verdicts: str | None, marks: dict[str, str], runs: list[dict[str, Any]]
) -> tuple[int, dict[str, int], dict[str, int]]:
    """Write a new catalog from all published files and swap it in.

    Returns its distinct uids, its samples by status, and by stage the pictures that its sidecars lack. Raises
    InputError where nothing was downloaded, ShardError for a published file that cannot be read.
    """
    if not root.shards("shards"):
        raise InputError(f"{root.url}/shards: nothing downloaded; run `headwater download` first")
    path = root.local(FILE)
    temporary = path.with_name(f".{FILE}.tmp")
    _clear(temporary)
    try:
        with duckdb.connect(str(temporary), config=_SETTINGS) as con:
            con.execute(sample_order_sql())
            missing = _load_samples(con, root, scores, verdicts)
            _load_ledger(con, root, runs)
            con.execute("CREATE TABLE catalog_info (name VARCHAR, value VARCHAR)")
            con.executemany("INSERT INTO catalog_info VALUES (?, ?)", sorted(marks.items()))
            _comment(con)
            [(records,)] = con.execute("SELECT count(DISTINCT uid) FROM attempts").fetchall()
            statuses = con.execute("SELECT status::VARCHAR, count(*) FROM samples GROUP BY status").fetchall()
        temporary.replace(path)
        return records, dict(statuses), missing
    except duckdb.Error as error:
        raise ShardError(
            f"{root.url}: a published file cannot be read ({_first_line(error)}); delete it and run its stage again"
        ) from error
    finally:
        _clear(temporary)


def _clear(temporary: Path) -> None:
    """Without its log too: DuckDB would replay what a killed build left into the new file."""
    for path in (temporary, temporary.with_name(temporary.name + ".wal")):
        path.unlink(missing_ok=True)


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
    text = _first_line(error)
    unknown = re.search(r'[Cc]olumn "?([\w.]+)"? ', text)
    if isinstance(error, duckdb.BinderException) and unknown:
        known = con.execute("SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        names = [row[0] for row in known]
        close = difflib.get_close_matches(unknown.group(1).split(".")[-1], names, n=3, cutoff=0.5)
        text = text.split(" Candidate")[0] + (f" Nearest columns: {', '.join(close)}." if close else "")
    return text


def _first_line(error: duckdb.Error) -> str:
    return str(error).split("\n\n")[0].replace("\n", " ").strip()


def _paths(root: Root, *folder: str) -> list[str]:
    return [root.path(*folder, shard.source, f"{shard.number}.parquet") for shard in root.shards(*folder)]


def _load_samples(
    con: duckdb.DuckDBPyConnection, root: Root, scores: str | None, verdicts: str | None
) -> dict[str, int]:
    """`attempts`, then `samples`: the latest attempt of each uid, joined with its score and its verdict.

    A sidecar's row counts only for the shard that it was made from: sidecars outlive shards that were made anew, and
    two rows of one uid would count its sample twice. Returns by stage the pictures that its sidecars lack.
    """
    con.execute("CREATE TABLE _shards AS SELECT * FROM read_parquet(?)", [_paths(root, "shards")])
    for name in ("source", "status", "reason", "mime"):
        # ENUMs group about five times faster than strings; one without values there cannot be.
        values = f"SELECT DISTINCT {name} FROM _shards WHERE {name} IS NOT NULL ORDER BY 1"
        if con.execute(values).fetchone():
            con.execute(f"CREATE TYPE {name}_t AS ENUM ({values})")
            con.execute(f"ALTER TABLE _shards ALTER {name} TYPE {name}_t")
    con.execute("CREATE TABLE attempts AS SELECT * FROM _shards ORDER BY source, shard, key")
    con.execute("DROP TABLE _shards")
    score_paths = _paths(root, "features", scores) if scores else []
    verdict_paths = _paths(root, "verdicts", verdicts) if verdicts else []
    _load_sidecar(con, "_scores", score_paths, ["uid", "clip_score"], features(1).arrow)
    _load_sidecar(con, "_verdicts", verdict_paths, VERDICTS.names, VERDICTS.arrow)
    # Scores that ingest took from the dump stand under the shard of the first attempt; its retries have them too.
    con.execute("""
        INSERT INTO _scores SELECT s.uid, s.clip_score, r.source, r.shard
        FROM attempts r JOIN attempts f ON f.uid = r.uid AND f.source = r.source AND f.attempt = 0
        JOIN _scores s ON s.uid = f.uid AND s._source = f.source::VARCHAR AND s._shard = f.shard
        ANTI JOIN _scores own ON own.uid = r.uid AND own._source = r.source::VARCHAR AND own._shard = r.shard
        WHERE r.attempt > 0;
    """)
    con.execute("""
        CREATE TABLE samples AS
        SELECT a.*, s.clip_score, v.* EXCLUDE (uid, _source, _shard)
        FROM (FROM attempts QUALIFY row_number() OVER (PARTITION BY uid ORDER BY attempt DESC, shard DESC) = 1) a
        LEFT JOIN _scores s ON s.uid = a.uid AND s._source = a.source::VARCHAR AND s._shard = a.shard
        LEFT JOIN _verdicts v ON v.uid = a.uid AND v._source = a.source::VARCHAR AND v._shard = a.shard
        ORDER BY a.source, a.shard, a.key;
        CREATE VIEW sources AS SELECT source, count(*) AS records, count(*) FILTER (status = 'success') AS successes,
            avg(clip_score) AS mean_clip_score, count(duplicate_of) AS duplicates, count(eval_set) AS eval_overlaps
            FROM samples GROUP BY source ORDER BY source;
        CREATE VIEW shards AS SELECT source, shard, count(*) AS records,
            count(*) FILTER (status = 'success') AS successes,
            sum(size)::BIGINT AS image_bytes FROM attempts GROUP BY source, shard ORDER BY source, shard;
    """)
    missing = {
        stage: _without(con, table)
        for stage, table, paths in (("score", "_scores", score_paths), ("dedupe", "_verdicts", verdict_paths))
        if paths
    }
    con.execute("DROP TABLE _scores; DROP TABLE _verdicts")
    return missing


def _without(con: duckdb.DuckDBPyConnection, sidecar: str) -> int:
    """Pictures for which a sidecar table has no row."""
    [(count,)] = con.execute(f"""SELECT count(*) FROM samples a ANTI JOIN {sidecar} s
        ON s.uid = a.uid AND s._source = a.source::VARCHAR AND s._shard = a.shard WHERE status = 'success'
    """).fetchall()
    return int(count)


def _load_sidecar(
    con: duckdb.DuckDBPyConnection, table: str, paths: list[str], columns: list[str], schema: pa.Schema
) -> None:
    """A table over a stage's sidecars, with the shard each row is of; empty where the stage has not run."""
    if paths:
        names = ", ".join(f'"{name}"' for name in columns)
        con.execute(
            f"""CREATE TABLE {table} AS SELECT {names}, split_part(filename, '/', -2) AS _source,
                replace(split_part(filename, '/', -1), '.parquet', '') AS _shard
                FROM read_parquet(?, filename = true)""",
            [paths],
        )
        return
    # DuckDB does not take Arrow's half floats, so only the columns that are asked for are made.
    shard = [pa.field("_source", pa.string()), pa.field("_shard", pa.string())]
    empty = pa.schema([*(schema.field(name) for name in columns), *shard]).empty_table()
    con.from_arrow(empty).create(table)


def _load_ledger(con: duckdb.DuckDBPyConnection, root: Root, runs: list[dict[str, Any]]) -> None:
    """`runs`, `mixtures` and `mixture_samples`."""
    con.from_arrow(pa.Table.from_pylist(runs, _RUNS)).order("id").create("runs")
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
    con.from_arrow(mixtures).create("mixtures")
    columns = [pa.field("mixture", pa.string()), *MANIFEST.arrow]
    con.from_arrow(pa.schema(columns).empty_table()).create("mixture_samples")
    for name in names:
        con.execute(
            "INSERT INTO mixture_samples SELECT ?, * FROM read_parquet(?)",
            [name, root.path("mixes", name, "manifest.parquet")],
        )


def mixture_names(root: Root) -> list[str]:
    """Names of the finished mixtures: the manifest is written last."""
    return [name for name in root.names("mixes") if root.exists("mixes", name, "manifest.parquet")]


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
        raise ConfigError(
            f"{stage}: several fingerprints ({', '.join(found)}); choose one, such as --{stage} {found[0]}"
        )
    return wanted or (found[0] if found else None)
