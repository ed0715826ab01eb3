"""Publishing a catalog: only shards that are new or have changed are read, and what is written is bounded by them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from filters.errors import ShardError
from pipelines.store import latest, levels, tables, views
from pipelines.store.catalog import (
    SETTINGS,
    enter,
    first_line,
    limit_memory,
    mixture_names,
    read_contents,
    show,
)
from pipelines.store.mirror import FILE, KEEP, Shelf
from pipelines.store.presets import literal, quoted
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import MANIFEST
from pipelines.store.segments import Batch, Layout, Segment, attach, batches, create, write_segment
from pipelines.store.stages import Sidecars
from pipelines.store.survey import Survey, mixture_mark

_TEMPORARY = ".writing-"


@dataclass(frozen=True, slots=True)
class Published:
    """What a catalog has: samples, one a uid, by status, and by command the pictures that its sidecars lack."""

    samples: int
    statuses: dict[str, int]
    missing: dict[str, int]
    segments: int
    bytes_written: int


def publish(
    root: Root, found: Survey, runs: list[dict[str, Any]], *, memory: str | None = None, cap: int = levels.CAP
) -> Published:
    """Write what changed, and swap the catalog in. ShardError for a published file that cannot be read.

    OvertakenError where a store tells that another catalog was published since the survey.

    `memory` is what DuckDB may use ("4GB"), `cap` the most rows of a segment.
    """
    folder = found.files.folder
    folder.mkdir(parents=True, exist_ok=True)
    sweep(found.files, found.before)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as temporary:
        try:
            with duckdb.connect(config={**SETTINGS, "temp_directory": temporary}) as con:
                limit_memory(con, memory)
                root.lend(con)
                return _Writer(con, root, found, Path(temporary), cap).publish(runs)
        except duckdb.Error as error:
            raise ShardError(
                f"{root.url}: a published file cannot be read ({first_line(error)}); delete it and run its stage "
                "again"
            ) from error


class _Writer:
    """One publication: new files are written to a folder of their own and moved to their places."""

    def __init__(self, con: duckdb.DuckDBPyConnection, root: Root, found: Survey, temporary: Path, cap: int) -> None:
        self.con, self.root, self.found, self.temporary, self.cap = con, root, found, temporary, cap
        self.files, self.folder = found.files, found.files.folder
        self.bytes = 0

    def publish(self, runs: list[dict[str, Any]]) -> Published:
        """Segments, lists, mixtures, then the catalog that names them."""
        found = self.found
        attach(self.con, self.folder, [*(s.name for s in found.segments), *(run.name for run in found.lists)])
        segments = self._segments()
        lists = self._lists(segments)
        mixtures = self._mixtures()
        return self._catalog(segments, lists, mixtures, runs)

    def _segments(self) -> list[Segment]:
        """Write new segments; all that there are then, with what is hidden in them."""
        con, found, buried = self.con, self.found, self.found.buried
        old = [_bury(segment, buried.get(segment.name, []), found.records) for segment in found.segments]
        old = [segment for segment in old if segment.name in found.standing]
        fresh = found.fresh
        latest.load_hidden(con, [run.name for run in found.lists])
        latest.hold_contest(con, self.root, fresh, old, buried)
        hidden = latest.superseded(con)
        old = [replace(s, superseded=s.superseded + hidden.get(s.name, 0)) for s in old]
        again = latest.risen(con)
        counts = _row_counts(con, self.root, fresh)
        kept, written = [], []
        for source in sorted({shard.source for shard in fresh} | {segment.source for segment in old}):
            mine = [segment for segment in old if segment.source == source]
            shards = {shard: counts[shard] for shard in fresh if shard.source == source}
            runs = [replace(s.run, hidden=s.rows) if s.name in again else s.run for s in mine]
            names = {run.name for run in levels.to_merge(runs, sum(shards.values()), self.cap)}
            kept += [segment for segment in mine if segment.name not in names]
            swallowed = [segment for segment in mine if segment.name in names]
            if shards or swallowed:
                latest.load_first_attempts(con, self.root, list(shards), mine, found.layout)
                written += [self._write(batch) for batch in batches(source, shards, swallowed, self.cap)]
        return sorted(kept + written, key=lambda segment: (segment.source, segment.name))

    def _write(self, batch: Batch) -> Segment:
        path = self.temporary / f"{uuid.uuid4().hex}.duckdb"
        segment = write_segment(self.con, self.root, batch, self.found.parts, self.found.layout, path)
        self._move(path)
        attach(self.con, self.folder, [segment.name])
        return segment

    def _move(self, path: Path) -> None:
        self.bytes += path.stat().st_size
        self.files.add(path)

    def _lists(self, segments: Sequence[Segment]) -> list[levels.Run]:
        """Write what was superseded in segments that stay; lists that name no such segment any more go."""
        con, names = self.con, ", ".join(literal(segment.name) for segment in segments) or "''"
        [(fresh,)] = con.execute(f"SELECT count(*) FROM ({latest.SUPERSEDED}) WHERE segment IN ({names})").fetchall()
        runs = []
        for run in self.found.lists:
            query = f"SELECT count(*) FROM {quoted(run.name)}.rows WHERE segment IN ({names})"
            [(live,)] = con.execute(query).fetchall()
            if live:
                runs.append(replace(run, hidden=run.rows - live))
        merged = levels.to_merge(runs, fresh, self.cap)
        kept = [run for run in runs if run not in merged]
        if not fresh and not merged:
            return kept
        path = self.temporary / f"{uuid.uuid4().hex}.duckdb"
        create(con, path, path.stem, fresh)
        selects = [latest.SUPERSEDED, *(f"SELECT segment, row FROM {quoted(run.name)}.rows" for run in merged)]
        con.execute(f"""CREATE TABLE {quoted(path.stem)}.rows AS SELECT segment, row FROM
            ({" UNION ALL ".join(selects)}) WHERE segment IN ({names}) ORDER BY segment, row""")
        [(rows,)] = con.execute(f"SELECT count(*) FROM {quoted(path.stem)}.rows").fetchall()
        con.execute(f"DETACH {quoted(path.stem)}")
        self._move(path)
        attach(con, self.folder, [path.stem])
        return [*kept, levels.Run(path.stem, rows)]

    def _mixtures(self) -> dict[str, tuple[str, str]]:
        """Write manifests that are new; all that there are, by name: mark and file."""
        con, found = self.con, {}
        for name in mixture_names(self.root):
            mark, (old, file) = mixture_mark(self.root, name), self.found.mixtures.get(name, ("", ""))
            if mark != old:
                path = self.temporary / f"{uuid.uuid4().hex}.duckdb"
                manifest, file = self.root.address("mixes", name, "manifest.parquet"), path.stem
                create(con, path, file, 0)
                columns = ", ".join(map(quoted, MANIFEST.names))
                con.execute(
                    f"CREATE TABLE {quoted(file)}.rows AS SELECT {columns} FROM read_parquet({literal(manifest)})"
                )
                con.execute(f"DETACH {quoted(file)}")
                self._move(path)
            attach(con, self.folder, [file])
            found[name] = mark, file
        return found

    def _catalog(
        self,
        segments: list[Segment],
        lists: list[levels.Run],
        mixtures: dict[str, tuple[str, str]],
        runs: list[dict[str, Any]],
    ) -> Published:
        con, found = self.con, self.found
        path = self.temporary / FILE
        create(con, path, "catalog", 0)
        con.execute("USE catalog")
        # Each statement would otherwise wait for the disk.
        con.begin()
        files = [(name, file) for name, (_, file) in mixtures.items()]
        names, list_names = found.layout.names, [run.name for run in lists]
        show(con, segments, list_names, files, names)
        _contents(con, segments, lists, mixtures)
        tables.load_entries(con, self.root, found.layout.sidecars)
        tables.load_ledger(con, self.root, runs, list(mixtures))
        tables.load_presets(con, found.layout.sidecars)
        published = views.definitions(names, segments, list_names, files, views.by_path(self.folder.resolve()))
        for view, query in {**published, "sources": views.SOURCES}.items():
            con.execute(f"CREATE VIEW catalog.{view} AS {query}")
        _comment(con, found.layout)
        con.execute("CREATE TABLE catalog_info (name VARCHAR, value VARCHAR)")
        con.executemany("INSERT INTO catalog_info VALUES (?, ?)", sorted(found.marks.items()))
        con.commit()
        statuses = con.execute("SELECT status::VARCHAR, count(*) FROM samples GROUP BY status").fetchall()
        missing = self._missing(segments)
        con.execute("USE memory")
        con.execute("DETACH catalog")
        self.bytes += path.stat().st_size
        before = _named(found.before) or ()
        self.files.swap(path, found.before)
        for name in set(before) - {*(s.name for s in segments), *list_names, *(file for _, file in files)}:
            # From now on it is kept for a while: its time says since when nobody needs it.
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.folder / f"{name}.duckdb")
        counts = dict(statuses)
        return Published(sum(counts.values()), counts, missing, len(segments), self.bytes)

    def _missing(self, segments: Sequence[Segment]) -> dict[str, int]:
        """By command, the pictures for which a sidecar has no row."""
        sidecars = self.found.layout.sidecars
        selects = [f"SELECT lacks FROM {quoted(s.name)}.parts r WHERE {s.alive}" for s in segments]
        counts = ", ".join(f"coalesce(sum(lacks[{number + 1}]), 0)::BIGINT" for number in range(len(sidecars)))
        [found] = self.con.execute(f"SELECT {counts} FROM ({' UNION ALL '.join(selects)})").fetchall()
        return {
            command_of(side, sidecars): int(count)
            for side, count in zip(sidecars, found, strict=True)
            if side.made_with is not None
        }


def command_of(side: Sidecars, sidecars: Sequence[Sidecars]) -> str:
    """The command that writes these sidecars, with the model's column where several models have scores."""
    several = sum(other.stage is side.stage for other in sidecars) > 1
    return f"`headwater {side.stage.job}`" + (f" for {side.columns[-1][1].name}" if several else "")


def _bury(segment: Segment, shards: Sequence[str], records: dict[ShardId, int]) -> Segment:
    rows = sum(records[ShardId(segment.source, number)] for number in shards)
    return replace(segment, dead=tuple(sorted((*segment.dead, *shards))), dead_rows=segment.dead_rows + rows)


def _row_counts(con: duckdb.DuckDBPyConnection, root: Root, shards: Sequence[ShardId]) -> dict[ShardId, int]:
    paths = [root.address("shards", s.source, f"{s.number}.parquet") for s in shards]
    rows = (
        con.execute("SELECT file_name, num_rows FROM parquet_file_metadata(?)", [paths]).fetchall() if paths else []
    )
    found = dict(rows)
    return {shard: int(found[path]) for shard, path in zip(shards, paths, strict=True)}


def _contents(
    con: duckdb.DuckDBPyConnection,
    segments: Sequence[Segment],
    lists: Sequence[levels.Run],
    mixtures: dict[str, tuple[str, str]],
) -> None:
    """What the catalog consists of, for its readers and the next publication."""
    con.execute("""CREATE TABLE catalog_segments (name VARCHAR, source VARCHAR, rows BIGINT, dead VARCHAR[],
        dead_rows BIGINT, superseded BIGINT)""")
    con.execute("CREATE TABLE catalog_lists (name VARCHAR, rows BIGINT)")
    con.execute("CREATE TABLE catalog_mixtures (mixture VARCHAR, mark VARCHAR, name VARCHAR)")
    for s in segments:
        row = [s.name, s.source, s.rows, list(s.dead), s.dead_rows, s.superseded]
        con.execute("INSERT INTO catalog_segments VALUES (?, ?, ?, ?, ?, ?)", row)
    for run in lists:
        con.execute("INSERT INTO catalog_lists VALUES (?, ?)", [run.name, run.rows])
    for name, (mark, file) in mixtures.items():
        con.execute("INSERT INTO catalog_mixtures VALUES (?, ?, ?)", [name, mark, file])


def _comment(con: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """The meaning of each column, as a comment and in the table `columns`."""
    con.execute('CREATE TABLE columns ("table" VARCHAR, "column" VARCHAR, type VARCHAR, meaning VARCHAR)')
    for table, columns in views.meanings(layout).items():
        for column in columns:
            name = f"catalog.{table}.{quoted(column.name)}"
            con.execute(f"COMMENT ON COLUMN {name} IS {literal(column.meaning)}")
    con.execute("""INSERT INTO columns SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
        WHERE database_name = 'catalog' AND NOT starts_with(table_name, 'catalog_')
        ORDER BY table_name, column_index""")


def sweep(files: Shelf, newest: Path, keep: float = KEEP) -> None:
    """Take away what killed publications left, and what the newest catalog names not, after `keep` seconds."""
    old = time.time() - keep
    for path in files.folder.glob(f"{_TEMPORARY}*"):
        if path.stat().st_mtime < old:
            shutil.rmtree(path, ignore_errors=True)
    files.sweep(_named(newest), keep)


def _named(catalog: Path) -> Collection[str] | None:
    """The files that the published catalog names; None where it cannot be told."""
    try:
        with duckdb.connect(config=SETTINGS) as con:
            enter(con, catalog)
            segments, lists, mixtures = read_contents(con)
    except duckdb.Error:
        return None
    return {*(segment.name for segment in segments), *lists, *(file for _, file in mixtures)}
