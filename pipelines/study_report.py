"""The report of a study: a page of Markdown with its figures beside it, in `<root>/study/report/`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

import evaluation
from evaluation.plot_style import figure_png
from pipelines import study_tables as tables
from pipelines.study_config import StudyConfig
from pipelines.study_evidence import Evidence
from pipelines.study_figures import figures
from pipelines.study_folder import StudyFolder
from pipelines.study_guard import guard_text

PAGE = "README.md"


def write_report(folder: StudyFolder, config: StudyConfig, found: Evidence, state: Mapping[str, Any]) -> Path:
    """Write the page and its figures, those that changed; where the page is.

    `state` is the summary of `headwater study`, with `analysis`.
    """
    drawn = {name: figure for name, figure in figures(found, state["analysis"]) if figure is not None}
    for name, figure in drawn.items():
        _publish(folder, config, f"{name}.png", figure_png(figure, dpi=110))
    _publish(folder, config, PAGE, _page(config, found, state, set(drawn)).encode())
    return folder.local(config.report, PAGE)


def _publish(folder: StudyFolder, config: StudyConfig, name: str, data: bytes) -> None:
    place = (folder.name, config.report, name)
    if not (folder.root.exists(*place) and folder.root.read_bytes(*place) == data):
        folder.root.write_bytes(data, *place)


def _page(config: StudyConfig, found: Evidence, state: Mapping[str, Any], drawn: set[str]) -> str:
    analysis = state["analysis"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(evaluation.__file__).parent),
        autoescape=False, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    names = {f"{group} n{total}": name for name, (group, total) in found.cells.items()}
    environment.filters.update(cell=functools.partial(tables.cell, names=names))
    kinds = Counter(run.kind for run in found.runs)
    tally = Counter(one["verdict"] for one in analysis["claims"].values())
    return environment.get_template("study.md.j2").render(
        title=f"Study of {len(config.sources)} sources: {', '.join(config.sources)}",
        counts={kind: kinds.get(kind, 0) for kind in ("single", "input_mix", "filtered", "output_mix")},
        seen=config.train.samples_seen if config.epochs is None else f"{config.epochs:g} times its own",
        rate=state["choices"].get("rate", {}).get("chosen", config.train.lr),
        reference=config.reference,
        ways=config.ways,
        claims_path=config.claims,
        sha256=state.get("claims_sha256", "none"),
        amended=tables.amended(state),
        guard=guard_text(state["guard"]),
        claims=analysis["claims"],
        tally=", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.items())) or "No claims.",
        dominance=tables.dominance(analysis),
        ranking=tables.ranking(analysis),
        floor=tables.floor(analysis, len(found.runs)),
        drawn=drawn,
        **_rows(state, names),
    )


def _rows(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, list[Any]]:
    """The page's tables and lists; `names` of runs by group and size."""
    analysis = state["analysis"]
    found: dict[str, Iterator[Any]] = {
        "notes": tables.notes(state),
        "short": tables.short(analysis),
        "lines": tables.lines(analysis),
        "mixtures": tables.mixture_rows(analysis, names),
        "refused": tables.refused(analysis, names),
        "outputs": tables.rows(analysis, "output_less_input", {}),
        "filters": tables.filter_rows(analysis, names),
        "chosen": tables.chosen(analysis),
        "choices": tables.choices(state),
        "credit": tables.credit_rows(analysis),
        "agreement": tables.agreement(analysis),
        "predictors": tables.predictors(analysis),
        "proposals": tables.proposals(analysis),
    }
    return {name: list(rows) for name, rows in found.items()}
