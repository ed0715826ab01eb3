"""The rows of a mixture with their pictures, read in blocks that fit in memory; what cannot be read says why."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import InputError, SchemaError, ShardError
from pipelines.exports.plan import Piece
from pipelines.store.reasons import REASONS
from pipelines.store.root import Root
from pipelines.store.schema import EXPORT, MANIFEST
from pipelines.store.shards import HEADER

# Bytes of pictures that are held at a time.
_BLOCK = 64 * 1024**2
_MAGIC = ((0, b"\xff\xd8\xff", "jpg"), (0, b"\x89PNG\r\n\x1a\n", "png"), (8, b"WEBP", "webp"))
# Loaders look for a picture under one of the three endings above and then go by its bytes, so that these are found
# under the first; tars that were adopted hold them so.
_OTHERS = ((0, b"GIF8"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (4, b"ftypavif"))


@dataclass(slots=True)
class Use:
    """One use of a sample: its row in the account (schema EXPORT), its caption, its picture and that one's ending."""

    row: dict[str, Any]
    caption: str
    image: bytes = b""
    extension: str = ""

    @property
    def is_there(self) -> bool:
        """Whether there is a picture."""
        return bool(self.extension)


@dataclass(slots=True)
class Lost:
    """What could not be read of one shard: how many rows, and why the first of them."""

    rows: int = 0
    why: str = ""


@dataclass(slots=True)
class Account:
    """The rows of one file as they went, and what was lost of which shard."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    lost: dict[str, Lost] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """The rows in schema EXPORT."""
        columns = {c.name: pa.array([row[c.name] for row in self.rows], c.type) for c in EXPORT.columns}
        return EXPORT.conform(pa.table(columns))


def open_manifest(root: Root, mixture: str) -> pq.ParquetFile:
    """The manifest of a mixture; InputError where there is none, SchemaError where it is something else."""
    path = ("mixes", mixture, "manifest.parquet")
    if not root.exists(*path):
        there = [name for name in root.names("mixes") if root.exists("mixes", name, "manifest.parquet")]
        raise InputError(f"{root.path(*path)}: no such mixture; there is {', '.join(there) or 'none'}")
    try:
        file = pq.ParquetFile(root.reading(*path))
    except pa.ArrowException as error:
        raise InputError(f"{root.path(*path)}: is no manifest ({error}); build the mixture again") from error
    missing = [name for name in MANIFEST.names if name not in file.schema_arrow.names]
    if missing:
        raise SchemaError(f"{root.path(*path)}: has no column {', '.join(missing)}; build the mixture again")
    return file


class Rows:
    """The rows of each file of an export; one row group of the manifest is held at a time."""

    def __init__(self, manifest: pq.ParquetFile) -> None:
        read = functools.partial(manifest.read_row_group, columns=MANIFEST.names)
        # Files are handed out in their order: the next one mostly begins where this one ends.
        self._read = functools.lru_cache(maxsize=1)(read)

    def of(self, piece: Piece) -> pa.Table:
        """The rows of one file, in schema MANIFEST."""
        parts: list[pa.Table] = []
        left, skip, group = piece.rows, piece.skip, piece.group
        while left:
            table = self._read(group)
            if piece.source is not None:
                table = table.filter((pc.field("source") == piece.source) & (pc.field("repeat") == 0))
            parts.append(table.slice(skip, left))
            left -= parts[-1].num_rows
            skip, group = 0, group + 1
        return MANIFEST.conform(pa.concat_tables(parts))


def read_uses(root: Root, table: pa.Table, account: Account) -> Iterator[list[Use]]:
    """The uses of a table of schema MANIFEST with their pictures, in blocks; each goes to `account`."""
    for start, length in _blocks(table["size"].to_pylist()):
        rows = table.slice(start, length).to_pylist()
        uses = [_use(row, found) for row, found in zip(rows, _pictures(root, rows), strict=True)]
        account.rows += [use.row for use in uses]
        for use in uses:
            if not use.is_there:
                lost = account.lost.setdefault(f"{use.row['source']}/{use.row['shard']}", Lost())
                lost.rows, lost.why = lost.rows + 1, lost.why or use.row["error_message"]
        yield uses


def _blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and length of runs of pictures that fit in a block; one that is larger stands alone."""
    start = held = 0
    for index, size in enumerate(sizes):
        if held and held + size > _BLOCK:
            yield start, index - start
            start, held = index, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes) - start


def _pictures(root: Root, rows: Sequence[dict[str, Any]]) -> list[bytes | str]:
    """The bytes of each row's picture and of the tar's header before it, or why they cannot be read."""
    found: list[bytes | str] = [""] * len(rows)
    by_tar: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        by_tar.setdefault((row["source"], row["shard"]), []).append(index)
    for (source, number), indices in by_tar.items():
        ranges = [(rows[i]["offset"] - HEADER, rows[i]["size"] + HEADER) for i in indices]
        for index, data in zip(indices, _ranges(root, ranges, source, number), strict=True):
            found[index] = data
    return found


def _ranges(root: Root, ranges: list[tuple[int, int]], source: str, number: str) -> Sequence[bytes | str]:
    path = ("shards", source, f"{number}.tar")
    try:
        return root.read_ranges(ranges, *path)
    except ShardError as error:
        if len(ranges) == 1:
            # In words that are the same in every root.
            what = "is cut short" if error.__cause__ is None else "cannot be read"
            return [f"{'/'.join(path)} {what}"]
    # What lies before the damage can be had.
    return [data for one in ranges for data in _ranges(root, [one], source, number)]


def _use(row: dict[str, Any], found: bytes | str) -> Use:
    """A row of the manifest and its picture after a tar's header, or why there is none, as one use."""
    image, extension, reason, message = b"", "", "missing", found
    if isinstance(found, bytes):
        header, image = found[:HEADER], found[HEADER:]
        extension = _extension(image)
        if _size_in(header) != row["size"]:
            path = f"shards/{row['source']}/{row['shard']}.tar"
            message = f"{path} is not the one that the mixture was built from, or damaged"
        elif not extension:
            reason, message = "decode", f"no picture in its place: it starts with {image[:12]!r}"
        else:
            reason, message = "ok", ""
    account = {
        **{name: row[name] for name in ("uid", "repeat", "source", "shard")},
        "key": f"{row['uid']}-{row['repeat']}",
        "status": str(REASONS[reason][0]),
        "reason": reason,
        "error_message": message or None,
        "offset": None,
        "size": row["size"] if reason == "ok" else None,
    }
    return Use(account, row["caption"], image, extension) if reason == "ok" else Use(account, row["caption"])


def _size_in(header: bytes) -> int | None:
    """The size of the file that a tar's header announces; None for what is no header.

    A shard that was made anew has other files in the places that an older mixture names.
    """
    try:
        return int(header[124:136].strip(b"\0 "), 8)
    except ValueError:
        return None


def _extension(data: bytes) -> str:
    """A picture's ending by its first bytes; empty for what is none."""
    for place, magic, extension in _MAGIC:
        if data.startswith(magic, place):
            return extension
    return "jpg" if any(data.startswith(magic, place) for place, magic in _OTHERS) else ""
