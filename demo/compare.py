"""Found against planted: the one place that reads the ground truth and the catalog side by side."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from networkx.utils import UnionFind
from scipy.stats import rankdata

from demo.corpus import EVAL_STYLES, load_concepts, natural_duplicates
from evaluation.metrics import bootstrap_interval
from evaluation.report_data import Check
from evaluation.results import Result
from pipelines.report import Findings
from pipelines.store import catalog
from pipelines.store.root import Root

LEFT_OUT = Path(__file__).parent / "scorer" / "left_out.csv"
ARROW = " → "
MIN_NEAR_RECALL, MAX_FALSE, MIN_AUC, MIN_TIMES_CHANCE = 0.90, 0.01, 0.80, 5.0

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """One record: what was planted (`truth`) and what the catalog says (`found`)."""

    truth: Row
    found: Row

    @property
    def node(self) -> tuple[str, ...]:
        """The record's name in the graph of pictures that are the same."""
        return ("record", self.found["uid"])


def compare(root: Root, results: Sequence[Result], reference: str) -> Findings:
    """All checks of the demo, from `<root>/raw/ground_truth.parquet` and the catalog."""
    pairs, missing = _pairs(root)
    links = _links(pairs)
    checks = [_records(pairs, missing), *_faults(pairs), *_duplicates(pairs, links), *_leaks(pairs, links)]
    checks += _swapped(pairs)
    checks += _accuracy(results, reference)
    return Findings(checks=checks)


def _pairs(root: Root) -> tuple[list[Pair], int]:
    """Each record of the dumps with its sample, by source, file and line; and how many are on one side only."""
    truth = pq.read_table(root.local("raw", "ground_truth.parquet")).to_pylist()
    with catalog.connect(root) as con:
        found = con.sql(
            "SELECT * EXCLUDE (captions, caption_raw, exif) REPLACE (source::VARCHAR AS source) FROM samples"
        ).to_arrow_table()
    by_place = {(row["source"], row["file"], row["line"]): row for row in found.to_pylist()}
    places = [(row["source"], row["file"], row["line"]) for row in truth]
    pairs = [Pair(row, by_place[p]) for row, p in zip(truth, places, strict=True) if p in by_place]
    return pairs, len(truth) + len(by_place) - 2 * len(pairs)


def _links(pairs: Sequence[Pair]) -> UnionFind:
    """Which pictures are the same by what was planted and by nature: records and icons, joined."""
    links = UnionFind()
    by_url = {(p.truth["source"], p.truth["url"]): p for p in pairs if p.truth["plant"] != "duplicate_row"}
    for pair in pairs:
        truth = pair.truth
        if truth["duplicate_of_url"]:
            links.union(pair.node, by_url[truth["duplicate_of_source"], truth["duplicate_of_url"]].node)
        elif truth["leak_kind"]:
            links.union(pair.node, ("icon", truth["leak_style"], truth["leak_concept"]))
        elif truth["layout"] == "single":
            links.union(pair.node, ("icon", truth["style"], truth["concepts"][0]))
    for row in natural_duplicates().to_pylist():
        links.union(("icon", row["style_a"], row["concept_a"]), ("icon", row["style_b"], row["concept_b"]))
    return links


def _records(pairs: Sequence[Pair], missing: int) -> Check:
    distinct = len({pair.found["uid"] for pair in pairs})
    return Check(
        "records in the dumps = samples in the catalog", len(pairs) + missing, distinct, missing,
        goal="all, each once", met=missing == 0 and distinct == len(pairs),
    )  # fmt: skip


def _faults(pairs: Sequence[Pair]) -> list[Check]:
    """For each planted kind: how many records have the status and the reason that they should have."""
    checks = []
    for kind in sorted({pair.truth["plant"] for pair in pairs}):
        mine = [pair for pair in pairs if pair.truth["plant"] == kind]
        right = sum(_as_planted(pair) for pair in mine)
        name = f"{kind}{ARROW}{mine[0].truth['expected_status']}, {mine[0].truth['expected_reason']}"
        checks.append(make_check(name, len(mine), right, "all", right == len(mine)))
    return checks


def _as_planted(pair: Pair) -> bool:
    asked = (pair.truth["expected_status"], pair.truth["expected_reason"])
    return (pair.found["status"], pair.found["reason"]) == asked


def _duplicates(pairs: Sequence[Pair], links: UnionFind) -> list[Check]:
    """Copies found by kind and strength, and clean pictures falsely called copies."""
    by_uid = {pair.found["uid"]: pair for pair in pairs}
    original = {(p.truth["source"], p.truth["url"]): p for p in pairs if p.truth["plant"] != "duplicate_row"}

    def together(pair: Pair) -> bool:
        other = original[pair.truth["duplicate_of_source"], pair.truth["duplicate_of_url"]].found
        return pair.found["group"] is not None and pair.found["group"] == other["group"]

    ok = [pair for pair in pairs if pair.found["status"] == "success"]
    exact = [pair for pair in ok if pair.truth["duplicate_kind"] == "exact"]
    near = [pair for pair in ok if pair.truth["duplicate_kind"] == "near"]
    found = sum(together(pair) for pair in exact)
    checks = [make_check("exact duplicates", len(exact), found, "100 %", found == len(exact)), _equal(ok)]
    for name, group in _near_groups(near).items():
        found = sum(map(together, group))
        good = found >= MIN_NEAR_RECALL * len(group)
        checks.append(make_check(f"near duplicates, {name}", len(group), found, "at least 90 %", good))
    clean = [pair for pair in ok if not pair.truth["duplicate_kind"]]
    wrong = [
        p for p in clean
        if p.found["duplicate_of"] and links[p.node] != links[by_uid[p.found["duplicate_of"]].node]
    ]  # fmt: skip
    called = sum(p.found["duplicate_of"] is not None for p in clean)
    rate = len(wrong) / max(1, len(clean))
    checks += _natural(ok)
    checks.append(Check("clean pictures rightly called duplicates", None, called - len(wrong)))
    checks.append(
        Check(
            "clean pictures called duplicates",
            len(clean),
            None,
            None,
            len(wrong),
            rate,
            "at most 1 %",
            rate <= MAX_FALSE,
        )
    )
    return checks


def _equal(ok: Sequence[Pair]) -> Check:
    """Pictures with the pixels of another, planted or not: every one must be in a group."""
    times = Counter(pair.found["pixel_hash"] for pair in ok)
    equal = [pair for pair in ok if times[pair.found["pixel_hash"]] > 1]
    found = sum(pair.found["group"] is not None for pair in equal)
    return make_check("pictures with the pixels of another", len(equal), found, "100 %", found == len(equal))


def _natural(ok: Sequence[Pair]) -> list[Check]:
    """Icons that are the same by nature, where both are in the sources or one is in an evaluation set."""
    shown = {
        (p.truth["style"], p.truth["concepts"][0]): p.found
        for p in ok
        if p.truth["layout"] == "single" and not p.truth["duplicate_kind"] and not p.truth["leak_kind"]
    }
    counts = {"equal_pixels": [0, 0], "near": [0, 0]}  # there, found
    for row in natural_duplicates().to_pylist():
        a, b = (shown.get((row[f"style_{side}"], row[f"concept_{side}"])) for side in "ab")
        if a and b:
            counts[row["kind"]][0] += 1
            counts[row["kind"]][1] += a["group"] is not None and a["group"] == b["group"]
        elif (a and row["style_b"] in EVAL_STYLES) or (b and row["style_a"] in EVAL_STYLES):
            counts[row["kind"]][0] += 1
            counts[row["kind"]][1] += (a or b or {})["eval_set"] is not None
    # The web serves each icon at its own size and on its own background, so most of these no longer look the same.
    names = {"equal_pixels": "equal drawings", "near": "nearly equal drawings"}
    return [
        make_check(f"{names[kind]} by nature, each served in its own way", there, found, "", None)
        for kind, (there, found) in counts.items()
    ]


def _leaks(pairs: Sequence[Pair], links: UnionFind) -> list[Check]:
    """Evaluation pictures in the sources, as they are and re-encoded, and pictures falsely called leaked."""
    concept_of = dict(zip(*(load_concepts()[c].to_pylist() for c in ("name", "concept")), strict=True))
    ok = [pair for pair in pairs if pair.found["status"] == "success"]
    checks = []
    for kind, goal in (("exact", 1.0), ("near", None)):
        leaked = [pair for pair in ok if pair.truth["leak_kind"] == kind]
        found = sum(pair.found["eval_set"] is not None for pair in leaked)
        met = None if goal is None else found >= goal * len(leaked)
        checks.append(
            make_check(f"leaked evaluation pictures, {kind}", len(leaked), found, "100 %" if goal else "", met)
        )
    others = [pair for pair in ok if not pair.truth["leak_kind"]]
    called = [
        (p, ("icon", p.found["eval_set"], concept_of[_class_of(p.found)])) for p in others if p.found["eval_set"]
    ]
    wrong = [pair for pair, icon in called if links[pair.node] != links[icon]]
    rate = len(wrong) / max(1, len(others))
    checks.append(
        Check(
            "clean pictures called leaked",
            len(others),
            None,
            None,
            len(wrong),
            rate,
            "at most 1 %",
            rate <= MAX_FALSE,
        )
    )
    return checks


def _class_of(found: Row) -> str:
    """The class in the name of an evaluation picture, `key (class)`."""
    return str(found["eval_item"]).partition(" (")[2].removesuffix(")")


def _swapped(pairs: Sequence[Pair]) -> list[Check]:
    """How well the score tells true captions from swapped ones: on cells the scorer saw, and on those it did not."""
    rows = csv.DictReader(LEFT_OUT.read_text(encoding="utf-8").splitlines())
    left_out = {(row["style"], row["concept"]) for row in rows}
    scored = [
        pair for pair in pairs
        if pair.found["clip_score"] is not None
        and pair.truth["caption_language"] == "en"
        and not pair.truth["leak_kind"]
    ]  # fmt: skip
    checks = []
    for name, unseen in (("seen cells", False), ("left-out cells", True)):
        cell = [p for p in scored if ((p.truth["style"], p.truth["concepts"][0]) in left_out) == unseen]
        scores = np.array([p.found["clip_score"] for p in cell])
        swapped = np.array([p.truth["caption_swapped"] for p in cell], dtype=bool)
        if not swapped.any():
            continue
        value, low, high = auc(scores[~swapped], scores[swapped])
        goal = f"AUC ≥ {MIN_AUC}" if unseen else ""
        label = f"swapped captions, {name}: AUC {value:.3f} ({low:.3f} to {high:.3f})"
        checks.append(Check(label, int(swapped.sum()), None, goal=goal, met=value >= MIN_AUC if unseen else None))
    return checks


def auc(true: Floats, swapped: Floats) -> tuple[float, float, float]:
    """Chance that a true pair scores above a swapped one, ties half, with a 95 % interval over the swapped pairs."""
    ranks = rankdata(np.concatenate([true, swapped]))[len(true) :]
    # Ranks among the swapped ones alone are taken off: what is left counts the true pairs at or below each.
    below = (ranks - rankdata(swapped)) / len(true)
    interval = bootstrap_interval(1 - below, seed=0)
    return float(1 - below.mean()), interval.low, interval.high


def _accuracy(results: Sequence[Result], reference: str) -> list[Check]:
    """Whether every model is above chance on the reference set, and the mean far above it."""
    if not results:
        return []
    figures = [result.eval[reference] for result in results]
    above = sum(figure.low > figure.chance for figure in figures)
    mean = float(np.mean([figure.value for figure in figures]))
    times = mean / figures[0].chance
    return [
        make_check("models surely above chance on the reference", len(figures), above, "all", above == len(figures)),
        Check(
            f"mean over models on the reference: {mean:.1%}, {times:.1f} times chance", None, None,
            goal=f"at least {MIN_TIMES_CHANCE:g} times", met=times >= MIN_TIMES_CHANCE,
        ),
    ]  # fmt: skip


def make_check(name: str, planted: int, found: int, goal: str, met: bool | None) -> Check:
    rate = found / planted if planted else None
    return Check(name, planted, found, planted - found, rate=rate, goal=goal, met=met)


def _near_groups(near: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Near duplicates by kind of transform, then by strength: a combined one counts under each of its strengths."""
    groups: dict[str, list[Pair]] = {}
    for pair in near:
        truth = pair.truth
        groups.setdefault(f"1 {truth['near_transform']}", []).append(pair)
        strengths = zip(truth["near_transform"].split("+"), truth["near_strength"].split(), strict=True)
        for name, strength in strengths:
            groups.setdefault(f"2 {name} {strength}", []).append(pair)
    return {name[2:]: groups[name] for name in sorted(groups)}
