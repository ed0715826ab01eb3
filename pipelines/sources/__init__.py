"""The sources that can be ingested: a module each, and the list of them.

A reader yields tables of the schema RAW, one row for every record of its dump; nothing is dropped here. What
becomes of a row (no caption, declared NSFW, another language) is for ingest to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from filters.errors import ConfigError
from pipelines.sources import cc12m, datacomp, laion, redcaps, shutterstock, table, wit, yfcc
from pipelines.sources.captions import Recipe
from pipelines.sources.files import CODECS, named_files
from pipelines.store.schema import RAW


@dataclass(frozen=True, slots=True)
class Source:
    """How one source is read and which of its records it may give.

    `read_file(file, name)` yields the RAW tables of one file. `allowed_nsfw` and `allowed_languages` are the
    declared values that ingest keeps; None means that all are. Where a dump holds more than RAW does, `schema` has
    columns after RAW's, and `sidecars` makes feature tables of them by the name of their folder (the `folders`), row
    for row. `beside` gives the size in bytes of the file that belongs to a dump file, where there is one.
    """

    name: str
    read_file: Callable[[str, str], Iterator[pa.Table]]
    recipes: Mapping[str, Recipe]
    default_recipe: str
    patterns: tuple[str, ...]
    allowed_nsfw: frozenset[str] | None = None
    allowed_languages: frozenset[str] | None = None
    schema: pa.Schema = RAW.arrow
    folders: tuple[str, ...] = ()
    sidecars: Callable[[pa.Table], dict[str, pa.Table]] = lambda _rows: {}
    beside: Callable[[str], int | None] = lambda _file: None

    def read(self, files: Sequence[Path | str]) -> Iterator[pa.Table]:
        """RAW tables of at most 10,000 rows over all `files` (local or fsspec URLs), sorted by name.

        InputError for a file that cannot be read, SchemaError for one that is not of this source.
        """
        yield self.schema.empty_table()  # so that dumps without records are tables too
        for name, file in named_files(files):
            yield from self.read_file(file, name)

    def captions(self, table: pa.Table, recipe: str) -> pa.ChunkedArray:
        """The captions of a RAW table: list<string>, empty where the record has none; ConfigError for `recipe`."""
        if recipe not in self.recipes:
            known = ", ".join(self.recipes)
            raise ConfigError(f"{self.name}: no caption recipe {recipe!r}; its recipes are {known}")
        made = [self.recipes[recipe](batch) for batch in table.to_batches()]
        return pa.chunked_array(made, pa.list_(pa.string()))


def _packed(*patterns: str) -> tuple[str, ...]:
    return tuple(pattern + suffix for pattern in patterns for suffix in ("", *CODECS))


_ALL = (
    Source(
        "yfcc",
        yfcc.read_file,
        yfcc.RECIPES,
        "title+description",
        _packed("*.tsv", "yfcc100m_dataset", "yfcc100m_dataset-[0-9]"),
    ),
    Source(
        "laion",
        laion.read_file,
        laion.RECIPES,
        "TEXT",
        ("*.parquet", "parquet/*.parquet"),
        allowed_nsfw=frozenset({"UNLIKELY"}),
    ),
    Source("cc12m", cc12m.read_file, cc12m.RECIPES, "caption", _packed("*.tsv")),
    Source(
        "wit",
        wit.read_file,
        wit.RECIPES,
        "reference",
        _packed("*.tsv", "metadata/*.tsv"),
        allowed_languages=frozenset({"en"}),
    ),
    Source(
        "redcaps",
        redcaps.read_file,
        redcaps.RECIPES,
        "caption",
        _packed("*.json", "annotations/*.json", "annotations_shuffled/*.json"),
    ),
    Source("shutterstock", shutterstock.read_file, shutterstock.RECIPES, "caption", _packed("*.tsv", "*.csv")),
    Source(
        "table",
        partial(table.read_file, columns=table.Columns()),
        table.RECIPES,
        "first",
        ("*.parquet", *_packed("*.csv", "*.tsv", "*.jsonl", "*.ndjson", "*.json")),
    ),
    Source(
        "datacomp",
        datacomp.read_file,
        datacomp.RECIPES,
        "text",
        ("*.parquet", "metadata/*.parquet"),
        schema=datacomp.SCHEMA,
        folders=tuple(model.folder for model in datacomp.MODELS),
        sidecars=datacomp.sidecars,
        beside=datacomp.side_file_bytes,
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
