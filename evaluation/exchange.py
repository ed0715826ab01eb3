"""Results given to other tools, and theirs taken in: the same rows whatever the form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from evaluation.accuracies import ModelScores, from_results, read_csv
from evaluation.formats import (
    CLIP_BENCHMARK_NAME,
    EVAL_RESULTS,
    RETRIEVAL,
    Row,
    clip_benchmark_name,
    clip_benchmark_record,
    datacomp_key,
    datacomp_line,
    is_benchmark_table,
    main_metric,
    read_rows,
)
from evaluation.results import Result
from filters.errors import InputError


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Our results as rows: CLIP_benchmark's metrics, intervals, k-way accuracy under its protocol's name, and ECE."""
    found = []
    for result, scores in zip(results, from_results(results), strict=True):
        for name, figure in result.eval.items():
            metrics = {
                "acc1": figure.acc1,
                "acc5": figure.acc5,
                "mean_per_class_recall": figure.mean_per_class_recall,
                "acc1_low": figure.acc1_low,
                "acc1_high": figure.acc1_high,
                figure.protocol: figure.value,
                "ece": figure.ece,
            }
            row = Row(
                model=result.run_id,
                source=scores.source,
                dataset=name,
                metrics=metrics,
                size=scores.size,
                n=figure.n,
            )
            found.append(row)
        found += [
            Row(
                model=result.run_id,
                source=scores.source,
                dataset=name,
                metrics=figures.metrics,
                task=RETRIEVAL,
                size=scores.size,
                n=figures.n,
            )
            for name, figures in result.retrieval.items()
        ]
    return found


def read_foreign(path: Path) -> list[Row]:
    """Results of CLIP_benchmark or DataComp, or a table (.csv) of accuracies; InputError for what is none of them."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir() or path.suffix.lower() != ".csv" or is_benchmark_table(path):
        return read_rows(path)
    return [
        Row(model=s.model, source=s.source, dataset=name, metrics={"acc1": value}, size=s.size, n=s.images.get(name))
        for s in read_csv(path)
        for name, value in s.accuracy.items()
    ]


def clip_benchmark_files(rows: Sequence[Row], out: str) -> dict[Path, str]:
    """A file a row, as CLIP_benchmark writes it: text by path.

    `out` is a folder, or a path that ends in .json and may hold CLIP_benchmark's {dataset}, {model}, {pretrained},
    {task} and {language}. InputError where two rows would be one file.
    """
    folder, template = (
        (Path(out).parent, Path(out).name) if out.endswith(".json") else (Path(out), CLIP_BENCHMARK_NAME)
    )
    found: dict[Path, str] = {}
    for row in rows:
        record = clip_benchmark_record(row.dataset, row.model, row.source, row.metrics, row.task)
        path = folder / clip_benchmark_name(record, template)
        if path in found:
            raise InputError(
                f"{path} would hold several results; name a folder, or put {{dataset}} and {{model}} in it"
            )
        found[path] = json.dumps(record) + "\n"
    return found


def datacomp_files(rows: Sequence[Row], out: str) -> tuple[dict[Path, str], list[str]]:
    """DataComp's eval_results.jsonl by path, in a folder a model if there are several, and what it will not count.

    `out` is a folder, or of a single model the file. A set that lacks the metric DataComp counts has a main metric of
    null, as those that it leaves out.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    if out.endswith(".jsonl") and len(models) > 1:
        raise InputError(f"{out} is one file and there are {len(models)} models; name a folder")
    found: dict[Path, str] = {}
    left_out = []
    for model in models:
        lines = []
        for row in rows:
            if row.model == model:
                key, metrics = datacomp_key(row.dataset), with_mean_recall(row)
                try:
                    main = main_metric(key, metrics)
                except InputError as error:
                    left_out.append(str(error))
                    main = None
                lines.append(datacomp_line(key, metrics, main) + "\n")
        path = Path(out) if out.endswith(".jsonl") else Path(out, *([model] if len(models) > 1 else []), EVAL_RESULTS)
        found[path] = "".join(lines)
    return found, list(dict.fromkeys(left_out))


def with_mean_recall(row: Row) -> dict[str, float | None]:
    """A row's metrics, with DataComp's figure of retrieval where both of its parts are there."""
    parts = [row.metrics.get(f"{side}_retrieval_recall@1") for side in ("image", "text")]
    known = [part for part in parts if part is not None]
    more = {"mean_recall@1": sum(known) / 2} if len(known) == 2 else {}
    return {**more, **{k: v for k, v in row.metrics.items() if k != "main_metric"}}


def csv_text(scores: Sequence[ModelScores]) -> str:
    """The table that `evaluation.accuracies.read_csv` reads: a row a model, a column a set."""
    sets = list(dict.fromkeys(name for score in scores for name in score.accuracy))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "source", "size", *sets])
    for score in scores:
        size = "" if score.size is None else f"{score.size:.0f}"
        writer.writerow([score.model, score.source, size, *(score.accuracy.get(name, "") for name in sets)])
    return out.getvalue()
