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
from pipelines.store.schema import RAW, SCORE_MAP, STRING_MAP

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
    scores: Mapping[str, pa.Array] | None = None,
    video: pa.Array | None = None,
    **declared: pa.Array | None,
) -> pa.Table:
    """A RAW table from string arrays of n rows each; `scores` are float64 arrays, `video` is boolean.

    `declared` are other columns of RAW by their names, null where they are left out or None. A record without an
    address is `bad_row`: nothing can be fetched for it, whatever else it says.
    """
    count = len(line)
    reason = pa.repeat(pa.scalar("ok"), count)
    if video is not None:
        reason = pc.if_else(pc.fill_null(video, False), "video", reason)
    reason = pc.if_else(pc.equal(pc.fill_null(pc.utf8_trim_whitespace(url), ""), ""), "bad_row", reason)
    given = {
        **declared,
        "file": pa.repeat(pa.scalar(name), count),
        "line": pa.array(line, pa.int64()),
        "url": url,
        "native_id": pc.fill_null(_or_nulls(declared.get("native_id"), count), ""),
        "caption_raw": maps(caption_raw, STRING_MAP) if caption_raw else None,
        "scores_declared": maps(scores, SCORE_MAP) if scores else None,
        "reason": reason,
    }
    columns = {field.name: _or_nulls(given.pop(field.name, None), count, field.type) for field in RAW.arrow}
    assert not given, f"no such columns: {sorted(given)}"
    return pa.table(columns, schema=RAW.arrow)


def _or_nulls(column: pa.Array | None, count: int, kind: pa.DataType | None = None) -> pa.Array:
    return pa.nulls(count, kind or pa.string()) if column is None else column


def bad_rows(name: str, line: Lines, raw: pa.Array) -> pa.Table:
    """A RAW table of records that could not be parsed; each keeps its text as read under the key `raw`."""
    return raw_rows(name, line, pa.nulls(len(line), pa.string()), {"raw": raw})


def maps(fields: Mapping[str, pa.Array], kind: pa.MapType) -> pa.Array:
    """Maps of n rows from k arrays of n rows; every row has the k keys in this order."""
    count, rows = len(fields), len(next(iter(fields.values())))
    items = pa.concat_arrays(list(fields.values()))
    keys = pa.array(list(fields), pa.string())
    if count > 1:
        items = items.take(pa.array(np.arange(count * rows).reshape(count, rows).T.ravel()))
    offsets = pa.array(np.arange(0, count * rows + 1, count), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys.take(pa.array(np.tile(np.arange(count), rows))), items).cast(kind)


def declared_hash(*columns: pa.Array) -> pa.Array:
    """`sha256:` or `md5:` and lower-case hex, by the length of each value; the first column that has one decides.

    Null for anything else: a hash of another kind verifies nothing.
    """
    found = []
    for column in columns:
        text = pc.ascii_lower(pc.utf8_trim_whitespace(column))
        for kind, length in (("sha256:", 64), ("md5:", 32)):
            is_hex = pc.match_substring_regex(text, rf"\A[0-9a-f]{{{length}}}\z")
            hashed = pc.binary_join_element_wise(kind, text, "")
            found.append(pc.if_else(is_hex, hashed, pa.scalar(None, pa.string())))
    return pc.coalesce(*found)


def declared_uid(column: pa.Array) -> pa.Array:
    """The values that can stand as uids, 32 lower-case hex characters; null for others."""
    return pc.if_else(pc.match_substring_regex(column, r"\A[0-9a-f]{32}\z"), column, pa.scalar(None, pa.string()))


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


def tab_separated(file: str, name: str, width: int, make: MakeRows, *, header: bool = False) -> Iterator[pa.Table]:
    """RAW tables of a file of `width` tab separated fields a line, in which quotes mean nothing.

    The first line is left out where it is a `header`. A line with another number of fields, or that is not UTF-8,
    is `bad_row`; a file of nothing but such lines is a SchemaError, because it is some other file.
    """
    start = 0
    for number_of_block, block in enumerate(line_blocks(file)):
        lines = _lines(block)
        if header and number_of_block == 0:
            lines = lines[1:]
        text, good = decode(lines)
        cells = pc.split_pattern(text, "\t")
        good &= pc.list_value_length(cells).to_numpy() == width
        if start == 0:
            _check_any(good, file, f"{width} tab separated fields")
        number = start + np.arange(len(lines))
        flat = (cells if good.all() else cells.filter(pa.array(good))).flatten()
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
