"""Results to lines: effective robustness of models, and their sources against each other.

headwater robustness --root data --reference imagenet
headwater robustness --results table.csv --baseline std+low --against laion400m
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from evaluation.accuracies import ModelScores, joined, read_scores, set_name
from evaluation.baselines import default_models
from evaluation.lines import Insufficient
from evaluation.results import publish
from evaluation.robustness import Gap, SourceLine
from evaluation.robustness_plots import TITLES, data_efficiency, figure_png, source_panels
from evaluation.shift_study import ShiftStudy, study_shifts
from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.job import job_main, say
from pipelines.store.root import Root


class RobustnessConfig(JobConfig):
    """Whose accuracies, and how they are compared."""

    results: list[str] = Field(
        [],
        description="results files (.jsonl), tables (.csv), CLIP_benchmark's results (.json, or a folder of them) or "
        "DataComp's (eval_results.jsonl); all of <root>/results if empty",
    )
    reference: str = Field("imagenet", description="the set on the x axis")
    shifts: list[str] = Field([], description="the sets on the y axes; all others if empty")
    baseline: Literal["std", "std+low"] | None = Field(
        None, description="models trained on ImageNet to measure from; std+low if a model is below 55 %, else std"
    )
    axis: Literal["probit", "logit"] = Field("probit", description="axis on which lines are fitted")
    metric: Literal["acc1", "value"] = Field("acc1", description="of a results file: top-1 or its k-way accuracy")
    against: str | None = Field(None, description="the source that others are compared with; the first if not given")
    out: str | None = Field(None, description="folder for the figures; <root>/robustness if not given")


def run(config: RobustnessConfig) -> dict[str, Any]:
    """Fit each source's line, measure each model from the baseline, compare sources, draw figures."""
    scores, studies = collect(config)
    against = _against(config, studies)
    console = Console(width=160)
    for table in (lines_table(studies), gaps_table(studies, against), effective_table(studies)):
        if table.row_count:
            console.print(table)
    plots = write_plots(_out(config), scores, studies)
    for path in plots:
        say(f"robustness: {path}")
    used = next((s.baseline.set for s in studies if s.baseline), None)
    return {
        "job": "robustness",
        "models": len(scores),
        "axis": config.axis,
        "baseline": used,
        "against": against,
        "shifts": {study.shift: summary(study, against) for study in studies},
        "plots": [str(path) for path in plots],
    }


def plan(config: RobustnessConfig) -> dict[str, Any]:
    """Which models, sources and shifts would be compared."""
    scores, studies = collect(config)
    sources = list(dict.fromkeys(score.source for score in scores))
    return {"models": len(scores), "sources": sources, "shifts": [study.shift for study in studies]}


def collect(config: RobustnessConfig) -> tuple[list[ModelScores], list[ShiftStudy]]:
    """The models of all files, and a study of each shift; InputError where two models have one name."""
    scores = joined([score for path in _files(config) for score in read_scores(path, config.metric)])
    twice = [name for name, count in Counter(score.model for score in scores).items() if count > 1]
    if twice:
        raise InputError(f"two models are called {twice[0]}; give each its own name")
    reference = set_name(config.reference)
    below = [score.accuracy[reference] for score in scores if reference in score.accuracy]
    models = config.baseline or default_models(below)
    shifts = [set_name(name) for name in config.shifts]
    return scores, study_shifts(scores, reference, shifts=shifts, models=models, axis=config.axis)


def summary(study: ShiftStudy, against: str) -> dict[str, Any]:
    """One shift as JSON: lines, points of effective robustness, and each source against one of them."""
    found: dict[str, Any] = {"x": study.reference, "lines": {s: _line(line) for s, line in study.lines.items()}}
    if study.effective is not None:
        models = [score.model for score in study.scores]
        found["baseline"] = study.effective.baseline.name
        found["effective"] = dict(zip(models, study.effective.points.round(3).tolist(), strict=True))
        outside = zip(models, study.effective.extrapolated.tolist(), strict=True)
        found["extrapolated"] = [model for model, is_outside in outside if is_outside]
    others = [source for source in study.lines if source != against and against in study.lines]
    gaps = {source: study.gaps(source, against) for source in others}
    found["relative"] = {source: [_gap(g) for g in gap] for source, gap in gaps.items() if isinstance(gap, list)}
    return found


def write_plots(out: Path, scores: Sequence[ModelScores], studies: Sequence[ShiftStudy]) -> list[Path]:
    """`shifts.png`, and `data_efficiency.png` where sizes of training sets are known; the paths that were written."""
    made = {"shifts.png": source_panels(studies)}
    if len({score.size for score in scores if score.size}) > 1:
        sets = [studies[0].reference.split("-on-")[0], *(study.shift for study in studies)]
        made["data_efficiency.png"] = data_efficiency(scores, sets)
    for name, figure in made.items():
        publish(out / name, figure_png(figure))
    return [out / name for name in made]


def lines_table(studies: Iterable[ShiftStudy]) -> Table:
    """Each source's line on each shift, or why it has none."""
    table = _table("Lines", "shift", "x", "source", models=True, slope=True, interval=True, intercept=True, R2=True)
    table.add_column("")
    for study in studies:
        for source, line in study.lines.items():
            start = (TITLES.get(study.shift, study.shift), study.reference, source)
            if isinstance(line, Insufficient):
                table.add_row(*start, str(len(study.rows(source))), "", "", "", "", str(line))
                continue
            low, high = line.slope_interval()
            fit = line.line
            table.add_row(
                *start, str(fit.n), f"{fit.slope:.3f}", f"{low:.3f} to {high:.3f}", f"{fit.intercept:+.3f}",
                f"{fit.r2:.3f}",
            )  # fmt: skip
    return table


def gaps_table(studies: Iterable[ShiftStudy], against: str) -> Table:
    """Each source against one at the middle of their common range."""
    table = _table(f"Points above {against} at equal reference accuracy", "shift", "source", at=True, points=True,
                   interval=True)  # fmt: skip
    for study in studies:
        for source in study.lines:
            gaps = study.gaps(source, against) if against in study.lines and source != against else []
            if isinstance(gaps, list) and gaps:
                gap = gaps[len(gaps) // 2]
                interval = f"{gap.low:+.1f} to {gap.high:+.1f}"
                shift = TITLES.get(study.shift, study.shift)
                table.add_row(shift, source, f"{100 * gap.x:.1f} %", f"{gap.points:+.1f}", interval)
    return table


def effective_table(studies: Sequence[ShiftStudy]) -> Table:
    """Points of effective robustness, a row a model and a column a shift; `*` marks an extrapolated baseline."""
    known = [study for study in studies if study.effective is not None]
    models = list(dict.fromkeys((s.source, s.model) for study in known for s in study.scores))
    names = {TITLES.get(study.shift, study.shift): True for study in known}
    used = " and ".join(dict.fromkeys(s.effective.baseline.set for s in known if s.effective))
    table = _table(f"Effective robustness in points, from {used}; * beyond its models", "source", "model", **names)
    for source, model in models:
        table.add_row(source, model, *(_points(study, model) for study in known))
    return table


def _points(study: ShiftStudy, model: str) -> str:
    if study.effective is None:
        return ""
    row = next((i for i, score in enumerate(study.scores) if score.model == model), None)
    return (
        "" if row is None else f"{study.effective.points[row]:+.1f}{'*' if study.effective.extrapolated[row] else ''}"
    )


def _table(title: str, *texts: str, **numbers: bool) -> Table:
    table = Table(title=title, title_justify="left")
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _line(line: SourceLine | Insufficient) -> dict[str, Any]:
    if isinstance(line, Insufficient):
        return {"insufficient": line.reason}
    fit, (low, high) = line.line, line.slope_interval()
    numbers = {"slope": fit.slope, "slope_low": low, "slope_high": high, "intercept": fit.intercept, "r2": fit.r2}
    return {**{name: round(value, 5) for name, value in numbers.items()}, "models": fit.n}


def _gap(gap: Gap) -> dict[str, float]:
    return {
        "x": round(gap.x, 5),
        "points": round(gap.points, 3),
        "low": round(gap.low, 3),
        "high": round(gap.high, 3),
    }


def _files(config: RobustnessConfig) -> list[Path]:
    if config.results:
        return [Path(name) for name in config.results]
    root = Root(config.root)
    found = [root.local("results", name) for name in root.names("results", suffix=".jsonl")]
    if not found:
        raise InputError(f"{root.url}/results: no results yet; run `headwater evaluate`, or pass --results FILE")
    return found


def _against(config: RobustnessConfig, studies: Sequence[ShiftStudy]) -> str:
    """The source to compare with: the one asked for, or the first that has a line anywhere."""
    sources = list(dict.fromkeys(source for study in studies for source in study.lines))
    if config.against is not None:
        if config.against not in sources:
            raise InputError(f"no source {config.against!r}; there are {', '.join(sources)}")
        return config.against
    fitted = (s for s in sources if any(isinstance(study.lines.get(s), SourceLine) for study in studies))
    return next(fitted, sources[0])


def _out(config: RobustnessConfig) -> Path:
    return Path(config.out) if config.out is not None else Root(config.root).local("robustness")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater robustness`."""
    return job_main("robustness", RobustnessConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
