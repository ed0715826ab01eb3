"""The catalog: one small DuckDB file of views over immutable segments, and the way to read it.

    catalog.duckdb               views `samples` (the latest attempt of each uid with scores, verdicts and signals),
                                 `attempts`, `shards`, `sources`, `mixture_samples`; tables `runs`, `mixtures`,
                                 `removals`, `entries`, `presets`, `columns`; macros
    catalog/<segment>.duckdb     the rows (`pipelines.store.segments`), lists of superseded rows, a file a mixture

DuckDB locks out readers while a writer is open, so nothing that is published is ever written again: `publish` writes
new files beside the old ones and swaps `catalog.duckdb` by rename. Readers keep the files that they have open. Of a
root that is no local folder they are opened in a cache (`pipelines.store.mirror`).
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import duckdb

from filters.errors import ConfigError, InputError
from pipelines.store import views
from pipelines.store.mirror import FILE as FILE
from pipelines.store.mirror import Shelf, shelf
from pipelines.store.presets import literal
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION
from pipelines.store.segments import Segment, attach

# Off, because DuckDB would otherwise try to fetch extensions from the network when a query names one.
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


def connect(root: Root, memory: str | None = None) -> duckdb.DuckDBPyConnection:
    """The catalog, read-only and closed to files and network; InputError where there is none that can be read.

    `memory` is what DuckDB may use ("4GB"); most of the machine's if None. ConfigError if it is no such text.
    """
    files = shelf(root)
    while True:
        path = files.catalog()
        try:
            return _connect(root, files, path, memory)
        except InputError:
            # A file may have been missing because a newer catalog has been published since.
            if files.catalog() == path:
                raise


def _connect(root: Root, files: Shelf, path: Path, memory: str | None) -> duckdb.DuckDBPyConnection:
    if not path.exists():
        raise InputError(f"{root.address(FILE)}: no catalog; run `headwater index --root {root.url}` first")
    again = f"run `headwater index --root {root.url}` again"
    con = duckdb.connect(config=SETTINGS)
    limit_memory(con, memory)
    try:
        enter(con, path)
        found = con.execute("SELECT value FROM catalog_info WHERE name = 'schema_version'").fetchall()
        if found == [(str(SCHEMA_VERSION),)]:
            _open(con, files)
    except duckdb.Error as error:
        con.close()
        raise InputError(f"{path}: is not a catalog that can be read ({first_line(error)}); {again}") from error
    if found != [(str(SCHEMA_VERSION),)]:
        con.close()
        raise InputError(f"{path}: the catalog is of another version; {again}")
    return con


def enter(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Attach the published file, read-only, as `catalog`, and let names be looked up in it."""
    con.execute(f"ATTACH {literal(str(path))} AS catalog (READ_ONLY)")
    con.execute("USE catalog")


def limit_memory(con: duckdb.DuckDBPyConnection, memory: str | None) -> None:
    """Let DuckDB use `memory` ("4GB") at most; ConfigError if it is no such text."""
    try:
        if memory is not None:
            con.execute(f"SET memory_limit = {literal(memory)}")
    except duckdb.Error as error:
        raise ConfigError(f"memory: {memory!r} is not a size such as 4GB ({first_line(error)})") from error


def _open(con: duckdb.DuckDBPyConnection, files: Shelf) -> None:
    """Attach all that the catalog names, let views over it come before the published ones, and shut the door."""
    segments, lists, mixtures = read_contents(con)
    names = [*(s.name for s in segments), *lists, *(file for _, file in mixtures)]
    files.fetch(names)
    attach(con, files.folder, names)
    show(con, segments, lists, mixtures)
    close(con)


def close(con: duckdb.DuckDBPyConnection) -> None:
    """No files and no network from here on, and no way to change that: SQL may come from anywhere."""
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def show(
    con: duckdb.DuckDBPyConnection,
    segments: list[Segment],
    lists: list[str],
    mixtures: list[tuple[str, str]],
    columns: list[str] | None = None,
) -> None:
    """Temporary views over attached files; `columns` of `samples` are those of the catalog if not given.

    A catalog without segments has tables of its own under these names.
    """
    if not segments:
        return
    names = columns or [name for (name,) in con.execute(_SAMPLES).fetchall()]
    for view, query in views.definitions(names, segments, lists, mixtures, views.attached).items():
        con.execute(f"CREATE TEMP VIEW {view} AS {query}")


_SAMPLES = """SELECT column_name FROM duckdb_columns() WHERE database_name = 'catalog' AND table_name = 'samples'
    ORDER BY column_index"""


def read_contents(con: duckdb.DuckDBPyConnection) -> tuple[list[Segment], list[str], list[tuple[str, str]]]:
    """What a catalog consists of: segments, lists of superseded rows, and its mixtures with their files."""
    rows = con.execute("SELECT name, source, rows, dead, dead_rows, superseded FROM catalog_segments ORDER BY ALL")
    segments = [
        Segment(name, source, count, tuple(dead), dead_rows, superseded)
        for name, source, count, dead, dead_rows, superseded in rows.fetchall()
    ]
    lists = [name for (name,) in con.execute("SELECT name FROM catalog_lists ORDER BY ALL").fetchall()]
    mixtures = con.execute("SELECT mixture, name FROM catalog_mixtures ORDER BY ALL").fetchall()
    return segments, lists, [(str(mixture), str(name)) for mixture, name in mixtures]


def snapshot(con: duckdb.DuckDBPyConnection) -> str:
    """Digest of what the sample tables were built from."""
    rows = con.execute("SELECT value FROM catalog_info WHERE name = 'samples'").fetchall()
    return str(rows[0][0]) if rows else ""


def mixture_names(root: Root) -> list[str]:
    """Names of the finished mixtures: the manifest is written last."""
    return [name for name in root.names("mixes") if root.exists("mixes", name, "manifest.parquet")]


def explain_error(error: duckdb.Error, con: duckdb.DuckDBPyConnection) -> str:
    """One line for a DuckDB error, with the nearest column names where a column is unknown."""
    text = first_line(error).removeprefix("Invalid Input Error: ")
    unknown = re.search(r'[Cc]olumn "?([\w.]+)"? ', text)
    if isinstance(error, duckdb.BinderException) and unknown:
        if unknown.group(1) == "samples":
            return "`samples` has another name in this query: give a preset that name, as in laion2b(s)"
        known = con.execute("SELECT DISTINCT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        names = [row[0] for row in known]
        close = difflib.get_close_matches(unknown.group(1).split(".")[-1], names, n=3, cutoff=0.5)
        text = text.split(" Candidate")[0] + (f" Nearest columns: {', '.join(close)}." if close else "")
    return text


def first_line(error: duckdb.Error) -> str:
    """The error without DuckDB's drawing of the query."""
    return str(error).split("\n\n")[0].replace("\n", " ").strip()
