"""RedCaps: JSON, `{"info": ..., "annotations": [...]}` as released, or the bare list that a shuffled copy holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ijson
import pyarrow as pa

from filters.errors import SchemaError
from pipelines.sources.captions import Recipe, only
from pipelines.sources.objects import json_stream, json_text, unicode_text
from pipelines.sources.rows import Lines, Record, from_records, raw_rows

FIELDS = ("image_id", "url", "raw_caption", "caption", "subreddit")


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file; SchemaError when it is JSON of neither shape, InputError when it is no JSON."""
    return from_records(file, name, _records(file), len(FIELDS), _rows)


def _records(file: str) -> Iterator[Record]:
    """The annotations one by one: files are read as a stream, whatever their size."""
    path = _path(file)
    with json_stream(file) as stream:
        for annotation in ijson.items(stream, path):
            yield _record(annotation)


def _path(file: str) -> str:
    """Where the annotations stand in the file, in ijson's notation."""
    with json_stream(file) as stream:
        for prefix, event, _ in ijson.parse(stream):
            if event == "start_array" and prefix in ("", "annotations"):
                return f"{prefix}.item".lstrip(".")
    raise SchemaError(f"{file}: neither a list nor an object with the list `annotations`; is it a RedCaps file?")


def _record(annotation: Any) -> Record:
    values = [annotation.get(name) for name in FIELDS] if isinstance(annotation, dict) else []
    if values and all(value is None or isinstance(value, str) for value in values):
        return [None if value is None else unicode_text(value) for value in values], ""
    return None, json_text(annotation)


def _rows(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    image_id, url, raw_caption, caption, subreddit = columns
    # the subreddit belongs to the text: RedCaps' own models put it before the caption
    texts = {"raw_caption": raw_caption, "caption": caption, "subreddit": subreddit}
    return raw_rows(name, line, url, texts, native_id=image_id)


RECIPES: dict[str, Recipe] = {"caption": only("caption")}
