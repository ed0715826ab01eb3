"""What is published now against what the catalog has of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from filters.errors import InputError
from pipelines.store import presets
from pipelines.store.catalog import FILE, SETTINGS, enter, mixture_names, read_contents
from pipelines.store.fingerprint import fingerprint
from pipelines.store.levels import Run
from pipelines.store.marks import Part, find_parts
from pipelines.store.presets import quoted
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, Column
from pipelines.store.segments import FOLDER, Layout, Segment, attach
from pipelines.store.stages import DEDUPE, Sidecars

# Raised when segments of before can no longer be read as new ones.
_VERSION = 2


@dataclass(slots=True)
class Survey:
    """What is published now against what the catalog has."""

    layout: Layout
    parts: dict[ShardId, Part]
    marks: dict[str, str]
    info: dict[str, str] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    lists: list[Run] = field(default_factory=list)
    mixtures: dict[str, tuple[str, str]] = field(default_factory=dict)  # by name: mark, file
    known: dict[ShardId, tuple[Part, str]] = field(default_factory=dict)  # with the name of its segment
    records: dict[ShardId, int] = field(default_factory=dict)

    @property
    def fresh(self) -> list[ShardId]:
        """Shards that the catalog lacks as they are now."""
        return [
            shard for shard, part in self.parts.items() if shard not in self.known or self.known[shard][0] != part
        ]

    @property
    def buried(self) -> dict[str, list[str]]:
        """By segment, the shards in it that are not, or no longer what they were."""
        found: dict[str, list[str]] = {}
        for shard, (part, segment) in self.known.items():
            if self.parts.get(shard) != part:
                found.setdefault(segment, []).append(shard.number)
        return found

    @property
    def standing(self) -> set[str]:
        """Segments with a shard, be it empty, that is still what it was."""
        return {segment for shard, (part, segment) in self.known.items() if self.parts.get(shard) == part}

    @property
    def is_current(self) -> bool:
        """Whether the catalog was built from exactly this."""
        return self.info == self.marks and not self.fresh and not self.buried


def survey(root: Root, sidecars: Sequence[Sidecars], runs: Sequence[str], *, anew: bool = False) -> Survey:
    """Look at all published files, and at the catalog unless it is to be made `anew`.

    InputError where nothing was downloaded.
    """
    if not root.shards("shards"):
        raise InputError(f"{root.url}/shards: nothing downloaded; run `headwater download` first")
    layout = Layout(sidecars, tuple(_columns(root, side) for side in sidecars))
    mark = fingerprint(SCHEMA_VERSION, _VERSION, [
        (side.stage.folder, side.made_with, [(name, column.name, str(column.type)) for name, column in columns])
        for side, columns in zip(sidecars, layout.columns, strict=True)
    ])  # fmt: skip
    found = Survey(layout, {}, {"schema_version": str(SCHEMA_VERSION), "layout": mark})
    if not anew:
        _look_back(root, found)
    found.parts = find_parts(root, sidecars, mark, {shard: part for shard, (part, _) in found.known.items()})
    mixes = [(name, mixture_mark(root, name)) for name in mixture_names(root)]
    found.marks |= {
        "samples": fingerprint(sorted((str(s), part.mark) for s, part in found.parts.items()), presets.digest()),
        "mixtures": fingerprint(mixes),
        "runs": fingerprint(list(runs)),
        # The published views name their files by path.
        "folder": str(root.local(FOLDER).resolve()),
    }
    return found


def _columns(root: Root, side: Sidecars) -> tuple[tuple[str, Column], ...]:
    """The columns that the files of a sidecar give; of the evaluation sets, all that any file has."""
    paths = side.paths(root) if side.stage is DEDUPE else []
    names: list[str] = []
    if paths:
        with contextlib.suppress(duckdb.Error):  # a damaged file is named when it is read
            names = duckdb.connect(config=SETTINGS).read_parquet(paths, union_by_name=True).columns
    return side.columns_in(names)


def mixture_mark(root: Root, name: str) -> str:
    """Digest of a mixture: what it holds, and the file that says so."""
    lock = root.read_json("mixes", name, "mix.lock.json")
    return fingerprint(lock["digest"], root.footer("mixes", name, "manifest.parquet"))


def _look_back(root: Root, found: Survey) -> None:
    """Fill in what the present catalog has, if it can be read and has the same layout."""
    path = root.local(FILE)
    if not path.exists():
        return
    with duckdb.connect(config=SETTINGS) as con:
        try:
            enter(con, path)
            info = dict(con.execute("SELECT name, value FROM catalog_info").fetchall())
            if info.get("layout") != found.marks["layout"]:
                return
            segments, lists, _ = read_contents(con)
            rows = dict(con.execute("SELECT name, rows FROM catalog_lists").fetchall())
            mixtures = con.execute("SELECT mixture, mark, name FROM catalog_mixtures").fetchall()
            attach(con, root.local(FOLDER), [*(s.name for s in segments), *lists])
            for segment in segments:
                for number, stat, mark, records in con.execute(
                    f"SELECT shard, stat, mark, records FROM {quoted(segment.name)}.parts r WHERE {segment.alive}"
                ).fetchall():
                    shard = ShardId(segment.source, number)
                    found.known[shard] = Part(shard, stat, mark), segment.name
                    found.records[shard] = records
        except duckdb.Error:
            found.known, found.records = {}, {}
            return
    found.info, found.segments, found.lists = info, segments, [Run(name, rows[name]) for name in lists]
    folder = root.local(FOLDER)
    found.mixtures = {m: (mark, name) for m, mark, name in mixtures if (folder / f"{name}.duckdb").exists()}
