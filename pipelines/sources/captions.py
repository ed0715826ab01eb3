"""Caption recipes: from the raw caption fields of a RAW table to the captions to train on."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# RAW rows → list<string> array of as many rows, an empty list where the record has no caption
Recipe = Callable[[pa.RecordBatch], pa.Array]


def field(rows: pa.RecordBatch, name: str) -> pa.Array:
    """One raw caption field as a string array; null where it is missing, empty or only white space."""
    return nonempty(pc.map_lookup(rows["caption_raw"], pa.scalar(name), "first"))


def nonempty(text: pa.Array) -> pa.Array:
    """`text` with null for what holds nothing but white space; other values are left as they are."""
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), pa.scalar(None, pa.string()), text)


def joined(*columns: pa.Array) -> pa.Array:
    """The columns' values in a row joined by one space, leaving out nulls; null where all are null."""
    # not `null_handling="skip"`: Arrow 26 leaves out rows that are null in every column
    return reduce(
        lambda left, right: pc.coalesce(pc.binary_join_element_wise(left, right, " "), left, right), columns
    )


def lists(*columns: pa.Array) -> pa.Array:
    """list<string> of n rows from k string arrays of n rows: in each row the values that are not null."""
    count, rows = len(columns), len(columns[0])
    by_row = np.arange(count * rows).reshape(count, rows).T.ravel()
    values = pa.concat_arrays(list(columns)).take(pa.array(by_row))
    present = values.is_valid().to_numpy(zero_copy_only=False).reshape(rows, count)
    offsets = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values.drop_null())


def each_text(rows: pa.RecordBatch) -> pa.Array:
    """All fields that have text, as captions of their own; records that are out have none."""
    fields = rows["caption_raw"]
    texts = pa.ListArray.from_arrays(fields.offsets, nonempty(fields.items))
    row = np.repeat(np.arange(len(rows)), pc.list_value_length(texts).to_numpy())
    values = pc.list_flatten(texts)
    present = values.is_valid().to_numpy(zero_copy_only=False) & pc.equal(rows["reason"], "ok").to_numpy(False)[row]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[present], minlength=len(rows)))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values.filter(pa.array(present)))


def first_text(rows: pa.RecordBatch) -> pa.Array:
    """The first field that has text."""
    return pc.list_slice(each_text(rows), 0, 1)


def joined_text(rows: pa.RecordBatch) -> pa.Array:
    """The fields that have text, joined."""
    return lists(nonempty(pc.binary_join(each_text(rows), " ")))


def only(name: str) -> Recipe:
    """The recipe that takes the field `name` as it is."""
    return lambda rows: lists(field(rows, name))


def first_of(*names: str) -> Recipe:
    """The recipe that takes the first of the fields that has text."""
    return lambda rows: lists(pc.coalesce(*(field(rows, name) for name in names)))


def all_of(*names: str) -> Recipe:
    """The recipe that joins the fields that have text."""
    return lambda rows: lists(joined(*(field(rows, name) for name in names)))
