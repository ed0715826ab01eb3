"""Wikipedia-based Image Text: gzipped, tab separated, a header of 17 columns.

The files are written by a CSV writer: a field with a quote or a line end in it stands in quotes. Long texts of
`context_section_description` do hold line ends, so lines are not records here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from filters.errors import SchemaError
from pipelines.sources.captions import Recipe, all_of, first_of, only
from pipelines.sources.quoted import quoted_records, text_lines
from pipelines.sources.rows import Lines, Record, from_records, raw_rows

REFERENCE, ATTRIBUTION, ALT = (
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
)
FIELDS = ("language", "image_url", REFERENCE, ATTRIBUTION, ALT)


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file; SchemaError when its header lacks a column that is needed."""
    header = next(text_lines(file), "").rstrip("\r\n").split("\t")
    missing = [column for column in FIELDS if column not in header]
    if missing:
        raise SchemaError(f"{file}: its header has no column {', '.join(missing)}; is it a WIT file?")
    places = [header.index(column) for column in FIELDS]
    records = islice(quoted_records(file, "\t", len(header)), 1, None)
    picked: Iterator[Record] = (
        (None if fields is None else [fields[place] for place in places], text) for fields, text in records
    )
    yield from from_records(file, name, picked, len(FIELDS), _rows)


def _rows(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    language, url, reference, attribution, alt = columns
    texts = {REFERENCE: reference, ATTRIBUTION: attribution, ALT: alt}
    return raw_rows(name, line, url, texts, language_declared=language)


RECIPES: dict[str, Recipe] = {
    "reference": only(REFERENCE),
    "reference|alt": first_of(REFERENCE, ALT),
    "reference|attribution": first_of(REFERENCE, ATTRIBUTION),
    "concat": all_of(REFERENCE, ATTRIBUTION, ALT),
}
