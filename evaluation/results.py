"""What an evaluation writes: one JSON line a model in the source study's schema, and one table row a picture.

The fields of `Result` are those of the study's result file, the rest are additions. What has a default was added
after files had been written: older files, which lack it, are read all the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from filters.errors import InputError
from filters.published import published

ALL_CLASSES = "all"  # value of the column `concepts` where a set is scored among all of its own classes

IMAGES = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("task", pa.string()),
        pa.field("concepts", pa.string(), metadata={"meaning": "`all`, or the set whose classes are shared"}),
        pa.field("key", pa.string(), metadata={"meaning": "name of the picture in its set"}),
        pa.field("concept", pa.string(), metadata={"meaning": "the true class"}),
        pa.field("predicted", pa.string(), metadata={"meaning": "the class that scores highest"}),
        pa.field("n_classes", pa.int32()),
        pa.field("rank", pa.int32(), metadata={"meaning": "number of other classes that score higher"}),
        pa.field("ties", pa.int32(), metadata={"meaning": "number of other classes that score the same"}),
        pa.field("expected_accuracy", pa.float64(), metadata={"meaning": "exact expected k-way accuracy, 0 to 1"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One source of a training set: how many samples of it, drawn with which seed."""

    source: str
    n: int
    seed: int = 0
    shards: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Top-1 accuracy of `n` pictures, those of one class (then it is that class's recall) or of one domain.

    `low` and `high` are its exact 95 % interval (Clopper and Pearson 1934).
    """

    name: str
    n: int
    acc1: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One accuracy: `value` in 0 to 1 with its 95 % interval, over `n` pictures of `classes` classes.

    `low` and `high` are of `value`, by resampling pictures; `acc1_low` and `acc1_high` are the exact interval of
    `acc1` (Clopper and Pearson 1934). `ece` is the expected calibration error, 0 to 1. None: of an older version.
    """

    n: int
    classes: int
    value: float
    low: float
    high: float
    chance: float
    at_floor: bool
    acc1: float
    acc5: float | None
    mean_per_class_recall: float
    acc1_low: float | None = None
    acc1_high: float | None = None
    ece: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult(Figure):
    """A model's figure on one set; `reference` is the reference set's on the same classes, None for that set itself.

    For a shift, both figures are over the classes that it shares with the reference. `same_family` says that one of
    the model's sources was drawn by the artist of this set. `top1` is `acc1` under the study's name. `per_class` is
    in the order of the classes, `domain` the set's own label or its name.
    """

    protocol: str
    template_hash: str
    family: str
    same_family: bool
    reference: Figure | None = None
    top1: float | None = None
    domain: str = ""
    per_class: list[Part] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalResult:
    """Recall on a set of `n` pictures with `captions`, under CLIP_benchmark's names, 0 to 1, with 95 % intervals."""

    n: int
    captions: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What is known of a model before it is evaluated: its data and its training.

    `flags` say what is wrong with it, though it is kept: `barely converged` for one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    run_id: str
    kind: Literal["single", "input_mix", "output_mix", "filtered", "external"]
    components: list[Component] = field(default_factory=list)
    n_total: int = 0
    arch: str = ""
    epochs: float | None = None
    samples_seen: int | None = None
    batch: int | None = None
    lr: float | None = None
    seed: int | None = None
    filter: dict[str, str | float | None] | None = None
    ensemble: dict[str, str | list[float]] | None = None
    data_manifest_hash: str = ""
    code_version: str = ""
    model: str = ""
    families: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(RunInfo):
    """One line of the results file: the run, and its figures by set, the reference set first.

    `per_domain` has the pictures of all sets of a domain together, in the order of the sets.
    """

    eval: dict[str, SetResult]
    per_domain: list[Part] = field(default_factory=list)
    retrieval: dict[str, RetrievalResult] = field(default_factory=dict)


_RESULT = TypeAdapter(Result)


def to_json(result: Result) -> str:
    """`result` as one line of JSON; the same result gives the same bytes."""
    return _RESULT.dump_json(result).decode()


def from_json(line: str, where: str = "result") -> Result:
    """The result that `to_json` wrote; InputError naming `where`, the field and what is wrong with it."""
    try:
        return _RESULT.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "line"
        raise InputError(f"{where}: {place}: {first['msg']}") from error


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write a JSONL file, one result a line, whole or not at all."""
    publish(path, "".join(f"{to_json(result)}\n" for result in results).encode())


def read_results(path: Path) -> list[Result]:
    """The results in a JSONL file; InputError for a missing file or a line that is not one."""
    if not path.is_file():
        raise InputError(f"{path} is missing; evaluate a model first")
    return parse_results(path.read_bytes(), str(path))


def parse_results(data: bytes, where: str) -> list[Result]:
    """The results in the bytes of a JSONL file, `where` for messages; InputError for a line that is not one."""
    lines = data.decode().split("\n")  # `splitlines` also cuts at U+2028, which JSON may hold
    return [from_json(line, f"{where} line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def write_images(path: Path, table: pa.Table) -> None:
    """Write the table of single pictures (schema `IMAGES`) as parquet, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table.cast(IMAGES), buffer)
    publish(path, buffer.getvalue())


def read_images(path: Path) -> pa.Table:
    """The table that `write_images` wrote; InputError if it is missing or cannot be read."""
    try:
        return pq.read_table(path, schema=IMAGES)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a table of evaluated pictures: {error}") from error


def publish(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and its folder if that is missing."""
    with published(path) as writing:
        writing.write_bytes(data)
