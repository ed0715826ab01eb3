"""Accuracies of many models on a reference set and its shifts, from results files (also other tools') and CSV tables.

Sets are named `v2`, `r`, `sketch`, `objectnet`, `a` where they are ImageNet's shifts, under whatever name a tool
stored them, `val` where they are its validation set, and else as they came. `<reference>-on-<shift>` is the reference
on the shift's classes alone.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluation.formats import Row, is_benchmark_table, is_datacomp, read_rows
from evaluation.results import Component, Figure, Result, read_results
from filters.errors import InputError

Metric = Literal["acc1", "value"]

# Names under which the sets of ImageNet's family are stored, in small letters with `_` for all other signs.
_NAMES = {
    "val": ("val", "imagenet", "imagenet1k", "imagenet_1k", "imagenet_val", "in1k"),
    "v2": ("v2", "imagenetv2", "imagenet_v2", "imagenetv2_matched_frequency", "imagenet_v2_matched_frequency"),
    "r": ("r", "imagenet_r", "imagenetr"),
    "sketch": ("sketch", "imagenet_sketch"),
    "objectnet": ("objectnet", "objectnet_1_0_beta"),
    "a": ("a", "imagenet_a", "imageneta"),
}
_CANONICAL = {name: short for short, names in _NAMES.items() for name in names}
# Pictures of each set, for clipping and error bars where a table does not say.
IMAGES = {
    "val": 50_000, "v2": 10_000, "r": 30_000, "sketch": 50_889, "objectnet": 18_574, "a": 7_500,
    "val-on-r": 10_000, "val-on-objectnet": 6_250, "val-on-a": 10_000,
}  # fmt: skip
_COLUMNS = ("model", "source", "size", "pretrained")


@dataclass(frozen=True, slots=True)
class ModelScores:
    """One model: the source of its training data, how many samples of it (None: not known), accuracy 0 to 1 by set.

    `images` says how many pictures each accuracy is over, where that is known.
    """

    model: str
    source: str
    size: float | None
    accuracy: Mapping[str, float]
    images: Mapping[str, int] = field(default_factory=dict)


def set_name(name: str) -> str:
    """The short name of a set of ImageNet's family, any other name as it is."""
    plain = "".join(c if c.isalnum() else "_" for c in name.lower())
    if plain.startswith("wds_"):
        plain = plain.removeprefix("wds_").removesuffix("_test")
    return _CANONICAL.get(plain, name)


def on_classes(reference: str, shift: str) -> str:
    """The name of the reference on the shift's classes alone."""
    return f"{reference}-on-{shift}"


def from_results(results: Sequence[Result], metric: Metric = "acc1") -> list[ModelScores]:
    """Accuracies of evaluated models; `metric` is top-1 accuracy or the study's own figure, k-way accuracy.

    A set that has figures of the reference on its own classes gives these too.
    """
    found = []
    for result in results:
        figures: dict[str, Figure] = {set_name(name): figure for name, figure in result.eval.items()}
        references = [set_name(name) for name, figure in result.eval.items() if figure.reference is None]
        for name, figure in result.eval.items():
            if figure.reference is not None and references:
                figures[on_classes(references[0], set_name(name))] = figure.reference
        accuracy = {name: float(getattr(figure, metric)) for name, figure in figures.items()}
        images = {name: figure.n for name, figure in figures.items()}
        found.append(ModelScores(result.run_id, _source(result), _size(result), accuracy, images))
    return found


def read_csv(path: Path) -> list[ModelScores]:
    """A table with columns `model`, `source`, `size` (optional, may be empty) and an accuracy 0 to 1 for each set.

    A column `pretrained`, as open_clip's tables have it, becomes part of the model's name. An empty cell is an
    accuracy that is not known. InputError naming line and column for anything else.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        columns = list(reader.fieldnames or [])
        missing = [name for name in ("model", "source") if name not in columns]
        if missing:
            raise InputError(f"{path}: no column {' and '.join(missing)}; there are {', '.join(columns) or 'none'}")
        sets = [name for name in columns if name not in _COLUMNS]
        short = [set_name(name) for name in sets]
        if len(set(short)) < len(short):
            raise InputError(f"{path}: two columns are one set: {', '.join(sets)}")
        try:
            return [_row(row, sets, f"{path} line {reader.line_num}") for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} line {reader.line_num}: is not CSV ({error})") from error


def from_rows(rows: Sequence[Row]) -> list[ModelScores]:
    """Top-1 accuracies of other tools' results, a model's sets together; sets without one are left out.

    InputError for two results of one model on one set.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    images: dict[tuple[str, str], dict[str, int]] = {}
    sizes: dict[tuple[str, str], float | None] = {}
    for row in rows:
        if (value := row.metrics.get("acc1")) is None:
            continue
        model, name = (row.model, row.source), set_name(row.dataset)
        if name in found.setdefault(model, {}):
            raise InputError(f"{row.model} ({row.source}) has two results on {row.dataset}; keep one of them")
        found[model][name] = value
        sizes[model] = row.size
        if count := row.n or IMAGES.get(name):
            images.setdefault(model, {})[name] = count
    return [
        ModelScores(" ".join(dict.fromkeys(key)), key[1], sizes[key], accuracy, images.get(key, {}))
        for key, accuracy in found.items()
    ]


def joined(scores: Sequence[ModelScores]) -> list[ModelScores]:
    """The same with the sets of models that stand in several files together; models that share a set stay apart."""
    found: dict[tuple[str, str, float | None], ModelScores] = {}
    apart = []
    for score in scores:
        key = (score.model, score.source, score.size)
        known = found.get(key)
        if known is not None and known.accuracy.keys() & score.accuracy.keys():
            apart.append(score)
        elif known is not None:
            found[key] = ModelScores(*key, {**known.accuracy, **score.accuracy}, {**known.images, **score.images})
        else:
            found[key] = score
    return [*found.values(), *apart]


def read_scores(path: Path, metric: Metric = "acc1") -> list[ModelScores]:
    """A `.csv` table, a results file as `headwater evaluate` writes it, or what `evaluation.formats.read_rows` reads.

    `metric` is of our own results files; other tools' have top-1.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; evaluate models first, or name a CSV table")
    if path.is_dir() or path.suffix.lower() == ".json":
        found = from_rows(read_rows(path))
    elif path.suffix.lower() == ".csv":
        found = from_rows(read_rows(path)) if is_benchmark_table(path) else read_csv(path)
    else:
        found = from_rows(read_rows(path)) if is_datacomp(path) else from_results(read_results(path), metric)
    if not found:
        raise InputError(f"{path}: holds no models")
    return found


def _row(row: Mapping[str, str | None], sets: Sequence[str], where: str) -> ModelScores:
    if None in row or any(value is None for value in row.values()):
        raise InputError(f"{where}: has another number of cells than the first line")
    cells = {name: (value or "").strip() for name, value in row.items()}
    size = _number(cells.get("size", ""), f"{where}: size")
    accuracy = {set_name(name): _number(cells[name], f"{where}: {name}") for name in sets}
    for name, value in accuracy.items():
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{where}: {name} is {value:g}; accuracies are in 0 to 1, not in percent")
    known = {name: value for name, value in accuracy.items() if value is not None}
    if not cells["model"] or not cells["source"]:
        raise InputError(f"{where}: model and source must not be empty")
    model = " ".join(part for part in (cells["model"], cells.get("pretrained", "")) if part)
    images = {name: IMAGES[name] for name in known if name in IMAGES}
    return ModelScores(model, cells["source"], size, known, images)


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where} is {text!r}, expected a number") from error


def _source(result: Result) -> str:
    """`a`, or `a+b` for a mixture, with what else was done to the data: one label a kind of training set."""
    names = "+".join(sorted({component.source for component in result.components})) or result.model or "external"
    extra = {"output_mix": "ensemble", "filtered": "filtered"}.get(result.kind)
    ratio = _ratio(result.components) if result.kind in ("input_mix", "output_mix") else ""
    return " ".join(part for part in (names, ratio, extra) if part)


def _ratio(components: Sequence[Component]) -> str:
    """Shares of the sources in percent, in the order of their names: `25:75`."""
    total = sum(component.n for component in components) or 1
    shares: dict[str, int] = {}
    for component in components:
        shares[component.source] = shares.get(component.source, 0) + component.n
    return ":".join(f"{100 * shares[name] / total:.0f}" for name in sorted(shares))


def _size(result: Result) -> float | None:
    return float(result.n_total) if result.n_total else None
