"""RedCaps: JSON, `{"info": ..., "annotations": [...]}` as released, or the bare list that a shuffled copy holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ijson
import pyarrow as pa

from filters.errors import InputError, SchemaError
from pipelines.sources.captions import Recipe, only
from pipelines.sources.files import open_dump
from pipelines.sources.rows import Lines, Record, from_records, raw_rows

FIELDS = ("image_id", "url", "raw_caption", "caption", "subreddit")


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file; SchemaError when it is JSON of neither shape, InputError when it is no JSON."""
    return from_records(file, name, _records(file), len(FIELDS), _rows)


def _records(file: str) -> Iterator[Record]:
    """The annotations one by one: files are read as a stream, whatever their size."""
    count = 0
    path = _path(file)
    try:
        with open_dump(file) as stream:
            for annotation in ijson.items(stream, path):
                yield _record(annotation)
                count += 1
    except ijson.JSONError as error:
        raise _not_json(file, count, error) from error


def _path(file: str) -> str:
    """Where the annotations stand in the file, in ijson's notation."""
    try:
        with open_dump(file) as stream:
            for prefix, event, _ in ijson.parse(stream):
                if event == "start_array" and prefix in ("", "annotations"):
                    return f"{prefix}.item".lstrip(".")
    except ijson.JSONError as error:
        raise _not_json(file, 0, error) from error
    raise SchemaError(f"{file}: neither a list nor an object with the list `annotations`; is it a RedCaps file?")


def _not_json(file: str, count: int, error: ijson.JSONError) -> InputError:
    detail = error.args[0] if error.args else ""
    # yajl gives bytes when the place of the error is not UTF-8
    text = detail.decode("utf-8", "backslashreplace") if isinstance(detail, bytes) else str(detail)
    what = (text.splitlines() or ["broken"])[0]
    return InputError(f"{file}: not JSON after {count} records ({what}); check the file or fetch it again")


def _record(annotation: Any) -> Record:
    values = [annotation.get(name) for name in FIELDS] if isinstance(annotation, dict) else []
    if values and all(value is None or isinstance(value, str) for value in values):
        return [None if value is None else _unicode(value) for value in values], ""
    return None, _unicode(json.dumps(annotation, ensure_ascii=False, default=str))


def _unicode(text: str) -> str:
    """`text` with half surrogate pairs spelled out: JSON can hold them, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _rows(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    image_id, url, raw_caption, caption, subreddit = columns
    # the subreddit belongs to the text: RedCaps' own models put it before the caption
    texts = {"raw_caption": raw_caption, "caption": caption, "subreddit": subreddit}
    return raw_rows(name, line, url, texts, native_id=image_id)


RECIPES: dict[str, Recipe] = {"caption": only("caption")}
