"""Parquet files, batch by batch: the columns that a reader wants, as text that is known to be UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.captions import joined
from pipelines.sources.files import open_dump
from pipelines.sources.rows import BATCH_ROWS, Lines, bad_rows, batches, decode

# name of the file, record numbers, arrays by column → a RAW table of as many rows
MakeRows = Callable[[str, Lines, dict[str, pa.Array]], pa.Table]


def column_names(file: str) -> list[str]:
    """The names of a parquet file's columns; InputError when it is none."""
    with open_dump(file) as stream:
        return list(pq.read_schema(stream).names)


def parquet_rows(
    file: str, name: str, text: Sequence[str], other: Collection[str], shown: Sequence[str], make: MakeRows
) -> Iterator[pa.Table]:
    """RAW tables of a parquet file; `make` gets the `text` columns as strings and `other` ones as they are.

    A row with bytes in `text` that are not UTF-8 is `bad_row`; it keeps the `shown` ones, wrong bytes spelled out.
    """
    start = 0
    with open_dump(file) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(BATCH_ROWS, columns=[*text, *other]):
            decoded = {column: decode(_binary(batch[column])) for column in text}
            good = np.logical_and.reduce([valid for _, valid in decoded.values()])
            number = start + np.arange(len(batch))
            columns = {column: values for column, (values, _) in decoded.items()}
            columns |= {column: batch[column] for column in other}
            if not good.all():
                columns = {column: values.filter(pa.array(good)) for column, values in columns.items()}
            broken = joined(*(decoded[column][0].filter(pa.array(~good)) for column in shown))
            yield from batches(make(name, number[good], columns), bad_rows(name, number[~good], broken))
            start += len(batch)


def _binary(column: pa.Array) -> pa.Array:
    """Any column as bytes, which Arrow does not take for UTF-8 before they are checked."""
    if pa.types.is_floating(column.type):  # identifiers that passed through pandas with nulls among them
        column = column.cast(pa.int64(), safe=False)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.string())
    return column.cast(pa.binary())
