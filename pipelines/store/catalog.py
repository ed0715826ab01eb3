"""The catalog: one DuckDB file over everything that was published, rebuilt at will and swapped in by rename.

Tables are built in a new file beside the old one, because DuckDB locks out readers while a writer is open; readers
of the old file keep it until they close. Tables: `samples` (the latest attempt of each uid with scores, verdicts and
signals), `attempts`, `sources`, `shards`, `runs`, `mixtures`, `mixture_samples`, `entries`, `presets`; and macros.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from filters.errors import InputError, ShardError
from pipelines.store import presets, tables
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION
from pipelines.store.stages import Sidecars

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
    root: Root, sidecars: Sequence[Sidecars], marks: dict[str, str], runs: list[dict[str, Any]]
) -> tuple[int, dict[str, int], dict[str, int]]:
    """Write a new catalog from all published files and swap it in.

    Returns its distinct uids, its samples by status, and by command the pictures that its sidecars lack. Raises
    InputError where nothing was downloaded, ShardError for a published file that cannot be read.
    """
    if not root.shards("shards"):
        raise InputError(f"{root.url}/shards: nothing downloaded; run `headwater download` first")
    path = root.local(FILE)
    temporary = path.with_name(f".{FILE}.tmp")
    _clear(temporary)
    try:
        with duckdb.connect(str(temporary), config=_SETTINGS) as con:
            missing = tables.load_samples(con, root, sidecars)
            tables.load_entries(con, root, sidecars)
            tables.load_ledger(con, root, runs, mixture_names(root))
            tables.load_presets(con, sidecars)
            con.execute("CREATE TABLE catalog_info (name VARCHAR, value VARCHAR)")
            con.executemany("INSERT INTO catalog_info VALUES (?, ?)", sorted(marks.items()))
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


def sample_marks(root: Root, sidecars: Sequence[Sidecars]) -> str:
    """Digest of all that the sample tables and the presets over them are made from."""
    shards = [
        (str(s), root.parquet_metadata("shards", s.source, f"{s.number}.parquet").get(KEY))
        for s in root.shards("shards")
    ]
    return fingerprint(shards, [side.marks(root) for side in sidecars], presets.digest())


def mixture_names(root: Root) -> list[str]:
    """Names of the finished mixtures: the manifest is written last."""
    return [name for name in root.names("mixes") if root.exists("mixes", name, "manifest.parquet")]


def explain_error(error: duckdb.Error, con: duckdb.DuckDBPyConnection) -> str:
    """One line for a DuckDB error, with the nearest column names where a column is unknown."""
    text = _first_line(error).removeprefix("Invalid Input Error: ")
    unknown = re.search(r'[Cc]olumn "?([\w.]+)"? ', text)
    if isinstance(error, duckdb.BinderException) and unknown:
        if unknown.group(1) == "samples":
            return "`samples` has another name in this query: give a preset that name, as in laion2b(s)"
        known = con.execute("SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        names = [row[0] for row in known]
        close = difflib.get_close_matches(unknown.group(1).split(".")[-1], names, n=3, cutoff=0.5)
        text = text.split(" Candidate")[0] + (f" Nearest columns: {', '.join(close)}." if close else "")
    return text


def _first_line(error: duckdb.Error) -> str:
    return str(error).split("\n\n")[0].replace("\n", " ").strip()
