"""LAION-400M: parquet with SAMPLE_ID, URL, TEXT, HEIGHT, WIDTH, LICENSE, NSFW, similarity."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources import table
from pipelines.sources.captions import Recipe, only

# SAMPLE_ID, LICENSE and the numbers are known by their usual names, and may be missing.
COLUMNS = table.Columns(format="parquet", url="URL", captions=["TEXT"], nsfw="NSFW")


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file; SchemaError when a column that is needed is missing."""
    return table.read_file(file, name, COLUMNS)


RECIPES: dict[str, Recipe] = {"TEXT": only("TEXT")}
