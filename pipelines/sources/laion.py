"""LAION-400M: parquet with SAMPLE_ID, URL, TEXT, HEIGHT, WIDTH, LICENSE, NSFW, similarity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.errors import SchemaError
from pipelines.sources.captions import Recipe, joined, only
from pipelines.sources.files import open_dump
from pipelines.sources.rows import BATCH_ROWS, bad_rows, batches, decode, raw_rows

NEEDED = ("URL", "TEXT", "NSFW")
OPTIONAL = ("SAMPLE_ID", "LICENSE")


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file; SchemaError when a column that is needed is missing."""
    with open_dump(file) as stream:
        parquet = pq.ParquetFile(stream)
        present = parquet.schema_arrow.names
        missing = [column for column in NEEDED if column not in present]
        if missing:
            raise SchemaError(f"{file}: no column {', '.join(missing)}; it has {', '.join(present)}")
        columns = [*NEEDED, *(column for column in OPTIONAL if column in present)]
        start = 0
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            yield from _tables(name, start, batch)
            start += len(batch)


def _tables(name: str, start: int, batch: pa.RecordBatch) -> Iterator[pa.Table]:
    decoded = {column: decode(_binary(batch[column])) for column in batch.schema.names}
    good = np.logical_and.reduce([valid for _, valid in decoded.values()])
    text = {column: values.filter(pa.array(good)) for column, (values, _) in decoded.items()}
    number = start + np.arange(len(batch))
    rows = raw_rows(
        name,
        number[good],
        text["URL"],
        {"TEXT": text["TEXT"]},
        native_id=text.get("SAMPLE_ID"),
        license=text.get("LICENSE"),
        nsfw=text["NSFW"],
    )
    url, caption = (decoded[column][0].filter(pa.array(~good)) for column in ("URL", "TEXT"))
    broken = joined(url, caption)
    yield from batches(rows, bad_rows(name, number[~good], broken))


def _binary(column: pa.Array) -> pa.Array:
    """Any column as bytes, which Arrow does not take for UTF-8 before they are checked."""
    if pa.types.is_floating(column.type):  # identifiers that passed through pandas with nulls among them
        column = column.cast(pa.int64(), safe=False)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.string())
    return column.cast(pa.binary())


RECIPES: dict[str, Recipe] = {"TEXT": only("TEXT")}
