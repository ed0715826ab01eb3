"""Everything under a data root to one HTML page.

headwater report --root data --reference imagenet
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any, get_args

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from evaluation import report_data as page
from evaluation.methods import Method
from evaluation.report import render_report
from evaluation.report_plots import scatter_png
from evaluation.results import Result, parse_results
from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.evaluate import side_by_side
from pipelines.index import ledger
from pipelines.job import Account, job_main, say
from pipelines.lock import top_text
from pipelines.report_attributions import attributions, map_examples, map_tests, read_named
from pipelines.run_files import is_adapted
from pipelines.store import catalog
from pipelines.store.root import Root
from pipelines.store.schema import eval_column
from pipelines.store.shards import read_images
from pipelines.study_html import study_section

_BINS = 40


class TaskLabel(BaseModel):
    """How the report names an evaluation set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    role: str
    family: str = ""


class ReportConfig(JobConfig):
    """What the report shows beside what is in the catalog."""

    title: str = Field("Headwater report", description="title of the page")
    summary: str = Field("", description="one paragraph under the title")
    reference: str | None = Field(None, description="the evaluation set that plays the part of ImageNet")
    tasks: dict[str, TaskLabel] = Field({}, description="labels of the evaluation sets, in order")
    pictures: int = Field(8, ge=0, description="sample pictures a source")
    seed: int = Field(0, ge=0, description="seed of the choice of sample pictures")
    checks: str | None = Field(None, description="JSON file of checks and curve to show (found against planted)")
    methods_note: str = Field("", description="what is said of the test-time methods, as their settings")
    attributions: str | None = Field(
        None, description="fingerprint of the pictures by `headwater attribute` to show, 12 of them at most"
    )
    attributions_note: str = Field("", description="how the pairs of these pictures were chosen")
    map_tests: str | None = Field(
        None, description="JSON file of tests of attribution maps to show, an example beside it as .png"
    )
    study: str = Field("study/report", description="report of a study of sources to show, if it is there")
    credits: list[str] = Field([], description="lines of credit at the foot of the page")


class Findings(BaseModel):
    """What a checks file holds: found against planted, and the study of near duplicates."""

    model_config = ConfigDict(extra="forbid")

    checks: list[page.Check]
    study: page.Study | None = None


def run(config: ReportConfig) -> dict[str, Any]:
    """Write `<root>/report/index.html`, and its plot as `scatter.png`, from catalog, results and ledger."""
    root, account = Root(config.root), Account("report")
    data = collect(root, config)
    root.write_bytes(render_report(data).encode(), "report", "index.html")
    if data.results and len(data.tasks) > 1:
        root.write_bytes(scatter_png(data.results, data.tasks[1:], data.tasks[0]), "report", "scatter.png")
    account.extra["report"] = path = root.address("report", "index.html")
    say(f"report: {path}")
    return account.summary()


def plan(config: ReportConfig) -> dict[str, Any]:
    """Which sections the report would have."""
    data = collect(Root(config.root), config)
    return {"models": [result.run_id for result in data.results], "checks": len(data.checks)}


def collect(root: Root, config: ReportConfig) -> page.ReportData:
    """All sections as plain data; a section whose stage has not run is left empty."""
    everything = all_results(root)
    results = [result for result in everything if not is_adapted(result)]
    findings = _findings(config.checks)
    with catalog.connect(root) as con:
        return page.ReportData(
            title=config.title,
            summary=config.summary,
            account=_account(con),
            checks=findings.checks,
            near_duplicates=findings.study,
            signals=_signals(con),
            duplicates=_duplicates(con),
            overlaps=_overlaps(con, config),
            tasks=_tasks(config, results),
            results=results,
            methods=_methods(root, [result.run_id for result in everything]),
            methods_note=config.methods_note,
            mixtures=_mixtures(root),
            histograms=_histograms(con),
            galleries=_galleries(con, root, config),
            attributions=attributions(root, config.attributions) if config.attributions else [],
            attributions_note=config.attributions_note,
            map_tests=map_tests(config.map_tests) if config.map_tests else [],
            map_examples=map_examples(config.map_tests) if config.map_tests else None,
            source_study=study_section(root, *_folders(config.study)),
            stages=_stages(root),
            credits=config.credits,
            facts=_facts(con),
        )


def _folders(study: str) -> tuple[str, str]:
    folder, _, report = study.partition("/")
    return folder, report or "report"


def _findings(path: str | None) -> Findings:
    return Findings(checks=[]) if path is None else read_named("checks", path, Findings)


def all_results(root: Root) -> list[Result]:
    """Every result under the root: mixtures first, then single sources."""
    files = root.names("results", suffix=".jsonl")
    places = [("results", name) for name in files]
    found = [one for place in places for one in parse_results(root.read_bytes(*place), root.address(*place))]
    kinds = ["input_mix", "filtered", "single"]
    return sorted(found, key=lambda r: (kinds.index(r.kind) if r.kind in kinds else len(kinds), r.run_id))


def _account(con: duckdb.DuckDBPyConnection) -> page.Account:
    """Every record by source, status and reason; records in are counted before the rows are grouped."""
    rows = con.execute(
        "SELECT source::VARCHAR, status::VARCHAR, reason::VARCHAR, count(*) FROM samples GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    records = con.execute(
        "SELECT source::VARCHAR, count(DISTINCT uid) FROM attempts GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return page.Account(dict(records), [page.AccountLine(*row) for row in rows])


def _tasks(config: ReportConfig, results: Sequence[Result]) -> list[page.TaskInfo]:
    names = list(config.tasks) or sorted({name for result in results for name in result.eval})
    if config.reference is not None and config.reference not in names:
        raise InputError(
            f"reference {config.reference!r}: no result has such a set; there is {', '.join(names) or 'none'}"
        )
    if config.reference in names:
        names = [config.reference, *(name for name in names if name != config.reference)]
    plain = TaskLabel(label="", role="")
    labels = {name: config.tasks.get(name, plain) for name in names}
    return [page.TaskInfo(name, x.label or name, x.role or "shift", x.family) for name, x in labels.items()]


def _methods(root: Root, names: Sequence[str]) -> list[page.MethodFigure]:
    """What `MODEL+METHOD` has beside `MODEL`, set by set."""
    keys = ("difference", "low", "high", "p_holm")
    return [
        page.MethodFigure(model, method, task, row["zero_shot"]["n"], cell["value"], *map(cell.get, keys))
        for model in names
        if (methods := [method for method in get_args(Method) if f"{model}+{method}" in names])
        for task, row in side_by_side(root, model, ["zero_shot", *methods]).items()
        for method, cell in row.items()
    ]


def _mixtures(root: Root) -> list[page.Mixture]:
    mixtures = []
    for name in catalog.mixture_names(root):
        lock = root.read_json("mixes", name, "mix.lock.json")
        weights = {source["source"]: source["weight"] for source in lock["config"]["sources"]}
        sources = [
            page.MixtureSource(s["source"], weights[s["source"]], s["asked"], s["got"]) for s in lock["sources"]
        ]
        steps = [step for row in lock["attrition"] for step in _steps(row)]
        mixtures.append(page.Mixture(name, sources, steps, _note(lock)))
    return mixtures


def _note(lock: dict[str, Any]) -> str:
    """What a mixture's conditions are, and what its top fraction did to the shares of its sources."""
    wheres = {where for part in (lock["config"], *lock["config"]["sources"]) if (where := part["where"])}
    conditions = [f"Where {'; '.join(sorted(wheres))}." if wheres else ""]
    top = [f"{top_text(lock['top'])}." if lock.get("top") else ""]
    return " ".join(text[:1].upper() + text[1:] for text in conditions + top if text)


def _steps(row: dict[str, Any]) -> list[page.Attrition]:
    return [
        page.Attrition(row["source"], rule, before, after)
        for (_, before), (rule, after) in itertools.pairwise(row["steps"])
    ]


def _histograms(con: duckdb.DuckDBPyConnection) -> list[page.Histogram]:
    rows = con.execute(
        "SELECT source::VARCHAR, list(clip_score) FROM samples WHERE clip_score IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall()
    if not rows:
        return []
    everything = np.concatenate([scores for _, scores in rows])
    edges = np.linspace(everything.min(), everything.max() + 1e-6, _BINS + 1)
    return [page.Histogram(s, edges.tolist(), np.histogram(scores, edges)[0].tolist()) for s, scores in rows]


# What the report tells of each source's captions and pictures, as SQL conditions over `samples`.
_SIGNALS = {
    "caption in English": "language = 'en'",
    "caption is boilerplate": "caption_boilerplate",
    "caption holds a blocked phrase": "caption_blocked",
    "caption names an entry": "len(entries) > 0",
    "caption names a class": "text_based",
    "caption like an earlier one's": "caption_of IS NOT NULL",
    "picture in a cluster of the reference": "image_based",
    "called unsafe": "nsfw_score >= 0.5",
}


def _signals(con: duckdb.DuckDBPyConnection) -> list[page.SourceSignal]:
    """Shares over the downloaded pictures of each source; signals that nothing was computed for are left out."""
    shares = ", ".join(f"avg(({condition})::INTEGER)" for condition in _SIGNALS.values())
    rows = con.execute(
        f"SELECT source::VARCHAR, {shares} FROM samples WHERE status = 'success' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    found = [
        page.SourceSignal(source, name, share)
        for source, *each in rows
        for name, share in zip(_SIGNALS, each, strict=True)
    ]
    known = {signal.signal for signal in found if signal.share is not None}
    return [signal for signal in found if signal.signal in known]


def _duplicates(con: duckdb.DuckDBPyConnection) -> list[page.Tally]:
    rows = con.execute(
        "SELECT source::VARCHAR, kind::VARCHAR, count(*) FROM samples WHERE kind IS NOT NULL GROUP BY 1, 2 "
        "ORDER BY 1, 2"
    ).fetchall()
    return [page.Tally(source, kind.replace("_", " "), "", count) for source, kind, count in rows]


def _overlaps(con: duckdb.DuckDBPyConnection, config: ReportConfig) -> list[page.Tally]:
    """Pictures that each evaluation set holds, by source and kind; sets without any are shown as such."""
    labels = {eval_column(name): label.label for name, label in config.tasks.items()}
    prefix = eval_column("")
    columns = [name for name, *_ in con.execute("DESCRIBE samples").fetchall() if name.startswith(prefix)]
    tallies = []
    for column in columns:
        label = labels.get(column, column.removeprefix(prefix))
        rows = con.execute(
            f'SELECT source::VARCHAR AS s, "{column}"::VARCHAR AS k, count(*) FROM samples '
            f"WHERE status = 'success' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        tallies += [page.Tally(source, label, kind or "", count if kind else 0) for source, kind, count in rows]
    return tallies


def _galleries(con: duckdb.DuckDBPyConnection, root: Root, config: ReportConfig) -> list[page.Gallery]:
    """Pictures of each source in hash order: nobody chose them."""
    galleries = []
    for (source,) in con.execute("SELECT DISTINCT source::VARCHAR FROM samples ORDER BY 1").fetchall():
        rows = con.sql(
            'SELECT source::VARCHAR AS source, shard, "offset", size, caption, clip_score FROM samples '
            "WHERE source = ? AND status = 'success' ORDER BY sample_order(uid_lo, ?::UBIGINT), uid LIMIT ?",
            params=[source, config.seed, config.pictures],
        ).to_arrow_table()
        galleries.append(page.Gallery(source, _pictures(root, rows)))
    return galleries


def _pictures(root: Root, rows: pa.Table) -> list[page.Picture]:
    captions, scores = rows["caption"].to_pylist(), rows["clip_score"].to_pylist()
    notes = ["" if score is None else f"score {score:.2f}" for score in scores]
    return [page.Picture(*row) for row in zip(read_images(root, rows), captions, notes, strict=True)]


def _stages(root: Root) -> list[page.StageTime]:
    """Seconds by job, over the runs that did something."""
    stages: dict[str, tuple[float, int]] = {}
    for record in ledger(root):
        seconds, rows = stages.get(record["job"], (0.0, 0))
        stages[record["job"]] = (seconds + record["seconds"], rows + (record["rows_in"] or 0))
    return [page.StageTime(job, seconds, rows) for job, (seconds, rows) in stages.items()]


def _facts(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {"catalog snapshot": catalog.snapshot(con)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater report`."""
    return job_main("report", ReportConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
