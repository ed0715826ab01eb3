"""Results: shown, looked into class by class, written for other tools, and read from them.

headwater results --root data
headwater results even --root data --per-class imagenet_r
headwater results even --root data --format datacomp --out even
headwater results --read theirs/eval_results.jsonl,benchmark --format csv --out theirs.csv
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from evaluation.accuracies import from_results, from_rows, joined
from evaluation.exchange import clip_benchmark_files, csv_text, datacomp_files, read_foreign, rows_of
from evaluation.formats import Row, datacomp_average, datacomp_key, shift_average
from evaluation.results import Part, Result, publish, read_results
from filters.errors import ConfigError, InputError
from pipelines.config import JobConfig
from pipelines.job import job_main, say
from pipelines.store.root import Root

# Metrics that the table shows where any result has them; the line of JSON has all.
_SHOWN = ("acc1", "acc5", "mean_per_class_recall", "image_retrieval_recall@1", "text_retrieval_recall@1",
          "image_retrieval_recall@5", "text_retrieval_recall@5", "ece", "main_metric")  # fmt: skip
_OLD = "written before results held classes and domains; run `headwater evaluate` again"


class ResultsConfig(JobConfig):
    """Which results, and what to do with them."""

    names: list[str] = Field(
        [],
        description="names of results (NAME, NAME+METHOD) or results files (.jsonl); all of <root>/results if empty",
    )
    read: list[str] = Field(
        [],
        description="other tools' results instead: CLIP_benchmark's .json, a folder of them or its benchmark.csv, "
        "DataComp's eval_results.jsonl or its folder, a table (.csv) of accuracies",
    )
    per_class: str | None = Field(None, description="a set: its classes one by one, of one result")
    per_domain: bool = Field(False, description="accuracy by domain, of each result")
    format: Literal["clip_benchmark", "datacomp", "csv"] | None = Field(
        None, description="write results in this form; csv is what `headwater robustness --results` reads"
    )
    out: str | None = Field(
        None, description="where to: a folder, or a file (of CLIP_benchmark with {dataset} and {model} in its name)"
    )


def run(config: ResultsConfig) -> dict[str, Any]:
    """Show results, one set or model a line; with --format write them, with --per-class look into one."""
    results, rows = collect(config)
    summary: dict[str, Any] = {"job": "results", "results": [_as_json(row) for row in rows]}
    if config.per_class is not None:
        result, classes = find_classes(results, config.per_class)
        _print(parts_table(f"{result.run_id} on {config.per_class}, worst first", "class", "recall", classes))
        summary["per_class"] = [_part(part) for part in classes]
    if config.per_domain:
        summary["per_domain"] = {}
        for result in results:
            domains = result.per_domain
            if not domains:
                raise InputError(f"{result.run_id}: {_OLD}")
            table = parts_table(f"{result.run_id} by domain", "domain", "acc1", domains, ordered=True)
            mean = sum(part.acc1 for part in domains) / len(domains)
            table.add_section()
            table.add_row("mean", "", "", f"{100 * mean:.1f}", "")
            _print(table)
            summary["per_domain"][result.run_id] = {"domains": [_part(part) for part in domains], "mean": mean}
    if config.per_class is None and not config.per_domain:
        _print(rows_table(rows))
    summary |= averages(rows)
    if config.format is not None:
        summary["written"] = _write(config, results, rows)
    return summary


def plan(config: ResultsConfig) -> dict[str, Any]:
    """Which models and sets there are."""
    rows = collect(config)[1]
    return {
        "models": list(dict.fromkeys(r.model for r in rows)),
        "sets": list(dict.fromkeys(r.dataset for r in rows)),
    }


def collect(config: ResultsConfig) -> tuple[list[Result], list[Row]]:
    """Our results that were asked for, or none and other tools' rows; ConfigError for what cannot go together."""
    if (config.format is None) != (config.out is None):
        raise ConfigError("format and out: to write results, give both --format and --out")
    if config.read:
        if config.names or config.per_class is not None or config.per_domain:
            raise ConfigError(
                "read: other tools' results have neither names here nor classes and domains; leave it out"
            )
        return [], [row for name in config.read for row in read_foreign(Path(name))]
    results = [result for path in _files(config) for result in read_results(path)]
    return results, rows_of(results)


def find_classes(results: Sequence[Result], name: str) -> tuple[Result, list[Part]]:
    """The one result and its set's classes; InputError where there are several, or no classes."""
    if len(results) != 1:
        raise InputError(f"per_class: {len(results)} results; name one: {', '.join(r.run_id for r in results)}")
    [result] = results
    if name not in result.eval:
        raise InputError(f"{result.run_id} has no set {name!r}; there is {', '.join(result.eval)}")
    if not result.eval[name].per_class:
        raise InputError(f"{result.run_id}: {_OLD}")
    return result, result.eval[name].per_class


def averages(rows: Sequence[Row]) -> dict[str, Any]:
    """DataComp's averages by model, of the models that have all the sets they are over."""
    found: dict[str, dict[str, float]] = {}
    for model in dict.fromkeys(row.model for row in rows):
        mine = {datacomp_key(row.dataset): row.metrics for row in rows if row.model == model}
        for title, average in (("average", datacomp_average), ("imagenet_shifts", shift_average)):
            try:
                found.setdefault(model, {})[title] = average(mine)
                say(f"results: {model}: DataComp's {title.replace('_', ' ')} {100 * found[model][title]:.2f}")
            except InputError:
                continue
    return {"datacomp": kept} if (kept := {model: values for model, values in found.items() if values}) else {}


def rows_table(rows: Sequence[Row]) -> Table:
    """A line a model and set."""
    shown = [name for name in _SHOWN if any(name in row.metrics for row in rows)]
    ways = list(dict.fromkeys(name for row in rows for name in row.metrics if name.startswith("expected_")))
    table = _table("Results in %; acc1 with its exact 95 % interval", "model", "source", "set", "n", *shown, *ways)
    for row in rows:
        cells = [_percent(row.metrics, name) for name in (*shown, *ways)]
        table.add_row(row.model, row.source, row.dataset, "" if row.n is None else str(row.n), *cells)
    return table


def parts_table(title: str, what: str, figure: str, parts: Sequence[Part], *, ordered: bool = False) -> Table:
    """A line a class or domain: count, accuracy and its interval; the worst first unless `ordered`."""
    table = _table(title, what, "pictures", "right", f"{figure} %", "95 % interval")
    for part in parts if ordered else sorted(parts, key=lambda part: part.acc1):
        interval = f"{100 * part.low:.1f} to {100 * part.high:.1f}"
        table.add_row(part.name, str(part.n), f"{part.acc1 * part.n:g}", f"{100 * part.acc1:.1f}", interval)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name in ("source", "set") else "right")
    return table


def _print(table: Table) -> None:
    Console(width=160).print(table)


def _percent(metrics: Mapping[str, float | None], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.1f}{interval}"


def _write(config: ResultsConfig, results: Sequence[Result], rows: Sequence[Row]) -> list[str]:
    out = str(config.out)
    if config.format == "csv":
        files = {Path(out): csv_text(joined([*from_results(results), *([] if results else from_rows(rows))]))}
    elif config.format == "clip_benchmark":
        files = clip_benchmark_files(rows, out)
    else:
        files, left_out = datacomp_files(rows, out)
        for line in left_out:
            say(f"results: {line}; its main metric is null")
    for path, text in files.items():
        publish(path, text.encode())
        say(f"results: {path}")
    return [str(path) for path in files]


def _files(config: ResultsConfig) -> list[Path]:
    root = Root(config.root)
    there = root.names("results", suffix=".jsonl")
    known = [name.removesuffix(".jsonl") for name in there]
    if not config.names:
        if not there:
            raise InputError(f"{root.url}/results: no results yet; run `headwater evaluate`, or pass --read FILE")
        return [root.local("results", name) for name in there]
    found = []
    for name in config.names:
        if name.endswith(".jsonl"):
            found.append(Path(name))
        elif name in known:
            found.append(root.local("results", f"{name}.jsonl"))
        else:
            raise InputError(f"{root.url}/results: no result {name!r}; there is {', '.join(known) or 'none yet'}")
    return found


def _as_json(row: Row) -> dict[str, Any]:
    return {"model": row.model, "source": row.source, "set": row.dataset, "n": row.n, "metrics": dict(row.metrics)}


def _part(part: Part) -> dict[str, Any]:
    return {"name": part.name, "n": part.n, "acc1": part.acc1, "low": part.low, "high": part.high}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater results`."""
    return job_main("results", ResultsConfig, run, plan, argv, bare="names")


if __name__ == "__main__":
    sys.exit(main())
