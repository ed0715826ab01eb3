"""Columns of embeddings as arrays, checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import InputError, SchemaError

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def vectors(table: pa.Table, width: int, column: str = "image_embedding") -> tuple[Floats, Flags]:
    """The embeddings of a table that are there, float32 [n, `width`], and for each row whether it has one, bool [N].

    The column is a fixed-size list of float16 or float32. SchemaError if there is none, InputError for another width
    or for a number that is not finite, naming the first row.
    """
    if column not in table.column_names:
        raise SchemaError(f"a table with column `{column}` is needed, this one has {table.column_names}")
    kind = table.schema.field(column).type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{column}: is {kind}, expected a fixed-size list of floating-point numbers")
    if kind.list_size != width:
        raise InputError(f"{column}: has {kind.list_size} numbers a row, {width} are needed; is it of another model?")
    present = pc.is_valid(table[column]).to_numpy()
    flat = pa.chunked_array([chunk.flatten() for chunk in table[column].chunks], kind.value_type)
    found = flat.to_numpy().astype(np.float32).reshape(-1, width)
    # Nulls inside of a vector become NaN here, and fail with the rest.
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        row = int(np.flatnonzero(present)[bad[0]])
        name = f" (uid {table['uid'][row]})" if "uid" in table.column_names else ""
        raise InputError(f"{column}: {len(bad)} rows hold NaN or infinity, the first is row {row}{name}")
    return found, present


def spread(values: npt.NDArray[np.generic], present: Flags, kind: pa.DataType) -> pa.Array:
    """`values` [n] as a column [N] of type `kind`: in the rows that are `present`, null in the others."""
    filled = np.zeros(len(present), values.dtype)
    filled[present] = values
    return pa.array(filled, kind, mask=~present)
