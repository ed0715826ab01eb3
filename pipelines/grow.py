"""A dump that has grown or changed, against what was ingested of it: only what is new or other is added.

What is ingested stays as it is. Rows of the dump that are not there yet, and those that say something else than
before, go to slices of their own, numbered after the source's last shard, beside those of retries; so do rows that
the dump no longer holds, with the reason `withdrawn`: none is lost. A row is the same if its uid is, and other
if a column other than `file` and `line` is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from filters.errors import InputError
from pipelines.retry import add_slices
from pipelines.slices import retry_slices
from pipelines.store.catalog import SETTINGS
from pipelines.store.fingerprint import KEY, SHARDS
from pipelines.store.presets import literal
from pipelines.store.root import Root
from pipelines.store.schema import METADATA, RETRY
from pipelines.store.segments import as_list

_FILE = "grown.json"
_COMPARED = ", ".join(name for name in METADATA.names if name not in ("file", "line"))


class Growth(NamedTuple):
    """Rows of a dump that were new, said something else than before, were no longer there, or were as before."""

    added: int
    changed: int
    withdrawn: int
    unchanged: int
    reasons: Mapping[str, int]
    slices: int


def grown_to(root: Root, source: str) -> str | None:
    """The fingerprint of the dump that a source's rows are up to date with; None where it never grew."""
    found = root.read_json("metadata", source, _FILE) if root.exists("metadata", source, _FILE) else {}
    return found.get("dump")


def forget(root: Root, source: str) -> None:
    """An ingest that starts anew has not grown."""
    root.remove("metadata", source, _FILE)


def is_whole(root: Root, source: str) -> bool:
    """Whether the slices of a source are those of one finished ingest."""
    names = root.names("metadata", source, suffix=".parquet")
    marks = root.parquet_metadatas([("metadata", source, name) for name in names])
    return len({mark.get(KEY) for mark in marks}) == 1 and marks[0].get(SHARDS) == str(len(names))


def grow(
    root: Root, source: str, tables: Iterable[pa.Table], mark: str, limit: float, scratch: str | None = None
) -> Growth:
    """Add to a source what `tables` (schema METADATA), its whole dump of fingerprint `mark`, have more or other.

    InputError where more than the share `limit` of the rows would be withdrawn: then part of the dump is missing.
    """
    with (
        tempfile.TemporaryDirectory(prefix="headwater-grow-", dir=scratch) as folder,
        duckdb.connect(config={**SETTINGS, "temp_directory": folder}) as con,
    ):
        dump = Path(folder) / "dump.parquet"
        with pq.ParquetWriter(dump, METADATA.arrow, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        root.lend(con)
        _compare(con, dump, _known(root, source))
        [(added, changed, unchanged)] = con.execute("""SELECT count(*) FILTER (o.uid IS NULL),
            count(*) FILTER (o.digest <> n.digest), count(*) FILTER (o.digest = n.digest)
            FROM new n LEFT JOIN old o USING (uid)""").fetchall()
        [(withdrawn, before)] = con.execute("""SELECT count(*) FILTER (n.uid IS NULL), count(*)
            FROM old o LEFT JOIN new n USING (uid) WHERE o.reason <> 'withdrawn'""").fetchall()
        if withdrawn > limit * before:
            raise InputError(
                f"{source}: {withdrawn:,} of {before:,} rows are no longer in the dump; is all of it there? "
                f"If so, raise max_failed_fraction ({limit:g})"
            )
        rows = RETRY.conform(con.sql(_rows()).to_arrow_table())
    slices = add_slices(root, source, [rows] if rows.num_rows else [])
    # Last: a killed run compares once more, with the slices that it wrote.
    root.write_json({"dump": mark}, "metadata", source, _FILE)
    counts = rows["reason"].value_counts().to_pylist()
    reasons = {item["values"]: item["counts"] for item in counts}
    return Growth(added, changed, withdrawn, unchanged, reasons, len(slices))


def _known(root: Root, source: str) -> str:
    """The rows of a source as SQL: those of its ingest, of retries and of earlier growth."""
    names = root.names("metadata", source, suffix=".parquet")
    ingested = [root.address("metadata", source, name) for name in names]
    added = [root.address(*piece.path) for piece in retry_slices(root, source)]
    files = [(ingested, "0 AS attempt"), *([(added, "attempt")] if added else [])]
    return " UNION ALL BY NAME ".join(
        f"""SELECT {", ".join(METADATA.names)}, {attempt}, filename AS _file, file_row_number AS _n
        FROM read_parquet({as_list(paths)}, filename = true, file_row_number = true)"""
        for paths, attempt in files
    )


def _compare(con: duckdb.DuckDBPyConnection, dump: Path, known: str) -> None:
    """`new`, each row of the dump in order, and `old`, the latest of each uid that is known; both with a digest."""
    con.execute(f"""CREATE TEMP VIEW dump AS
        SELECT *, file_row_number AS _n FROM read_parquet({literal(str(dump))}, file_row_number = true)""")
    con.execute(f"CREATE TEMP TABLE new AS SELECT uid, _n, {_digest()} AS digest FROM dump")
    con.execute(f"CREATE TEMP VIEW known AS {known}")
    con.execute(f"""CREATE TEMP TABLE old AS SELECT uid, attempt, reason, _file, _n, {_digest()} AS digest
        FROM known QUALIFY row_number() OVER (PARTITION BY uid ORDER BY attempt DESC, _file DESC) = 1""")


def _digest() -> str:
    return f"hash({_COMPARED})"


def _rows() -> str:
    """What is to be written, as SQL: new and changed rows in the dump's order, then what it no longer holds."""
    names = ", ".join(METADATA.names)
    gone = ", ".join("'withdrawn' AS reason" if name == "reason" else f"k.{name}" for name in METADATA.names)
    return f"""SELECT * EXCLUDE (_kind, _n, _uid) FROM (
        SELECT {names}, coalesce(o.attempt + 1, 0) AS attempt, 0 AS _kind, n._n, '' AS _uid
        FROM new n JOIN dump d USING (uid, _n) LEFT JOIN
            (SELECT uid, attempt, digest FROM old) o USING (uid) WHERE o.uid IS NULL OR o.digest <> n.digest
        UNION ALL
        SELECT {gone}, o.attempt + 1 AS attempt, 1 AS _kind, 0 AS _n, k.uid AS _uid
        FROM old o JOIN known k ON k.uid = o.uid AND k._file = o._file AND k._n = o._n
            ANTI JOIN new n ON n.uid = o.uid WHERE o.reason <> 'withdrawn')
        ORDER BY _kind, _n, _uid"""
