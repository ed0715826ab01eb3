"""Runs so far to the next mixture: a page for `headwater mix`, and a prediction that is stored before it is trained.

headwater advise --root data --target sketch --total 10M --constraint "reference>=0.30"
headwater advise --root data --name advised --measured
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BeforeValidator, Field

from evaluation.accuracies import Metric, joined, read_scores, set_name
from evaluation.advice import Advice, Limits, outcome, propose
from evaluation.draws import Estimate, Refusal, estimate, panel_of
from evaluation.halves import Half
from evaluation.lines import from_axis
from evaluation.points import Points, points_of, points_of_scores, together
from evaluation.predictors import PREDICTORS, LeftOut, leave_one_mixture_out
from evaluation.runs import Run
from filters.errors import ConfigError, InputError
from pipelines.config import JobConfig
from pipelines.draw import survey
from pipelines.job import job_main, say
from pipelines.mixture import Condition, MixConfig, MixSource
from pipelines.prediction import check_new, page_path, prediction_path, read_prediction, store_prediction
from pipelines.rules import find_rules
from pipelines.run_files import read_runs, run_files
from pipelines.store import catalog
from pipelines.store.root import Root
from pipelines.study_evidence import name_of

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kMB])")
_CONSTRAINT = re.compile(r"\s*(?P<set>\S+?)\s*>=\s*(?P<least>\d*\.?\d+)\s*")
_THOUSANDS = {"k": 10**3, "M": 10**6, "B": 10**9}


def _samples(value: Any) -> Any:
    """`10M` as a number."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return round(float(found[1]) * _THOUSANDS[found[2]]) if found else value


class AdviseConfig(JobConfig):
    """What is wanted of the next mixture, and what it must keep to."""

    target: str | None = Field(None, description="the shift to be good at: an evaluation set's name")
    total: Annotated[int | None, BeforeValidator(_samples)] = Field(
        None, ge=1, description="samples of the mixture; 10M is ten million"
    )
    constraint: list[str] = Field([], description='what must hold too: "reference>=0.30", an accuracy of 0 to 1')
    runs: list[str] = Field(
        [],
        description="results files (.jsonl, their .images.parquet beside), and tables or other tools' results as "
        "`headwater robustness` reads them; all of <root>/results if empty",
    )
    reference: str | None = Field(None, description="the reference set; the results' own if not given")
    metric: Metric | None = Field(
        None, description="expected k-way accuracy, or top-1; top-1 if other tools' results are among the runs"
    )
    rows: dict[str, int] = Field({}, description="samples that a source has, in place of what the catalog counts")
    exclude: list[str] = Field([], description="sources that a licence, or anything else, keeps out")
    where: Condition = Field(
        None, description="SQL condition over `samples` that the mixture gets, such as one on `license`"
    )
    max_repeats: int = Field(1, ge=1, description="times one sample may be used")
    predictor: str | None = Field(
        None, description=f"{', '.join(PREDICTORS)}; the one that errs least on mixtures left out if not given"
    )
    step: float = Field(0.05, gt=0, le=1, description="shares are multiples of this")
    seed: int = Field(0, ge=0, description="seed of the mixture")
    name: str = Field("advised", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the mixture")
    measured: bool = Field(False, description="report a stored prediction beside the result of the trained mixture")


def run(config: AdviseConfig) -> dict[str, Any]:
    """Propose a mixture, write its page and its prediction; with --measured, compare a stored one with its result."""
    root = Root(config.root)
    if config.measured:
        return _measured(root, config)
    check_new(root, config.name)
    halves = _read(root, config)
    limits = _limits(root, config, halves.choose.sources)
    advice, errors = _advised(halves, limits, config)
    mix = _mixture(config, advice, limits)
    prediction = {
        **halves.names,
        "advice": advice.as_json(),
        "errors": errors,
        "runs": list(halves.report.groups),
        "left_out": dict(halves.report.left_out),
        "mixture": mix.model_dump(),
        "version": importlib.metadata.version("headwater"),
    }
    page, stored = page_path(root, config.name), prediction_path(root, config.name)
    digest = store_prediction(root, config.name, mix, prediction)
    for line in _lines(advice, halves.names["target"]):
        say(f"advise: {line}")
    say(f"advise: {stored}: sha256 {digest}")
    say(f"advise: next: headwater mix --root {root.url} --config {page}")
    return {"job": "advise", "page": page, "prediction": stored, "sha256": digest, **advice.as_json()}


def plan(config: AdviseConfig) -> dict[str, Any]:
    """Which runs there are to learn from, and how many rows of each source."""
    root = Root(config.root)
    if config.measured:
        return {"prediction": prediction_path(root, config.name)}
    found = _read(root, config).choose
    rows = dict(_limits(root, config, found.sources).rows)
    return {"runs": list(found.groups), "left_out": dict(found.left_out), "rows": rows}


class _Halves(NamedTuple):
    """The points to choose on and those to report on, the runs behind them, and what target, reference and metric
    are called."""

    choose: Points
    report: Points
    runs: list[Run]
    names: dict[str, str]


def _read(root: Root, config: AdviseConfig) -> _Halves:
    if config.target is None or config.total is None:
        raise ConfigError("target and total: name the shift to be good at, and the samples of the mixture")
    own, others = run_files(root, config.runs)
    if others and config.metric == "value":
        raise ConfigError("metric: other tools' results have no k-way accuracy; leave it out, or use acc1")
    metric: Metric = config.metric or ("acc1" if others else "value")
    runs, names, lacking = read_runs(own, config.target, config.reference, metric)
    scores = joined([score for path in others for score in read_scores(path)])
    found = []
    for half in get_args(Half):
        parts = [points_of(panel_of(runs, names["target"], names["reference"], half=half))] if runs else []
        if scores:
            parts.append(points_of_scores(scores, set_name(names["target"]), set_name(names["reference"])))
        points = functools.reduce(together, parts)
        found.append(replace(points, left_out={**points.left_out, **lacking}))
    return _Halves(found[0], found[1], runs, {**names, "metric": metric})


def _limits(root: Root, config: AdviseConfig, sources: Sequence[str]) -> Limits:
    """Rows are those that the mixture's own rules leave: no duplicates, no evaluation pictures, `where`."""
    assert config.total is not None
    rows = dict(config.rows)
    asked = [source for source in sources if source not in rows and source not in config.exclude]
    if asked and root.exists(catalog.FILE):
        with catalog.connect(root) as con:
            there = {name for (name,) in con.execute("SELECT DISTINCT source FROM samples").fetchall()}
            known = [MixSource(source=source) for source in asked if source in there]
            if known:
                mix = MixConfig(name=config.name, total=config.total, where=config.where, sources=known)
                rows |= {part.source: part.there for part in survey(con, find_rules(con, mix)).parts}
        rows |= {source: 0 for source in asked if source not in there}
    least = max((_least_reference(text, config.reference) for text in config.constraint), default=0.0)
    return Limits(
        total=config.total, rows=rows, max_repeats=config.max_repeats, excluded=frozenset(config.exclude),
        least_reference=least,
    )  # fmt: skip


def _least_reference(text: str, reference: str | None) -> float:
    found = _CONSTRAINT.fullmatch(text)
    if found is None or found["set"] not in ("reference", reference) or not 0 <= float(found["least"]) <= 1:
        raise ConfigError(f'constraint: {text!r} is none; write "reference>=0.30", an accuracy of 0 to 1')
    return float(found["least"])


def _advised(halves: _Halves, limits: Limits, config: AdviseConfig) -> tuple[Advice, Any]:
    """The advice, and each predictor's error on mixtures left out, or why that is not known."""
    chosen_on, reported_on = (leave_one_mixture_out(points) for points in (halves.choose, halves.report))
    name = config.predictor or _least(chosen_on)
    if name not in PREDICTORS:
        raise ConfigError(f"predictor: {name!r} is not known; use {', '.join(PREDICTORS)}")
    spread = reported_on.spread.get(name) if isinstance(reported_on, LeftOut) else None
    found = propose(name, PREDICTORS[name], halves.choose, halves.report, limits, spread=spread, step=config.step)
    if isinstance(found, Refusal):
        raise InputError(f"no advice by the {name}: {found}")
    if isinstance(reported_on, Refusal):
        return found, str(reported_on)
    errors = {key: _plain(error) for key, error in reported_on.error.items()}
    less = {f"{one} less {other}": _plain(error) for (one, other), error in reported_on.less.items()}
    return found, {"probits": errors, "paired": less}


def _least(found: LeftOut | Refusal) -> str:
    """The predictor with the least error, or the one that needs no mixtures."""
    if isinstance(found, Refusal):
        return next(iter(PREDICTORS))
    errors = {name: error.value for name, error in found.error.items() if isinstance(error, Estimate)}
    return min(
        (name for name in PREDICTORS if name in errors), key=errors.__getitem__, default=next(iter(PREDICTORS))
    )


def _mixture(config: AdviseConfig, advice: Advice, limits: Limits) -> MixConfig:
    """Weights are the samples of each source, divided by what they have in common."""
    counts = {name: math.floor(share * advice.total + 1e-6) for name, share in advice.shares.items()}
    for name in itertools.cycle(counts):
        if sum(counts.values()) >= advice.total:
            break
        most = limits.rows.get(name, advice.total) * limits.max_repeats
        counts[name] += counts[name] < most
    common = math.gcd(*counts.values())
    return MixConfig(
        name=config.name,
        seed=config.seed,
        total=advice.total,
        where=config.where,
        on_shortage="repeat" if config.max_repeats > 1 else "error",
        sources=[
            MixSource(source=name, weight=count // common, max_repeats=config.max_repeats)
            for name, count in counts.items()
            if count
        ],
    )


def _measured(root: Root, config: AdviseConfig) -> dict[str, Any]:
    """A prediction beside what the trained mixture reached, on the same half of the concepts."""
    stored = read_prediction(root, config.name)
    asked = config.model_copy(update={
        "target": stored["target"], "reference": stored["reference"], "metric": stored["metric"],
        "total": stored["mixture"]["total"],
    })  # fmt: skip
    halves = _read(root, asked)
    trained = next((one for one in halves.runs if config.name in (one.run_id, name_of(one.run_id))), None)
    if trained is None:
        raise InputError(f"no result of a run {config.name!r} yet; mix, train and evaluate it, then ask again")
    panel = panel_of(halves.runs, stored["target"], stored["reference"], half="report")
    rows = panel.rows(trained.group, trained.n_total)
    found = {}
    for name, value, points, drawn in (
        (stored["reference"], stored["advice"]["x"], panel.x, panel.drawn_x),
        (stored["target"], stored["advice"]["y"], panel.y, panel.drawn_y),
    ):
        reached = estimate(from_axis(points[rows].mean()), from_axis(drawn[:, rows].mean(axis=1)))
        one = outcome(Estimate(**value), reached)
        found[name] = asdict(one)
        verdict = "within the errors of both" if one.held else "beyond the errors of both"
        say(
            f"advise: {name}: predicted {_percent(one.predicted)}, measured {_percent(one.measured)}, "
            f"{_points(one.points)} points, {verdict}"
        )
    return {"job": "advise", "mixture": config.name, "seeds": len(rows), "sets": found}


def _lines(advice: Advice, target: str) -> Iterator[str]:
    """The advice in words."""
    parts = ", ".join(
        f"{name} {share:.0%} ({advice.ranges[name][0]:.0%} to {advice.ranges[name][1]:.0%})"
        for name, share in advice.shares.items()
    )
    yield f"{parts} of {advice.total} samples, by the {advice.predictor}"
    yield f"predicted on {target} {_percent(advice.y)}, on the reference {_percent(advice.x)}"
    for rival, gain in advice.gains.items():
        yield f"against {rival}: {_points(gain.points)} points: {gain.verdict}"
    if isinstance(advice.reference_price, Estimate):
        yield f"a point on {target} costs {_points(advice.reference_price)} points on the reference, from even mixing"
    if isinstance(advice.doubling, Estimate):
        yield f"twice the samples add {_points(advice.doubling)} points on {target}"
    price = advice.sample_price
    yield f"one more point takes {price:.3g} more samples" if isinstance(price, float) else f"samples: {price}"
    yield from advice.notes


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _points(value: Estimate) -> str:
    return f"{value.value:+.2f} ({value.low:+.2f} to {value.high:+.2f})"


def _plain(value: Estimate | Refusal) -> Any:
    return str(value) if isinstance(value, Refusal) else asdict(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater advise`."""
    return job_main("advise", AdviseConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
