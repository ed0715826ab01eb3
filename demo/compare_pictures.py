"""Found against planted, for pictures: copies, leaked evaluation pictures, and what is falsely called either.

Two pictures are the same if one was planted as a copy of the other, if both show the same icon alone, or if the
corpus lists their two icons as natural duplicates. Natural pairs do not chain: each pair must be listed itself.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.corpus import EVAL_STYLES, load_concepts, natural_duplicates
from demo.web_placeholders import PLACEHOLDER
from evaluation.report_data import Check
from pipelines.store.schema import eval_column

MIN_NEAR_RECALL, MIN_LEAK_RECALL, MAX_FALSE = 0.90, 0.95, 0.01

Row = dict[str, Any]
Picture = tuple[str, str, str]  # ("icon", style, concept), ("record", source, url) for several, or the placeholder


@dataclass(frozen=True, slots=True)
class Pair:
    """One record: what was planted (`truth`), what the catalog says (`found`), and what its picture shows."""

    truth: Row
    found: Row
    picture: Picture


def picture_of(truth: Row, originals: Mapping[tuple[str, str], Row]) -> Picture:
    """What a record shows; a planted copy shows what its original does. `originals` are by source and address."""
    if truth["plant"] == PLACEHOLDER:
        return PLACEHOLDER, "", ""
    if truth["leak_kind"]:
        return "icon", truth["leak_style"], truth["leak_concept"]
    if truth["duplicate_of_url"]:
        truth = originals[truth["duplicate_of_source"], truth["duplicate_of_url"]]
    if truth["layout"] == "single":
        return "icon", truth["style"], truth["concepts"][0]
    return "record", truth["source"], truth["url"]


def as_planted(pair: Pair) -> bool:
    """Whether the record has the status and the reason that it should have."""
    asked = (pair.truth["expected_status"], pair.truth["expected_reason"])
    return (pair.found["status"], pair.found["reason"]) == asked


def duplicates(pairs: Sequence[Pair]) -> list[Check]:
    """Copies found by kind and strength, and clean pictures falsely called copies."""
    original = {(p.truth["source"], p.truth["url"]): p for p in pairs if p.truth["plant"] != "duplicate_row"}

    def is_found(pair: Pair) -> bool:
        return _together(pair, original[pair.truth["duplicate_of_source"], pair.truth["duplicate_of_url"]])

    ok = [pair for pair in pairs if pair.found["status"] == "success"]
    exact = [pair for pair in pairs if pair.truth["duplicate_kind"] == "exact"]
    near = [pair for pair in pairs if pair.truth["duplicate_kind"] == "near"]
    found = sum(map(is_found, exact))
    checks = [make_check("exact duplicates", len(exact), found, "100 %", found == len(exact)), _equal(ok)]
    for name, group in _near_groups(near).items():
        found = sum(map(is_found, group))
        good = found >= MIN_NEAR_RECALL * len(group)
        checks.append(make_check(f"near duplicates, {name}", len(group), found, "at least 90 %", good))
    clean = [pair for pair in ok if not pair.truth["duplicate_kind"] and pair.truth["plant"] != PLACEHOLDER]
    by_uid = {pair.found["uid"]: pair.picture for pair in ok}
    called = [pair for pair in clean if pair.found["duplicate_of"]]
    wrong = sum(not _same(pair.picture, by_uid.get(pair.found["duplicate_of"])) for pair in called)
    return [
        *checks,
        *_natural(ok),
        Check("clean pictures rightly called duplicates", None, len(called) - wrong),
        _false_check("clean pictures called duplicates", len(clean), wrong),
    ]


def placeholders(pairs: Sequence[Pair]) -> list[Check]:
    """The one body that many addresses serve, and pictures falsely called such a body."""
    planted = [pair for pair in pairs if pair.truth["plant"] == PLACEHOLDER]
    found = sum(pair.found["kind"] == PLACEHOLDER for pair in planted)
    name = "one body under many addresses, called placeholder"
    clean = [p for p in pairs if p.found["status"] == "success" and p.truth["plant"] != PLACEHOLDER]
    wrong = sum(pair.found["kind"] == PLACEHOLDER for pair in clean)
    return [
        make_check(name, len(planted), found, "all", found == len(planted)),
        Check(
            "clean pictures called placeholders", len(clean), None, None, wrong, wrong / max(1, len(clean)), "none",
            not wrong,
        ),
    ]  # fmt: skip


def leaks(pairs: Sequence[Pair]) -> list[Check]:
    """Evaluation pictures in the sources, as they are and re-encoded, and pictures falsely called leaked."""
    checks = []
    for kind, goal, least in (("exact", "100 %", 1.0), ("near", "at least 95 %", MIN_LEAK_RECALL)):
        leaked = [pair for pair in pairs if pair.truth["leak_kind"] == kind]
        found = sum(_same(pair.picture, _evaluation_picture(pair)) for pair in leaked)
        met = found >= least * len(leaked)
        checks.append(make_check(f"leaked evaluation pictures, {kind}", len(leaked), found, goal, met))
        own = sum(pair.found.get(eval_column(pair.truth["leak_style"])) is not None for pair in leaked)
        name = f"leaked evaluation pictures, {kind}, in the column of their set"
        checks.append(make_check(name, len(leaked), own, goal, own >= least * len(leaked)))
    clean = [pair for pair in pairs if pair.found["status"] == "success" and not pair.truth["leak_kind"]]
    called = [pair for pair in clean if pair.found["eval_set"]]
    wrong = sum(not _same(pair.picture, _evaluation_picture(pair)) for pair in called)
    return [*checks, _false_check("clean pictures called leaked", len(clean), wrong)]


def make_check(name: str, planted: int, found: int, goal: str, met: bool | None) -> Check:
    """A check that counts what was found of what was planted."""
    rate = found / planted if planted else None
    return Check(name, planted, found, planted - found, rate=rate, goal=goal, met=met)


def _false_check(name: str, clean: int, wrong: int) -> Check:
    rate = wrong / max(1, clean)
    return Check(
        name, clean, None, None, wrong, rate, f"at most {MAX_FALSE:.0%}".replace("%", " %"), rate <= MAX_FALSE
    )


def _together(one: Pair, other: Pair) -> bool:
    return one.found["group"] is not None and one.found["group"] == other.found["group"]


def _same(one: Picture, other: Picture | None) -> bool:
    return one == other or frozenset((one, other)) in _natural_pairs()


@functools.cache
def _natural_pairs() -> frozenset[frozenset[Picture]]:
    rows = natural_duplicates().to_pylist()
    return frozenset(frozenset(("icon", r[f"style_{x}"], r[f"concept_{x}"]) for x in "ab") for r in rows)


@functools.cache
def _concepts() -> dict[str, str]:
    """Concept by name."""
    table = load_concepts()
    return dict(zip(table["name"].to_pylist(), table["concept"].to_pylist(), strict=True))


def _evaluation_picture(pair: Pair) -> Picture | None:
    """The evaluation picture that a sample is said to be; its item is `key (class)`."""
    if pair.found["eval_set"] is None:
        return None
    name = str(pair.found["eval_item"]).partition(" (")[2].removesuffix(")")
    return "icon", pair.found["eval_set"], _concepts().get(name, "")


def _equal(ok: Sequence[Pair]) -> Check:
    """Pictures with the pixels of another, planted or not: all of them must be in one group."""
    by_pixels: dict[str, list[Pair]] = defaultdict(list)
    for pair in ok:
        by_pixels[pair.found["pixel_hash"]].append(pair)
    equal = [alike for alike in by_pixels.values() if len(alike) > 1]
    planted = sum(map(len, equal))
    found = sum(_together(alike[0], pair) for alike in equal for pair in alike)
    return make_check("pictures with the pixels of another", planted, found, "100 %", found == planted)


def _natural(ok: Sequence[Pair]) -> list[Check]:
    """Icons that are the same by nature, where both are in the sources or one is in an evaluation set."""
    alone = [p for p in ok if p.picture[0] == "icon" and not p.truth["duplicate_kind"] and not p.truth["leak_kind"]]
    shown = {pair.picture: pair for pair in alone}
    counts = {"equal_pixels": [0, 0], "near": [0, 0]}  # there, found
    for row in natural_duplicates().to_pylist():
        a, b = (shown.get(("icon", row[f"style_{side}"], row[f"concept_{side}"])) for side in "ab")
        if a and b:
            counts[row["kind"]][0] += 1
            counts[row["kind"]][1] += _together(a, b)
        elif one := (a if row["style_b"] in EVAL_STYLES else None) or (b if row["style_a"] in EVAL_STYLES else None):
            counts[row["kind"]][0] += 1
            counts[row["kind"]][1] += _same(one.picture, _evaluation_picture(one))
    # The web serves each icon at its own size and on its own background, so most of these no longer look the same.
    names = {"equal_pixels": "equal drawings", "near": "nearly equal drawings"}
    return [
        make_check(f"{names[kind]} by nature, each served in its own way", there, found, "", None)
        for kind, (there, found) in counts.items()
    ]


def _near_groups(near: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Near duplicates by kind of transform, then by strength: a combined one counts under each of its strengths."""
    kinds: dict[str, list[Pair]] = defaultdict(list)
    strengths: dict[str, list[Pair]] = defaultdict(list)
    for pair in near:
        transform, strength = pair.truth["near_transform"], pair.truth["near_strength"]
        kinds[transform].append(pair)
        for name, value in zip(transform.split("+"), strength.split(), strict=True):
            strengths[f"{name} {value}, alone or not"].append(pair)
    return {name: group for groups in (kinds, strengths) for name, group in sorted(groups.items())}
