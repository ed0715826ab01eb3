"""Which pictures are stored in different ways, so that near duplicates between them are missed; a run says so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.views import SQUARE


def mixed_modes(table: pa.Table) -> str | None:
    """What is missed between pictures stored as squares and as wholes, in one line; None where nothing is.

    `table` has `source`, `readable` and `aspect` (see `looks`). One source of squares was stored in one mode; two may
    differ.
    """
    table = table.filter(table["readable"])
    aspect = table["aspect"].to_numpy()
    squares, wholes = (_by_source(table, rows) for rows in (np.isnan(aspect), np.abs(np.log(aspect)) > SQUARE))
    if not squares or (not wholes and len(squares) == 1):
        return None
    return (
        f"of pictures that were not square, {_text(squares)} are stored as squares (center_crop or border), "
        f"{_text(wholes)} as wholes: copies stored in different ways are found only by equal bytes, pixels or "
        "embeddings"
    )


def _by_source(table: pa.Table, rows: npt.NDArray[np.bool_]) -> dict[str, int]:
    counts = table["source"].filter(pa.array(rows)).cast(pa.string()).value_counts()
    return dict(sorted((one["values"], one["counts"]) for one in counts.to_pylist()))


def _text(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} of {source}" for source, n in counts.items()) or "none"
