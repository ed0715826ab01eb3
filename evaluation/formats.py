"""Results in the forms of CLIP_benchmark and of DataComp, written and read."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from filters.errors import InputError

SHIFTS = ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet")  # DataComp's group
TASKS = 38  # that DataComp's average needs, no more and no fewer
EVAL_RESULTS = "eval_results.jsonl"  # DataComp's name of its file, which lies in a folder a model
ZERO_SHOT, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"  # CLIP_benchmark's names of the tasks
CLIP_BENCHMARK_NAME = "{dataset}_{pretrained}_{model}_{language}_{task}.json"
_BESIDE = ("dataset", "model", "pretrained", "task", "language", "model_fullname")  # metrics in its table
_OLDER = {"retrieval/flickr30k": "mean_recall@1"}
_ALIASES = {"imagenet": "imagenet1k", "imagenetval": "imagenet1k"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model on one set, whatever tool measured it; a metric that says nothing is None.

    `source` is the model's training data, as far as the tool names it; `size` how many samples, `n` pictures.
    """

    model: str
    source: str
    dataset: str
    metrics: Mapping[str, float | None]
    task: str = ZERO_SHOT
    size: float | None = None
    n: int | None = None


@functools.cache
def datacomp_tasks() -> dict[str, tuple[str, str | None]]:
    """DataComp's 40 sets by key: the name, and the metric that its average counts (None: it leaves the set out)."""
    text = resources.files("evaluation").joinpath("data", "datacomp_tasks.csv").read_text(encoding="utf-8")
    return {row["key"]: (row["name"], row["main_metric"] or None) for row in csv.DictReader(text.splitlines())}


def datacomp_key(name: str) -> str:
    """DataComp's key of a set that is stored under its key, name or folder's name; other names as they are."""
    plain = _plain(name)
    for key, (title, _) in datacomp_tasks().items():
        if plain in (_plain(key), _plain(key.partition("/")[2]), _plain(title)) and plain:
            return key
    return _ALIASES.get(plain, name)


def _plain(name: str) -> str:
    """A set's name without signs, and without what CLIP_benchmark's names and folders have around it."""
    bare = "".join(c for c in name.lower() if c.isalnum())
    return bare.removeprefix("wds").removesuffix("test") if name.startswith("wds") else bare


def clip_benchmark_record(
    dataset: str,
    model: str,
    pretrained: str,
    metrics: Mapping[str, float | None],
    task: str = ZERO_SHOT,
) -> dict[str, Any]:
    """One result as CLIP_benchmark writes it; a figure that says nothing (acc5 below five classes) is NaN there."""
    values = {key: math.nan if value is None else value for key, value in metrics.items()}
    head = {"dataset": dataset, "model": model, "pretrained": pretrained, "task": task}
    return {**head, "metrics": values, "language": "en"}


def clip_benchmark_name(record: Mapping[str, Any], template: str = CLIP_BENCHMARK_NAME) -> str:
    """The name that CLIP_benchmark gives a result's file, by default or by a template; InputError for others."""
    fields = {
        key: str(record[key]).replace("/", "_") for key in ("dataset", "model", "pretrained", "task", "language")
    }
    try:
        return template.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{template}: the parts in braces may be {', '.join(fields)}") from error


def read_clip_benchmark(path: Path) -> dict[str, Any]:
    """A result file of CLIP_benchmark; NaN becomes None. InputError for another file."""
    found = _json(path, _text(path))
    if not isinstance(found, dict) or not {"dataset", "model"} <= found.keys() or not _has_metrics(found):
        raise InputError(f"{path} is no result of CLIP_benchmark: it has no dataset, model and metrics")
    return {**found, "metrics": _numbers(found["metrics"], str(path))}


def main_metric(key: str, metrics: Mapping[str, float | None]) -> float | None:
    """DataComp's figure for a set; None for the two that it does not count. InputError if it is not there."""
    name = datacomp_tasks()[key][1] if key in datacomp_tasks() else _OLDER.get(key, "acc1")
    if name is None:
        return None
    if name not in metrics:
        raise InputError(f"{key}: DataComp counts {name}, and the result has {', '.join(sorted(metrics))}")
    return metrics[name]


def datacomp_line(key: str, metrics: Mapping[str, float | None], main: float | None) -> str:
    """A line of DataComp's eval_results.jsonl."""
    values: dict[str, float | None] = {k: math.nan if value is None else value for k, value in metrics.items()}
    title = datacomp_tasks().get(key, (key, None))[0]
    return json.dumps({"key": key, "dataset": title, "metrics": {**values, "main_metric": main}})


def read_datacomp(path: Path) -> dict[str, dict[str, float | None]]:
    """The metrics of each set, by key, of an eval_results.jsonl; the last line of a key counts, as for DataComp."""
    found: dict[str, dict[str, float | None]] = {}
    for number, text in enumerate(_text(path).split("\n"), 1):
        if not text.strip():
            continue
        line = _json(path, text, number)
        if not isinstance(line, dict) or "key" not in line or not _has_metrics(line):
            raise InputError(f"{path}: line {number} is no result of DataComp: it has no key and metrics")
        found[str(line["key"])] = _numbers(line["metrics"], f"{path}: line {number}")
    return found


def datacomp_average(results: Mapping[str, Mapping[str, float | None]]) -> float:
    """DataComp's average over its 38 sets. InputError where there are more or fewer of them."""
    counted = [value for metrics in results.values() if (value := metrics.get("main_metric")) is not None]
    if len(counted) != TASKS:
        raise InputError(f"DataComp's average is over {TASKS} sets, here are {len(counted)}; evaluate the others")
    return float(np.mean(counted))


def shift_average(results: Mapping[str, Mapping[str, float | None]]) -> float:
    """DataComp's average over ImageNet's six shifts. InputError if one is missing."""
    missing = [key for key in SHIFTS if results.get(key, {}).get("main_metric") is None]
    if missing:
        raise InputError(f"the average over ImageNet's shifts lacks {', '.join(missing)}")
    return float(np.mean([results[key]["main_metric"] for key in SHIFTS]))


def is_datacomp(path: Path) -> bool:
    """Whether a file of JSON lines is one of DataComp's, by its first line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        found = json.loads(first)
    except ValueError:
        return False
    return isinstance(found, dict) and {"key", "metrics"} <= found.keys()


def is_benchmark_table(path: Path) -> bool:
    """Whether a CSV file is what `clip_benchmark build` makes: a line a result."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return {"dataset", "model", "pretrained", "task"} <= set(next(csv.reader(file), []))


def read_rows(path: Path) -> list[Row]:
    """The results in a file of CLIP_benchmark (.json, .csv) or of DataComp (.jsonl), or in a folder of such files.

    DataComp's file does not say which model it is about: that is the name of its folder. InputError for files of
    another kind, and a folder without any.
    """
    if path.is_dir():
        files = [path / EVAL_RESULTS] if (path / EVAL_RESULTS).is_file() else sorted(path.glob("*.json"))
        if not files:
            raise InputError(f"{path} holds neither {EVAL_RESULTS} nor *.json; name the folder that results are in")
        return [row for file in files for row in read_rows(file)]
    if path.suffix.lower() == ".csv":
        return _read_table(path)
    if path.suffix.lower() != ".json":
        model = path.resolve().parent.name
        return [Row(model=model, source=model, dataset=k, metrics=v) for k, v in read_datacomp(path).items()]
    found = read_clip_benchmark(path)
    return [_row(found, found["metrics"])]


def _read_table(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(csv.DictReader(_text(path).splitlines()), 1):
        cells = {name: cell for name, cell in line.items() if name not in _BESIDE and cell}
        try:
            metrics = _numbers({name: float(cell) for name, cell in cells.items()}, str(path))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: result {number} has a metric that is no number: {error}") from error
        rows.append(_row(line, metrics))
    return rows


def _row(about: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Row:
    return Row(
        model=str(about["model"]),
        source=str(about.get("pretrained") or "external"),
        dataset=str(about["dataset"]),
        metrics=metrics,
        task=str(about.get("task") or ZERO_SHOT),
    )


def _has_metrics(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("metrics"), dict)


def _numbers(metrics: Mapping[str, Any], where: str) -> dict[str, float | None]:
    """Metrics as numbers, NaN as None; InputError naming the one that is neither."""
    for name, value in metrics.items():
        if not isinstance(value, int | float | None):
            raise InputError(f"{where}: metric {name} is {value!r}, expected a number")
    return {name: None if v is None or math.isnan(v) else float(v) for name, v in metrics.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _json(path: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: line {line} is no JSON ({error})") from error
