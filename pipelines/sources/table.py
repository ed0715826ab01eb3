"""Any table of addresses and captions: parquet, csv, tsv, jsonl or JSON, with the columns' usual names known.

The usual names are those of LAION, COYO, DataComp, CC3M and SBU; others are told by configuration.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from filters.errors import InputError, SchemaError
from pipelines.sources.captions import Recipe, each_text, first_text, joined_text
from pipelines.sources.columnar import column_names, parquet_rows
from pipelines.sources.files import CODECS, plain_name
from pipelines.sources.objects import column_records, json_names, line_names, line_records, object_records
from pipelines.sources.quoted import quoted_records, text_lines
from pipelines.sources.rows import (
    Lines,
    MakeRows,
    declared_hash,
    declared_uid,
    from_records,
    raw_rows,
    tab_separated,
)
from pipelines.store.schema import BOXES

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".txt": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
           ".json": "json"}  # fmt: skip

# Column names in lower case, in the order in which they are tried.
USUAL: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "image_urls"),
    "caption": ("text", "caption", "captions", "alt_text"),
    "native_id": ("sample_id", "id", "image_id"),
    "uid": ("uid",),
    "license": ("license",),
    "nsfw": ("nsfw",),
    "language": ("language", "lang"),
    "face_bboxes": ("face_bboxes",),
}
NUMBER = r"\A[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\z"
USUAL_HASHES = ("sha256", "md5", "hash")
USUAL_SCORES = frozenset({
    "similarity", "aesthetic", "aesthetic_score", "punsafe", "pwatermark",  # LAION
    "clip_similarity_vitb32", "clip_similarity_vitl14", "nsfw_score_opennsfw2", "nsfw_score_gantman",  # COYO
    "watermark_score", "aesthetic_score_laion_v2", "num_faces",
    "clip_b32_similarity_score", "clip_l14_similarity_score",  # DataComp
    "width", "height", "original_width", "original_height",
})  # fmt: skip


class Columns(BaseModel):
    """Which columns of a table mean what; those not given are found by their usual names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["parquet", "csv", "tsv", "jsonl", "json"] | None = Field(
        None, description="what the files are; told by their names if not given"
    )
    names: list[str] | None = Field(None, description="the columns' names, for csv and tsv without a header line")
    quoted: bool | None = Field(None, description="whether fields may stand in quotes; true for csv, false for tsv")
    url: str | None = Field(None, description="address of the picture")
    captions: list[str] | None = Field(None, description="texts, the best first")
    native_id: str | None = Field(None, description="the source's own identifier")
    uid: str | None = Field(None, description="the source's own uid of 32 hex characters")
    license: str | None = Field(None, description="licence of the picture")
    nsfw: str | None = Field(None, description="NSFW tag")
    language: str | None = Field(None, description="language tag")
    hashes: list[str] | None = Field(None, description="SHA-256 or MD5 of the picture's bytes in hex, the best first")
    scores: list[str] | None = Field(None, description="numbers to keep")
    face_bboxes: str | None = Field(None, description="boxes around faces")


@dataclass(frozen=True, slots=True)
class Plan:
    """The columns of one file by what they mean."""

    url: str
    captions: tuple[str, ...]
    single: Mapping[str, str]  # column of RAW → column of the file
    hashes: tuple[str, ...]
    scores: tuple[str, ...]
    faces: str | None

    @property
    def text(self) -> list[str]:
        """The columns that are read as text."""
        return list(dict.fromkeys([self.url, *self.captions, *self.single.values(), *self.hashes]))

    @property
    def other(self) -> list[str]:
        """The columns that are not."""
        return [*self.scores, *([self.faces] if self.faces else [])]


def plan_for(file: str, present: Sequence[str], columns: Columns) -> Plan:
    """What each of the columns that are `present` is for; SchemaError for one that is named or needed and missing."""
    named = [*(columns.captions or ()), *(columns.hashes or ()), *(columns.scores or ())]
    named += [name for name in (getattr(columns, role) for role in USUAL if role != "caption") if name]
    missing = [name for name in named if name not in present]
    if missing:
        raise SchemaError(f"{file}: no column {', '.join(missing)}; it has {', '.join(present)}")
    lower = {name.lower(): name for name in reversed(present)}

    def usual(role: str) -> str | None:
        return next((lower[name] for name in USUAL[role] if name in lower), None)

    url = columns.url or usual("url")
    captions = columns.captions or [name for name in (usual("caption"),) if name]
    if url is None or not captions:
        what = "table.url=NAME" if url is None else "'table.captions=[NAME]'"
        raise SchemaError(f"{file}: which column is it? It has {', '.join(present)}; say --set {what}")
    roles = {"native_id": "native_id", "uid_declared": "uid", "license": "license", "nsfw_declared": "nsfw",
             "language_declared": "language"}  # fmt: skip
    single = {column: getattr(columns, role) or usual(role) for column, role in roles.items()}
    hashes = columns.hashes or [lower[name] for name in USUAL_HASHES if name in lower]
    scores = columns.scores or [name for name in present if name.lower() in USUAL_SCORES]
    faces = columns.face_bboxes or usual("face_bboxes")
    kept = {column: name for column, name in single.items() if name is not None}
    return Plan(url, tuple(captions), kept, tuple(hashes), tuple(scores), faces)


def read_file(file: str, name: str, columns: Columns) -> Iterator[pa.Table]:
    """RAW tables of one file, by the format that its name or `columns` says."""
    kind = columns.format or format_of(file)
    if kind == "parquet":
        plan = plan_for(file, column_names(file), columns)
        return parquet_rows(file, name, plan.text, plan.other, [plan.url, *plan.captions], partial(rows, plan))
    if kind in ("csv", "tsv"):
        return _delimited(file, name, columns, "," if kind == "csv" else "\t")
    return _json(file, name, columns, kind == "jsonl")


def format_of(file: str) -> str:
    """The format by the end of the name, without that of a compression; InputError for a name that does not tell."""
    stem, ending = posixpath.splitext(plain_name(file).lower())
    ending = posixpath.splitext(stem)[1] if ending in CODECS else ending
    if ending not in FORMATS:
        raise InputError(
            f"{file}: its name does not say what it is; say --set table.format=parquet, csv, tsv or jsonl"
        )
    return FORMATS[ending]


def rows(plan: Plan, name: str, line: Lines, columns: Mapping[str, pa.Array]) -> pa.Table:
    """RAW rows of n records from arrays by column: text as strings, the others as they are or as text."""
    single = {column: columns[of] for column, of in plan.single.items()}
    if "uid_declared" in single:
        single["uid_declared"] = declared_uid(single["uid_declared"])
    return raw_rows(
        name,
        line,
        columns[plan.url],
        {caption: columns[caption] for caption in plan.captions},
        scores={score: _numbers(columns[score]) for score in plan.scores},
        hash_declared=declared_hash(*(columns[of] for of in plan.hashes)) if plan.hashes else None,
        face_bboxes=_boxes(columns[plan.faces]) if plan.faces else None,
        **single,
    )


def _json(file: str, name: str, columns: Columns, is_lines: bool) -> Iterator[pa.Table]:
    present, is_columns = (line_names(file), False) if is_lines else json_names(file)
    plan = plan_for(file, present, columns)
    wanted = [*plan.text, *plan.other]
    if is_lines:
        records = line_records(file, wanted)
    else:
        records = column_records(file, wanted) if is_columns else object_records(file, wanted)
    return from_records(file, name, records, len(wanted), _by_name(plan, wanted))


def _delimited(file: str, name: str, columns: Columns, delimiter: str) -> Iterator[pa.Table]:
    line = next(text_lines(file), "").rstrip("\r\n")
    quoted = columns.quoted if columns.quoted is not None else delimiter == ","
    first = next(csv.reader([line], delimiter=delimiter), []) if quoted else line.split(delimiter)
    names = columns.names or _names_without_header(file, first)
    if names and len(names) != len(first):
        raise SchemaError(f"{file}: its first line has {len(first)} fields, table.names has {len(names)}")
    make = _by_name(plan_for(file, names or first, columns), names or first)
    if not quoted and delimiter == "\t":
        return tab_separated(file, name, len(first), make, header=names is None)
    records = quoted_records(file, delimiter, len(first))
    return from_records(file, name, islice(records, int(names is None), None), len(first), make)


def _names_without_header(file: str, first: Sequence[str]) -> list[str] | None:
    """Names for the columns of a file whose first line is a record already, as CC3M's; None where it is a header."""
    is_address = [text.startswith(("http://", "https://")) for text in first]
    if not any(is_address):
        return None
    if len(first) == 2 and is_address.count(True) == 1:
        return ["url" if address else "caption" for address in is_address]
    raise SchemaError(f"{file}: has no header line; name its {len(first)} columns: --set 'table.names=[url, ...]'")


def _by_name(plan: Plan, names: Sequence[str]) -> MakeRows:
    return lambda name, line, columns: rows(plan, name, line, dict(zip(names, columns, strict=True)))


def _numbers(column: pa.Array) -> pa.Array:
    """float64; null for text that is no number."""
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.match_substring_regex(text, NUMBER), text, pa.scalar(None, pa.string()))
    return column.cast(pa.float64())


def _boxes(column: pa.Array) -> pa.Array:
    """Lists of boxes, from such lists or from their JSON; null for text that is neither."""
    if pa.types.is_string(column.type):
        return pa.array([_parsed_boxes(text) for text in column.to_pylist()], BOXES)
    return column.cast(BOXES)


def _parsed_boxes(text: str | None) -> list[list[float]] | None:
    try:
        return [[float(number) for number in box] for box in json.loads(text or "null")]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


RECIPES: dict[str, Recipe] = {"first": first_text, "each": each_text, "joined": joined_text}
