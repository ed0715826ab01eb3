"""What an export of a mixture consists of: its folder, its files, and which rows of the manifest each one holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

Layout = Literal["mixed", "by_source"]
Form = Literal["tars", "hf"]

_FOLDERS: dict[tuple[Form, Layout], str] = {
    ("tars", "mixed"): "tars",
    ("tars", "by_source"): "by_source",
    ("hf", "mixed"): "hf",
    ("hf", "by_source"): "hf_by_source",
}


@dataclass(frozen=True, slots=True)
class Export:
    """One export of one mixture; `mark` is the fingerprint of the manifest and the settings that it follows from."""

    mixture: str
    layout: Layout
    form: Form
    mark: str

    @property
    def folder(self) -> tuple[str, ...]:
        """Where the files lie that other programs read, below the root; nothing else may lie there."""
        return "mixes", self.mixture, _FOLDERS[self.form, self.layout]

    @property
    def accounts(self) -> tuple[str, ...]:
        """Where for each of these files a table lies of what became of its rows."""
        return "mixes", self.mixture, "accounts", _FOLDERS[self.form, self.layout]

    @property
    def scratch(self) -> tuple[str, ...]:
        """Where files lie while they are written."""
        return *self.accounts, ".writing"


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of an export, at `path` in its folder.

    It holds `rows` rows of the manifest from row group `group` on, after `skip` of them in that group; counted are
    all rows, or the first uses of the samples of one `source`.
    """

    name: str
    path: tuple[str, ...]
    source: str | None
    group: int
    skip: int
    rows: int

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class Contents:
    """What a manifest holds: rows by row group, uses by source, first uses by source and row group, shards, bytes."""

    groups: list[int] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, list[int]] = field(default_factory=dict)
    shards: set[tuple[str, str]] = field(default_factory=set)
    bytes: int = 0


def contents(manifest: pq.ParquetFile) -> Contents:
    """Read a manifest through, a row group at a time, without uids and captions."""
    found = Contents()
    for group in range(manifest.num_row_groups):
        table = manifest.read_row_group(group, columns=["source", "shard", "size", "repeat"])
        is_first = pc.equal(table["repeat"], 0).cast("int64")
        by_shard = table.append_column("first", is_first).group_by(["source", "shard"])
        counts = by_shard.aggregate([([], "count_all"), ("first", "sum"), ("size", "sum")])
        found.groups.append(table.num_rows)
        for row in counts.to_pylist():
            found.uses[row["source"]] += row["count_all"]
            firsts = found.firsts.setdefault(row["source"], [0] * manifest.num_row_groups)
            firsts[group] += row["first_sum"]
            found.shards.add((row["source"], row["shard"]))
            found.bytes += row["size_sum"]
    return found


def pieces(export: Export, there: Contents, per_file: int) -> list[Piece]:
    """The files of an export in order, of `per_file` rows each but for the last (of each source)."""
    if export.layout == "mixed":
        return _pieces(export, None, there.groups, per_file)
    return [p for name in sorted(there.firsts) for p in _pieces(export, name, there.firsts[name], per_file)]


def _pieces(export: Export, source: str | None, counts: Sequence[int], per_file: int) -> list[Piece]:
    cuts = list(_cuts(counts, per_file))
    return [
        Piece(*_named(export, source, number, len(cuts)), source, *cut) for number, cut in enumerate(cuts)
    ]  # fmt: skip


def _cuts(counts: Sequence[int], per_file: int) -> Iterator[tuple[int, int, int]]:
    """For each file the row group at which it begins, the rows before it in that group, and its own rows."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, per_file):
        group = int(np.searchsorted(ends, start, side="right"))
        yield group, start - int(ends[group] - counts[group]), min(per_file, total - start)


def _named(export: Export, source: str | None, number: int, files: int) -> tuple[str, tuple[str, ...]]:
    """A file's name without ending, and its path in the export's folder."""
    if export.form == "tars":
        name = f"{tar_prefix(export.mixture, source)}{number:08d}"
        return name, (f"{name}.tar",)
    # Names by which Hugging Face tells the split.
    name = f"{number:05d}-of-{files:05d}"
    folders = ("data",) if source is None else ("data", source)
    return f"{source or 'train'}-{name}", (*folders, f"train-{name}.parquet")


def tar_prefix(mixture: str, source: str | None) -> str:
    """How the names of an export's tars begin, before the number.

    open_clip looks sizes up by the name alone, so no tar may be called as one of another export. No mixture's name
    has a plus sign: `a-b` with all sources and `a` with source `b` stay apart.
    """
    return f"{mixture}-" if source is None else f"{mixture}+{source}-"
