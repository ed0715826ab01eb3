"""YFCC100M core table: headerless, 25 tab separated fields, texts URL-encoded, photos and videos.

The subset of 15 million that OpenAI published is a list of line numbers of this table.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.captions import Recipe, field, joined, lists, nonempty
from pipelines.sources.rows import Lines, raw_rows, tab_separated

WIDTH = 25
PHOTO_ID, TITLE, DESCRIPTION, USER_TAGS, DOWNLOAD_URL, LICENSE_NAME, LICENSE_URL, MARKER = 1, 8, 9, 10, 16, 17, 18, 24
VIDEO = "1"

BREAK = r"(?i)<(br|p|/p|div|/div|li|/li)\b[^<>]*>"
TAG = r"<[/!]?[A-Za-z][^<>]*>"  # a letter must follow, so that `<3` and `a < b` stay
ADDRESS = r"(?i)\b(https?://|www\.)[^\s<>()\[\]\"]+"
SPACE = r"[\s\p{Z}\p{Cc}]+"


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file of the core table."""
    return tab_separated(file, name, WIDTH, _rows)


def clean(text: pa.Array) -> pa.Array:
    """Flickr text as words: URL-decoded, without tags and addresses, entities resolved, white space collapsed.

    Null where nothing is left.
    """
    text = _each(unquote, pc.replace_substring(text, "+", " "))
    text = pc.replace_substring_regex(text, BREAK, " ")
    text = pc.replace_substring_regex(text, TAG, "")
    text = _each(html.unescape, text)  # after the tags: `&lt;b&gt;` is text
    text = pc.replace_substring_regex(text, ADDRESS, "")
    return nonempty(pc.utf8_trim_whitespace(pc.replace_substring_regex(text, SPACE, " ")))


def _each(function: Callable[[str], str], text: pa.Array) -> pa.Array:
    return pa.array([None if value is None else function(value) for value in text.to_pylist()], pa.string())


def _rows(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    return raw_rows(
        name,
        line,
        columns[DOWNLOAD_URL],
        {"title": columns[TITLE], "description": columns[DESCRIPTION], "usertags": columns[USER_TAGS]},
        native_id=columns[PHOTO_ID],
        license=pc.coalesce(nonempty(columns[LICENSE_NAME]), nonempty(columns[LICENSE_URL])),
        video=pc.equal(columns[MARKER], VIDEO),
    )


def _title(rows: pa.RecordBatch) -> pa.Array:
    return clean(field(rows, "title"))


def _description(rows: pa.RecordBatch) -> pa.Array:
    return clean(field(rows, "description"))


def _tags(rows: pa.RecordBatch) -> pa.Array:
    return clean(pc.replace_substring(field(rows, "usertags"), ",", ", "))


RECIPES: dict[str, Recipe] = {
    "title+description": lambda rows: lists(joined(_title(rows), _description(rows))),
    "title": lambda rows: lists(_title(rows)),
    "description": lambda rows: lists(_description(rows)),
    "title+description+tags": lambda rows: lists(joined(_title(rows), _description(rows), _tags(rows))),
    # both, as captions of their own, of which training draws one
    "sample_one": lambda rows: lists(_title(rows), _description(rows)),
}
