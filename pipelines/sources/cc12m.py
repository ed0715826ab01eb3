"""Conceptual 12M: headerless, two tab separated fields, address and caption."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources.captions import Recipe, only
from pipelines.sources.rows import Lines, raw_rows, tab_separated

WIDTH = 2


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file."""
    return tab_separated(file, name, WIDTH, url_and_caption)


def url_and_caption(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    """RAW rows of records that hold an address and a caption."""
    url, caption = columns
    return raw_rows(name, line, url, {"caption": caption})


RECIPES: dict[str, Recipe] = {"caption": only("caption")}
