"""Tables for the tests of signal functions, and what all of these functions promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def embedding_table(present: Sequence[bool], width: int, chunk: int, seed: int = 0) -> pa.Table:
    """Rows with a uid and an L2-normalised fp16 `image_embedding`, null where not `present`, in chunks of `chunk`."""
    vectors = np.random.default_rng(seed).normal(size=(len(present), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return table_of([v if there else None for v, there in zip(vectors, present, strict=True)], width, chunk)


def table_of(vectors: Sequence[np.ndarray | Sequence[float] | None], width: int, chunk: int = 1000) -> pa.Table:
    """Rows with these embeddings, in chunks of `chunk` that are slices of larger arrays."""
    values = [None if v is None else [np.float16(x) for x in v] for v in vectors]
    whole = pa.array([[np.float16(0)] * width, *values], pa.list_(pa.float16(), width))
    uids = pa.array([f"{i:032x}" for i in range(len(values) + 1)])
    chunks = [slice(start, start + chunk) for start in range(1, len(whole), chunk)]
    return pa.table(
        {
            "uid": pa.chunked_array([uids[part] for part in chunks], pa.string()),
            "image_embedding": pa.chunked_array([whole[part] for part in chunks], whole.type),
        }
    )


def is_extended(found: pa.Table, table: pa.Table, added: dict[str, pa.DataType]) -> bool:
    """Whether `found` is `table`, row for row, with nothing but the `added` columns of these types behind it."""
    names = [*table.column_names, *added]
    return (
        found.column_names == names
        and found.select(table.column_names).equals(table)
        and all(found.schema.field(name).type == kind for name, kind in added.items())
        and found.num_rows == table.num_rows
    )
