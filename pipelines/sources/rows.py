"""From the fields of a dump to tables of the schema RAW: one row for each record, broken ones included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import SchemaError
from pipelines.sources.files import line_blocks
from pipelines.store.schema import RAW, STRING_MAP

BATCH_ROWS = 10_000
SNIFF_ROWS = 10  # fewer broken records than this say nothing about the whole file

Lines = npt.NDArray[np.int64]
# name of the file, record numbers, one string array a field → a RAW table of as many rows
MakeRows = Callable[[str, Lines, list[pa.Array]], pa.Table]
# the fields of a record, or None when it is broken, and its text as read
Record = tuple[Sequence[str | None] | None, str]


def raw_rows(
    name: str,
    line: Lines,
    url: pa.Array,
    caption_raw: Mapping[str, pa.Array],
    *,
    native_id: pa.Array | None = None,
    license: pa.Array | None = None,
    nsfw: pa.Array | None = None,
    language: pa.Array | None = None,
    video: pa.Array | None = None,
) -> pa.Table:
    """A RAW table from string arrays of n rows each; `video` is boolean.

    A record without an address is `bad_row`: nothing can be fetched for it, whatever else it says.
    """
    nulls = pa.nulls(len(line), pa.string())
    reason = pa.array(["ok"] * len(line), pa.string())
    if video is not None:
        reason = pc.if_else(pc.fill_null(video, False), "video", reason)
    reason = pc.if_else(pc.equal(pc.fill_null(pc.utf8_trim_whitespace(url), ""), ""), "bad_row", reason)
    columns = {
        "file": pa.array([name] * len(line), pa.string()),
        "line": pa.array(line, pa.int64()),
        "url": url,
        "native_id": pa.array([""] * len(line), pa.string()) if native_id is None else pc.fill_null(native_id, ""),
        "caption_raw": string_maps(caption_raw),
        "license": nulls if license is None else license,
        "nsfw_declared": nulls if nsfw is None else nsfw,
        "language_declared": nulls if language is None else language,
        "reason": reason,
    }
    return pa.table(columns, schema=RAW.arrow)


def bad_rows(name: str, line: Lines, raw: pa.Array) -> pa.Table:
    """A RAW table of records that could not be parsed; each keeps its text as read under the key `raw`."""
    return raw_rows(name, line, pa.nulls(len(line), pa.string()), {"raw": raw})


def string_maps(fields: Mapping[str, pa.Array]) -> pa.Array:
    """map<string, string> of n rows from k string arrays of n rows; every row has the k keys in this order."""
    count, rows = len(fields), len(next(iter(fields.values())))
    by_row = np.arange(count * rows).reshape(count, rows).T.ravel()
    items = pa.concat_arrays(list(fields.values())).take(pa.array(by_row))
    keys = pa.array(list(fields) * rows, pa.string())
    offsets = pa.array(np.arange(0, count * rows + 1, count), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items).cast(STRING_MAP)


def decode(lines: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Binary lines as text, and which of them are UTF-8; in the others the wrong bytes are spelled out (`\\xff`)."""
    try:
        return lines.cast(pa.string()), np.ones(len(lines), bool)
    except pa.ArrowInvalid:
        raw = lines.to_pylist()
        text = [None if line is None else line.decode("utf-8", "backslashreplace") for line in raw]
        same = [after is None or after.encode() == line for line, after in zip(raw, text, strict=True)]
        return pa.array(text, pa.string()), np.array(same, bool)


def batches(good: pa.Table, bad: pa.Table) -> Iterator[pa.Table]:
    """The rows of both tables in the order of the file, at most `BATCH_ROWS` at a time."""
    table = good
    if len(bad):
        table = pa.concat_tables([good, bad])
        table = table.take(pc.sort_indices(table["line"])).combine_chunks()
    for start in range(0, len(table), BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)


def tab_separated(file: str, name: str, width: int, make: MakeRows) -> Iterator[pa.Table]:
    """RAW tables of a headerless file of `width` tab separated fields a line, in which quotes mean nothing.

    A line with another number of fields, or that is not UTF-8, is `bad_row`; a file of nothing but such lines is
    a SchemaError, because it is some other file.
    """
    start = 0
    for block in line_blocks(file):
        lines = _lines(block)
        text, good = decode(lines)
        cells = pc.split_pattern(text, "\t")
        good &= pc.list_value_length(cells).to_numpy() == width
        if start == 0:
            _check_any(good, file, f"{width} tab separated fields")
        number = start + np.arange(len(lines))
        flat = cells.filter(pa.array(good)).flatten()
        columns = [flat.take(pa.array(np.arange(field, len(flat), width))) for field in range(width)]
        bad = bad_rows(name, number[~good], text.filter(pa.array(~good)))
        yield from batches(make(name, number[good], columns), bad)
        start += len(lines)


def from_records(file: str, name: str, records: Iterable[Record], width: int, make: MakeRows) -> Iterator[pa.Table]:
    """RAW tables from single records; the fallback for formats that cannot be split as whole columns."""
    start, remaining = 0, iter(records)
    while batch := list(islice(remaining, BATCH_ROWS)):
        good = np.array([fields is not None for fields, _ in batch], bool)
        if start == 0:
            _check_any(good, file, f"the {width} fields of this source")
        flat = list(chain.from_iterable(fields for fields, _ in batch if fields is not None))
        columns = [pa.array(flat[field::width], pa.string()) for field in range(width)]
        raw = pa.array([text for fields, text in batch if fields is None], pa.string())
        number = start + np.arange(len(batch))
        yield from batches(make(name, number[good], columns), bad_rows(name, number[~good], raw))
        start += len(batch)


def _lines(block: bytes) -> pa.Array:
    lines = pc.split_pattern(pa.array([block], pa.binary()), b"\n").flatten()
    if block.endswith(b"\n"):
        lines = lines[:-1]
    return pc.replace_substring_regex(lines, rb"\r\z", b"") if b"\r" in block else lines


def _check_any(good: npt.NDArray[np.bool_], file: str, expected: str) -> None:
    if len(good) >= SNIFF_ROWS and not good.any():
        raise SchemaError(f"{file}: none of its first {len(good)} records has {expected}; is it of this source?")
