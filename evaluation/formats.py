"""Results in the forms of CLIP_benchmark and of DataComp, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from filters.errors import InputError

# DataComp's names of the sets whose main figure is not acc1, and of those that its average leaves out.
_MAIN = {
    "vtab/caltech101": "mean_per_class_recall",
    "fgvc_aircraft": "mean_per_class_recall",
    "vtab/flowers": "mean_per_class_recall",
    "vtab/pets": "mean_per_class_recall",
    "retrieval/flickr30k": "mean_recall@1",
    "retrieval/flickr_1k_test_image_text_retrieval": "mean_recall@1",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "mean_recall@1",
    "misc/winogavil": "jaccard_score_10-12",
    "wilds/iwildcam": "F1-macro_all",
    "wilds/fmow": "acc_worst_region",
    "fairness/dollar_street": "acc_top5_wg",
    "fairness/geode": "acc_wg",
}
_LEFT_OUT = ("fairness/fairface", "fairness/utkface")
SHIFTS = {  # DataComp's group of ImageNet's shifts
    "imagenet_sketch": "ImageNet Sketch",
    "imagenetv2": "ImageNet v2",
    "imagenet-a": "ImageNet-A",
    "imagenet-o": "ImageNet-O",
    "imagenet-r": "ImageNet-R",
    "objectnet": "ObjectNet",
}
TASKS = 38  # that DataComp's average needs, no more and no fewer


def clip_benchmark_record(
    dataset: str,
    model: str,
    pretrained: str,
    metrics: Mapping[str, float | None],
    task: str = "zeroshot_classification",
) -> dict[str, Any]:
    """One result as CLIP_benchmark writes it; a figure that says nothing (acc5 below five classes) is NaN there."""
    values = {key: math.nan if value is None else value for key, value in metrics.items()}
    head = {"dataset": dataset, "model": model, "pretrained": pretrained, "task": task}
    return {**head, "metrics": values, "language": "en"}


def clip_benchmark_name(record: Mapping[str, Any]) -> str:
    """The name that CLIP_benchmark gives a result's file by default."""
    dataset, model = (str(record[key]).replace("/", "_") for key in ("dataset", "model"))
    return f"{dataset}_{record['pretrained']}_{model}_{record['language']}_{record['task']}.json"


def read_clip_benchmark(path: Path) -> dict[str, Any]:
    """A result file of CLIP_benchmark; NaN becomes None. InputError for another file."""
    found = _json(path, path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"dataset", "model", "metrics"} <= found.keys():
        raise InputError(f"{path} is no result of CLIP_benchmark: it has no dataset, model and metrics")
    return {**found, "metrics": {key: _number(value) for key, value in found["metrics"].items()}}


def main_metric(key: str, metrics: Mapping[str, float | None]) -> float | None:
    """DataComp's figure for a set; None for the two that it does not count. InputError if it is not there."""
    if key in _LEFT_OUT:
        return None
    name = _MAIN.get(key, "acc1")
    if name not in metrics:
        raise InputError(f"{key}: DataComp counts {name}, and the result has {', '.join(sorted(metrics))}")
    return metrics[name]


def datacomp_line(task: str, dataset: str, metrics: Mapping[str, float | None]) -> str:
    """A line of DataComp's eval_results.jsonl."""
    with_main = {**metrics, "main_metric": main_metric(task, metrics)}
    values = {
        name: math.nan if value is None and name != "main_metric" else value for name, value in with_main.items()
    }
    return json.dumps({"key": task, "dataset": dataset, "metrics": values})


def read_datacomp(path: Path) -> dict[str, dict[str, float | None]]:
    """The metrics of each set, by key, of an eval_results.jsonl; the last line of a key counts, as for DataComp."""
    found: dict[str, dict[str, float | None]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        line = _json(path, text, number)
        if not isinstance(line, dict) or not isinstance(line.get("metrics"), dict) or "key" not in line:
            raise InputError(f"{path}: line {number} is no result of DataComp: it has no key and metrics")
        found[str(line["key"])] = {name: _number(value) for name, value in line["metrics"].items()}
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


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return float(value)


def _json(path: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: line {line} is no JSON ({error})") from error
