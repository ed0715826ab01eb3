"""Shutterstock: headerless, address and caption; tab separated without quoting, or comma separated with it.

The study's script reads tabs, its users speak of csv files: the first lines decide.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources.captions import Recipe, only
from pipelines.sources.cc12m import WIDTH, url_and_caption
from pipelines.sources.files import line_blocks
from pipelines.sources.quoted import quoted_records
from pipelines.sources.rows import from_records, tab_separated

SNIFF_LINES = 100


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file, whichever delimiter it uses."""
    if sniff_delimiter(file) == "\t":
        return tab_separated(file, name, WIDTH, url_and_caption)
    return from_records(file, name, quoted_records(file, ",", WIDTH), WIDTH, url_and_caption)


def sniff_delimiter(file: str) -> str:
    """A comma when more of the first lines hold a comma but no tab than hold a tab, else a tab."""
    lines = next(line_blocks(file), b"").split(b"\n")[:SNIFF_LINES]
    tabs = sum(b"\t" in line for line in lines)
    commas = sum(b"," in line and b"\t" not in line for line in lines)
    return "," if commas > tabs else "\t"


RECIPES: dict[str, Recipe] = {"caption": only("caption")}
