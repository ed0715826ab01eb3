"""The rows of a mixture in flat files that are memory-mapped: their size is the disk's concern, not the memory's."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import InputError, SchemaError
from filters.sampling import sample_order
from trainer.batch import Index
from trainer.scratch import made, scratch_folder
from trainer.sorting import new_map, read_map, row_type, runs, write_sorted

COLUMNS = ("uid", "source", "shard", "offset", "size", "caption", "repeat")
# Where a picture lies: `size` bytes from `offset` of file number `file`. A record, so that a row is on one page.
PLACE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("file", "<i4"), ("source", "<i4")])
Places = npt.NDArray[np.void]

_UID = np.dtype([("hi", "<u8"), ("lo", "<u8")])
# Which of the `uses` of its uid a row is.
_USE = np.dtype([("turn", "<u4"), ("uses", "<u4")])
_NUMBER, _BYTE = np.dtype("<i8"), np.dtype("u1")
_BATCH = 1 << 16  # rows that are converted at a time: a row group of a manifest
_SCAN = 4096  # rows that are looked at in one go for the next one of a source


class Rows:
    """The rows of a mixture, in the manifest's order.

    `digest` names the mixture, `sources` and `files` are what a row's place refers to by number, `counts` int64 the
    rows of each source. Only pages that are read are in memory, and those are shared with other processes.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.folder = folder.parent
        self.digest = digest
        self.sources: list[str] = about["sources"]
        self.files: list[str] = about["files"]
        self.counts: Index = np.asarray(about["counts"], np.int64)
        self.places: Places = read_map(folder / "place", PLACE)
        self._uid = read_map(folder / "uid", _UID)
        self._text = read_map(folder / "text", _BYTE)
        self._text_end = read_map(folder / "text_end", _NUMBER)
        self._captions_end = read_map(folder / "captions_end", _NUMBER) if about["has_lists"] else None
        self._use = read_map(folder / "use", _USE) if about["has_repeats"] else None

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Index) -> Places:
        """Where these rows' pictures lie, and their sources: records of PLACE."""
        return self.places[rows]

    def uid(self, row: int) -> str:
        """The uid of a row, 32 hex characters."""
        high, low = self._uid[row].item()
        return f"{high:016x}{low:016x}"

    def keys(self, start: int, stop: int, salt: int) -> npt.NDArray[np.uint64]:
        """Keys of the rows [start, stop) for a shuffle, uint64: `sample_order(uid_lo, salt)`, and for repeats more.

        Row i of the k with one uid has (i + j) / k of 2**64 added, where j in 0..1/2 is its own draw. Sorted by key,
        the k rows lie 1/k of the whole apart, and at least half of that; without j the second k-th of an epoch would
        have the very batches of the first.
        """
        keys = sample_order(self._uid["lo"][start:stop], salt)
        if self._use is None:
            return keys
        turn, uses = (self._use[name][start:stop].astype(np.uint64) for name in ("turn", "uses"))
        span = np.uint64(2**64 - 1) // uses
        draws = sample_order(keys + turn, salt)
        jitter = ((draws >> np.uint64(32)) * (span >> np.uint64(32))) >> np.uint64(1)
        return keys + turn * span + np.where(uses > 1, jitter, np.uint64(0))

    def captions(self, rows: Index, draws: npt.NDArray[np.uint64]) -> list[str]:
        """A caption of each row; of several the one that `draws` uint64 [N], modulo their number, names."""
        first, last = _ranges(self._captions_end, rows)
        texts = first + (draws % (last - first).astype(np.uint64)).astype(np.int64)
        starts, ends = _ranges(self._text_end, texts)
        data = self._text
        return [data[start:end].tobytes().decode() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def following(self, row: int) -> Iterator[int]:
        """The other rows of this row's source: first those after it in order, then from the manifest's beginning."""
        source = self.places["source"]
        for first, last in ((row + 1, len(self)), (0, row)):
            for start in range(first, last, _SCAN):
                found = np.flatnonzero(source[start : min(start + _SCAN, last)] == source[row])
                yield from (found + start).tolist()


def open_rows(manifest: Path, scratch: Path | None = None) -> Rows:
    """The rows of a manifest, through files below `scratch` (None: the system's temporary folder).

    These are made at the first use, one row group in memory at a time, and found again by the manifest's SHA-256.
    Raises InputError for a manifest that cannot be read or is empty, SchemaError for one without its columns, or with
    nulls, negative places, or other uids than 32 hex characters.
    """
    try:
        with manifest.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{manifest} cannot be read as a manifest: {error.strerror}") from error
    return stored_rows(scratch_folder(scratch, digest), digest, functools.partial(read_manifest, manifest))


def stored_rows(folder: Path, digest: str, read: Any) -> Rows:
    """The rows below `folder`, which are made from the tables that `read()` gives if they are not there.

    The tables' columns: uid, source, file, offset, size, caption (a string, or a list of them), repeat.
    """
    return Rows(made(folder / "rows", lambda path: _write(path, read()), _is_whole), digest)


def _ranges(ends: Index | None, items: Index) -> tuple[Index, Index]:
    """Where the parts of each item begin and end; without `ends` each item is its own only part."""
    if ends is None:
        return items, items + 1
    return np.where(items > 0, ends[items - 1], 0), ends[items]


def read_manifest(path: Path) -> Iterator[pa.Table]:
    """A manifest's columns and `file`, the tar of each row, in tables of 65,536 rows; raises as `open_rows` does."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise SchemaError(f"{path} is no manifest: it has no column {', '.join(missing)}")
        if file.metadata.num_rows == 0:
            raise InputError(f"{path} holds no samples; build the mixture again with wider selections")
        for batch in file.iter_batches(batch_size=_BATCH, columns=list(COLUMNS)):
            table = pa.Table.from_batches([batch])
            _refuse_nulls(path, table)
            parts = [table[name].cast(pa.string()) for name in ("source", "shard")]
            tars = pc.binary_join_element_wise(*parts, "/")
            yield check(path, table.append_column("file", pc.binary_join_element_wise(tars, ".tar", "")))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a manifest: {' '.join(str(error).split())}") from error


def check(path: Path, table: pa.Table) -> pa.Table:
    """The table, if its values can be rows; SchemaError naming `path` if not."""
    _refuse_nulls(path, table)
    for name in ("offset", "size"):
        if pc.min(table[name]).as_py() < 0:
            raise SchemaError(f"{path} has numbers below 0 in {name}; build the mixture again")
    captions = table["caption"].type
    if pa.types.is_list(captions) or pa.types.is_large_list(captions):
        if pc.min(pc.list_value_length(table["caption"])).as_py() == 0:
            raise SchemaError(f"{path} has rows without a caption; leave them out with `where`")
    elif not (pa.types.is_string(captions) or pa.types.is_large_string(captions)):
        raise SchemaError(f"{path}: caption is {captions}; it should be a string, or a list of strings")
    if pc.any(pc.not_equal(pc.binary_length(table["uid"]), 32)).as_py():
        raise SchemaError(f"{path} has a uid that is not 32 hex characters")
    return table


def _refuse_nulls(path: Path, table: pa.Table) -> None:
    nulls = [name for name in table.column_names if table[name].null_count]
    captions = table["caption"]
    if not nulls and pa.types.is_nested(captions.type) and pc.list_flatten(captions).null_count:
        nulls = ["caption"]
    if nulls:
        raise SchemaError(f"{path} has nulls in {', '.join(nulls)}; build the mixture again")


@dataclass(slots=True)
class _Totals:
    """What was written so far."""

    rows: int = 0
    texts: int = 0
    bytes: int = 0
    repeats: int = 0


class _Names(dict[str, int]):
    """Numbers for texts in the order in which they come."""

    def encode(self, column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        codes = column.combine_chunks().dictionary_encode()
        numbers = [self.setdefault(name, len(self)) for name in codes.dictionary.to_pylist()]
        encoded: npt.NDArray[np.int32] = np.asarray(numbers, np.int32)[codes.indices.to_numpy()]
        return encoded


def _write(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Make the files of a mixture in `folder`, table by table; last the one that says what they hold."""
    folder.mkdir()
    sources, files, totals = _Names(), _Names(), _Totals()
    counts, has_lists = np.zeros(0, np.int64), False
    for table in tables:
        place = np.empty(len(table), PLACE)
        place["source"], place["file"] = sources.encode(table["source"]), files.encode(table["file"])
        place["offset"], place["size"] = table["offset"].to_numpy(), table["size"].to_numpy()
        found = np.bincount(place["source"], minlength=len(sources))
        counts = found + np.pad(counts, (0, len(found) - len(counts)))
        _append(folder / "place", place)
        _append(folder / "uid", _uids(table["uid"]))
        has_lists = _append_captions(folder, table["caption"], totals)
        totals.rows += len(table)
        totals.repeats = max(totals.repeats, pc.max(table["repeat"]).as_py())
    if totals.repeats:
        _write_uses(folder, totals.rows)
    about = {
        "sources": list(sources),
        "files": list(files),
        "counts": counts.tolist(),
        "has_lists": has_lists,
        "has_repeats": totals.repeats > 0,
        "bytes": {path.name: path.stat().st_size for path in folder.iterdir()},
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Whether all files are there in full; temporary folders are tidied by size and age, file by file."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in about["bytes"].items())
    except (OSError, ValueError, KeyError):
        return False


def _append(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("ab") as file:
        file.write(np.ascontiguousarray(array).view(np.uint8).data)


def _append_captions(folder: Path, column: pa.ChunkedArray, totals: _Totals) -> bool:
    """Write captions one after the other, and where each ends; whether they are lists."""
    is_list = bool(pa.types.is_nested(column.type))
    texts = pc.list_flatten(column) if is_list else column
    data, ends = _bytes(texts)
    _append(folder / "text", data)
    _append(folder / "text_end", ends + totals.bytes)
    if is_list:
        lengths = pc.list_value_length(column).to_numpy()
        _append(folder / "captions_end", np.cumsum(lengths, dtype=np.int64) + totals.texts)
    totals.texts += len(ends)
    totals.bytes += len(data)
    return is_list


def _bytes(texts: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint8], Index]:
    """The UTF-8 bytes of all texts one after the other, and where each ends in them."""
    array = pa.concat_arrays(texts.cast(pa.large_string()).chunks)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    held = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return held[ends[0] : ends[-1]], ends[1:] - ends[0]


def _uids(column: pa.ChunkedArray) -> npt.NDArray[np.void]:
    data, _ = _bytes(column)
    try:
        # Blanks would be skipped; 32 characters a uid were counted before.
        numbers = np.frombuffer(bytes.fromhex(data.tobytes().decode()), ">u8").reshape(len(column), 2)
    except ValueError as error:
        raise SchemaError(f"the manifest has a uid that is not 32 hex characters ({error})") from error
    uids = np.empty(len(column), _UID)
    uids["hi"], uids["lo"] = numbers[:, 0], numbers[:, 1]
    return uids


def _write_uses(folder: Path, count: int) -> None:
    """Number the rows of each uid in their order."""
    low = read_map(folder / "uid", _UID)["lo"]
    aside = folder / "by_uid"
    write_sorted(aside, count, lambda start, stop: sample_order(low[start:stop], 0))
    use = new_map(folder / "use", _USE, count)
    for rows, firsts in runs(read_map(aside, row_type(count)), lambda rows: low[rows]):
        uses = np.diff(np.append(firsts, len(rows)))
        found = np.empty(len(rows), _USE)
        found["turn"] = np.arange(len(rows)) - np.repeat(firsts, uses)
        found["uses"] = np.repeat(uses, uses)
        use[rows] = found
    aside.unlink()
