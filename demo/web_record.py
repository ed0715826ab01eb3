"""One planted record of the demo web, and the table of all of them: the ground truth.

A record says everything the rest of the demo web needs: where it stands in which dump, which picture its URL serves
and how the server misbehaves, and what the pipeline should make of it. It is the only hand-over between planning,
captions, dumps and server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from filters.published import published

# Which emoji style each source draws in: six sources, six hands.
STYLE_OF: dict[str, str] = {
    "yfcc": "noto",
    "laion": "twemoji",
    "cc12m": "openmoji",
    "wit": "fluent-emoji-flat",
    "redcaps": "fluent-emoji",
    "shutterstock": "emojione",
}
SOURCES: tuple[str, ...] = tuple(STYLE_OF)


@dataclass(slots=True)
class Record:
    """One row of a dump. Numbers of pixels are of the picture as first drawn, before a near-duplicate transform."""

    source: str
    file: str = ""
    line: int = 0
    url: str = ""
    native_id: str = ""
    license: str = ""
    plant: str = "clean"
    param: str = ""
    times: int = 0
    expected_status: str = ""
    expected_reason: str = ""
    style: str = ""
    concepts: list[str] = field(default_factory=list)
    true_name: str = ""
    caption: str | None = None
    caption_fields: dict[str, str | None] = field(default_factory=dict)
    caption_concepts: list[str] = field(default_factory=list)
    caption_swapped: bool = False
    caption_language: str = "en"
    nsfw_declared: str | None = None
    language_declared: str | None = None
    layout: str = "single"
    format: str = "jpeg"
    width: int = 0
    height: int = 0
    quality: int = 0
    picture_seed: int = 0
    seed: int = 0
    duplicate_of_source: str | None = None
    duplicate_of_url: str | None = None
    duplicate_kind: str | None = None
    near_transform: str | None = None
    near_strength: str | None = None
    near_scale: float | None = None
    near_crop: float | None = None
    near_quality: int | None = None
    leak_style: str | None = None
    leak_concept: str | None = None
    leak_kind: str | None = None


_TYPES: dict[str, pa.DataType] = {
    "line": pa.int64(),
    "times": pa.int32(),
    "concepts": pa.list_(pa.string()),
    "caption_fields": pa.map_(pa.string(), pa.string()),
    "caption_concepts": pa.list_(pa.string()),
    "caption_swapped": pa.bool_(),
    "width": pa.int32(),
    "height": pa.int32(),
    "quality": pa.int32(),
    "picture_seed": pa.int64(),
    "seed": pa.int64(),
    "near_scale": pa.float64(),
    "near_crop": pa.float64(),
    "near_quality": pa.int32(),
}
PLAN_SCHEMA = pa.schema([(f.name, _TYPES.get(f.name, pa.string())) for f in fields(Record)])


def to_table(records: Iterable[Record]) -> pa.Table:
    """The records as a table of schema `PLAN_SCHEMA`, in their order."""
    rows = []
    for record in records:
        row = asdict(record)
        row["caption_fields"] = list(record.caption_fields.items())
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def to_records(plan: pa.Table) -> list[Record]:
    """The rows of a plan as records, in their order; the inverse of `to_table`."""
    return [Record(**{**row, "caption_fields": dict(row["caption_fields"])}) for row in plan.to_pylist()]


def write_ground_truth(plan: pa.Table, path: Path) -> None:
    """Write the plan as parquet, whole or not at all."""
    with published(path) as writing:
        pq.write_table(plan, writing)
