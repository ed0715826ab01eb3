"""Records in JSON: an object a line, a list of objects, or an object of columns, each read as a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import ijson

from filters.errors import InputError, SchemaError
from pipelines.sources.files import open_dump
from pipelines.sources.quoted import text_lines
from pipelines.sources.rows import Record

SNIFF_OBJECTS = 1000  # a name that no object before this one has is not found


def line_names(file: str) -> list[str]:
    """The names that the first objects of a file of one object a line have."""
    return _names(value for value, _ in islice(_parsed_lines(file), SNIFF_OBJECTS))


def line_records(file: str, names: Sequence[str]) -> Iterator[Record]:
    """The fields `names` of each line; a line that is no JSON object is broken."""
    for value, line in _parsed_lines(file):
        yield record(value, names) if isinstance(value, dict) else (None, line)


def json_names(file: str) -> tuple[list[str], bool]:
    """The names of a JSON file's fields, and whether it is an object of columns instead of a list of objects."""
    with json_stream(file) as stream:
        events = ijson.parse(stream)
        _, event, _ = next(events)
        if event == "start_map":
            return [key for prefix, event, key in events if not prefix and event == "map_key"], True
    if event != "start_array":
        raise SchemaError(f"{file}: neither a list of objects nor an object of columns")
    with json_stream(file) as stream:
        return _names(islice(ijson.items(stream, "item"), SNIFF_OBJECTS)), False


def object_records(file: str, names: Sequence[str]) -> Iterator[Record]:
    """The fields `names` of each object in a list."""
    with json_stream(file) as stream:
        for value in ijson.items(stream, "item", use_float=True):
            yield record(value, names)


def column_records(file: str, names: Sequence[str]) -> Iterator[Record]:
    """The values at one place of the columns `names`; InputError where one column is shorter than another."""
    with ExitStack() as stack:
        columns = [
            ijson.items(stack.enter_context(json_stream(file)), f"{name}.item", use_float=True) for name in names
        ]
        try:
            for values in zip(*columns, strict=True):
                yield [_text(value) for value in values], ""
        except ValueError as error:
            raise InputError(f"{file}: its columns {', '.join(names)} are not of one length") from error


def record(value: Any, names: Sequence[str]) -> Record:
    """The fields `names` of one JSON object as text; anything else is a broken record."""
    if not isinstance(value, dict):
        return None, json_text(value)
    return [_text(value.get(name)) for name in names], ""


def unicode_text(text: str) -> str:
    """`text` with half surrogate pairs spelled out: JSON can hold them, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(value: Any) -> str:
    """`value` as JSON that UTF-8 can hold; empty where it is nested more deeply than Python can follow."""
    try:
        return unicode_text(json.dumps(value, ensure_ascii=False, default=str))
    except RecursionError:
        return ""


@contextmanager
def json_stream(file: str) -> Iterator[Any]:
    """`file` opened for a JSON parser; InputError, in one line, where it is not JSON."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # at a number longer than Python's limit, ijson 3.6 ends the process
    try:
        with open_dump(file) as stream:
            yield stream
    except ijson.JSONError as error:
        detail = error.args[0] if error.args else ""
        # yajl gives bytes when the place of the error is not UTF-8
        text = detail.decode("utf-8", "backslashreplace") if isinstance(detail, bytes) else str(detail)
        what = (text.splitlines() or ["broken"])[0]
        raise InputError(f"{file}: not JSON ({what}); check the file or fetch it again") from error
    finally:
        sys.set_int_max_str_digits(digits)


def _parsed_lines(file: str) -> Iterator[tuple[Any, str]]:
    """What each line holds and, where it is no object, the line."""
    for line in text_lines(file):
        text = ""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            text = line.rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        yield value, text


def _names(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return unicode_text(value) if isinstance(value, str) else json_text(value)
