"""Found against planted: the one place that reads the ground truth and the catalog side by side."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.stats import rankdata

from demo.compare_pictures import Pair, Row, as_planted, duplicates, leaks, make_check, picture_of, placeholders
from demo.compare_presets import presets
from demo.compare_signals import signals
from demo.study import study_checks
from demo.web_placeholders import PLACEHOLDER
from evaluation.metrics import bootstrap_interval
from evaluation.report_data import Check, Study
from evaluation.results import Result
from pipelines.report import Findings
from pipelines.store import catalog
from pipelines.store.root import Root

LEFT_OUT = Path(__file__).parent / "scorer" / "left_out.csv"
ARROW = " → "
MIN_AUC, MIN_TIMES_CHANCE = 0.80, 5.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """The records of the dumps, each with its sample, and how many samples belong to no record."""

    pairs: list[Pair]
    extra: int


def compare(
    root: Root, results: Sequence[Result], reference: str, models: int, study: Study | None = None
) -> Findings:
    """All checks of the demo, and what the presets would keep of its pictures.

    From `<root>/raw/ground_truth.parquet`, the catalog and the study of drawings. `models` results are due.
    """
    match = _match(root)
    checks = [_records(match), *_faults(match.pairs), *duplicates(match.pairs), *placeholders(match.pairs)]
    checks += leaks(match.pairs)
    checks += study_checks(study) if study else []
    checks += [*signals(match.pairs), *_swapped(match.pairs)]
    checks += _accuracy(results, reference, models)
    with catalog.connect(root) as con:
        checks += presets(con)
    return Findings(checks=checks, study=study)


def _match(root: Root) -> Match:
    """Join by source, file and line; a record that the catalog lacks gets a sample of nothing but nulls."""
    truth = pq.read_table(root.local("raw", "ground_truth.parquet")).to_pylist()
    with catalog.connect(root) as con:
        found = con.sql(
            "SELECT * EXCLUDE (captions, caption_raw, exif) REPLACE (source::VARCHAR AS source) FROM samples"
        ).to_arrow_table()
    by_place = {_place(row): row for row in found.to_pylist()}
    nothing: Row = dict.fromkeys(found.column_names)
    originals = {(row["source"], row["url"]): row for row in truth if row["plant"] != "duplicate_row"}
    pairs = [Pair(row, by_place.get(_place(row), nothing), picture_of(row, originals)) for row in truth]
    return Match(pairs, found.num_rows - sum(pair.found is not nothing for pair in pairs))


def _place(row: Row) -> tuple[Any, ...]:
    return row["source"], row["file"], row["line"]


def _records(match: Match) -> Check:
    uids = [pair.found["uid"] for pair in match.pairs if pair.found["uid"] is not None]
    missed = len(match.pairs) - len(set(uids))
    return Check(
        "records in the dumps = samples in the catalog", len(match.pairs), len(set(uids)), missed, match.extra,
        goal="all, each once", met=missed == match.extra == 0,
    )  # fmt: skip


def _faults(pairs: Sequence[Pair]) -> list[Check]:
    """For each planted kind: how many records have the status and the reason that they should have."""
    checks = []
    for kind in sorted({pair.truth["plant"] for pair in pairs}):
        mine = [pair for pair in pairs if pair.truth["plant"] == kind]
        right = sum(map(as_planted, mine))
        name = f"{kind}{ARROW}{mine[0].truth['expected_status']}, {mine[0].truth['expected_reason']}"
        checks.append(make_check(name, len(mine), right, "all", right == len(mine)))
    return checks


def _swapped(pairs: Sequence[Pair]) -> list[Check]:
    """How well the score tells true captions from swapped ones, by what of the picture the scorer has seen."""
    rows = csv.DictReader(LEFT_OUT.read_text(encoding="utf-8").splitlines())
    left_out = {(row["style"], row["concept"]) for row in rows}
    cells: dict[str, list[Pair]] = {"seen cells": [], "left-out cells": [], "seen and left-out cells together": []}
    for pair in (p for p in pairs if p.truth["plant"] != PLACEHOLDER):
        truth = pair.truth
        if pair.found["clip_score"] is None or truth["caption_language"] != "en" or truth["leak_kind"]:
            continue
        unseen = [(truth["style"], concept) in left_out for concept in truth["concepts"]]
        cells[list(cells)[1 if all(unseen) else 2 if any(unseen) else 0]].append(pair)
    return [_auc_check(name, cell, has_goal=name == "left-out cells") for name, cell in cells.items()]


def _auc_check(name: str, cell: Sequence[Pair], *, has_goal: bool) -> Check:
    scores = np.array([pair.found["clip_score"] for pair in cell], np.float64)
    swapped = np.array([pair.truth["caption_swapped"] for pair in cell], np.bool_)
    goal, planted = f"AUC ≥ {MIN_AUC}" if has_goal else "", int(swapped.sum())
    if planted < 2 or swapped.all():
        return Check(f"swapped captions, {name}: too few to tell", planted, None, goal=goal)
    value, low, high = auc(scores[~swapped], scores[swapped])
    label = f"swapped captions, {name}: AUC {value:.3f} ({low:.3f} to {high:.3f})"
    return Check(label, planted, None, goal=goal, met=value >= MIN_AUC if has_goal else None)


def auc(true: Floats, swapped: Floats) -> tuple[float, float, float]:
    """Chance that a true pair scores above a swapped one, ties half, with a 95 % interval over the swapped pairs.

    The true pairs are many and count as given; InputError for fewer than two swapped ones.
    """
    ranks = rankdata(np.concatenate([true, swapped]))[len(true) :]
    # Ranks among the swapped ones alone are taken off: what is left counts the true pairs at or below each.
    below = (ranks - rankdata(swapped)) / len(true)
    interval = bootstrap_interval(1 - below, seed=0)
    return float(1 - below.mean()), interval.low, interval.high


def _accuracy(results: Sequence[Result], reference: str, models: int) -> list[Check]:
    """Whether every model is above chance on the reference set, and the mean far above it."""
    if not results:
        return []
    figures = [result.eval[reference] for result in results]
    above = sum(figure.low > figure.chance for figure in figures)
    mean = float(np.mean([figure.value for figure in figures]))
    times = mean / figures[0].chance
    return [
        make_check("models surely above chance on the reference", models, above, "all", above == models),
        Check(
            f"mean over models on the reference: {mean:.1%}, {times:.1f} times chance", None, None,
            goal=f"at least {MIN_TIMES_CHANCE:g} times", met=times >= MIN_TIMES_CHANCE,
        ),
    ]  # fmt: skip
