"""The comparison with the ground truth: what counts as the same picture, and how well scores are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from demo.compare import _swapped, auc
from demo.compare_pictures import Pair, duplicates, picture_of, placeholders
from demo.corpus import natural_duplicates
from demo.plan import make_plan
from demo.web_placeholders import PLACEHOLDER
from evaluation.report_data import Check


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_the_rank_sum_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, swapped = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 40).round(1)  # rounded, so that there are ties
    value, low, high = auc(true, swapped)
    assert value == pytest.approx(mannwhitneyu(true, swapped).statistic / (300 * 40))
    assert low < value < high
    assert auc(true + 100, swapped) == (1.0, 1.0, 1.0)
    assert auc(true - 100, swapped) == (0.0, 0.0, 0.0)


def alone(number: int, style: str, concept: str, called: int | None) -> Pair:
    """A clean picture of one icon, called a duplicate of picture number `called`."""
    truth = {
        "source": "s", "url": f"u{number}", "plant": "clean", "layout": "single", "style": style,
        "concepts": [concept], "duplicate_kind": None, "duplicate_of_url": None, "leak_kind": None,
    }  # fmt: skip
    found = {
        "status": "success", "uid": str(number), "pixel_hash": str(number), "group": None, "eval_set": None,
        "duplicate_of": None if called is None else str(called),
    }  # fmt: skip
    return Pair(truth, found, picture_of(truth, {}))


def falsely_called(pairs: list[Pair]) -> int | None:
    checks: dict[str, Check] = {check.check: check for check in duplicates(pairs)}
    return checks["clean pictures called duplicates"].false


def test_natural_pairs_excuse_a_verdict_but_do_not_chain() -> None:
    listed = {
        frozenset([(row["style_a"], row["concept_a"]), (row["style_b"], row["concept_b"])])
        for row in natural_duplicates().to_pylist()
    }
    a, b, c = next(
        (*(one - two), *(one & two), *(two - one))
        for one in sorted(listed, key=sorted)
        for two in sorted(listed, key=sorted)
        if len(one & two) == 1 and one ^ two not in listed
    )
    assert falsely_called([alone(0, *a, None), alone(1, *b, 0)]) == 0
    assert falsely_called([alone(0, *c, None), alone(1, *b, 0)]) == 0
    assert falsely_called([alone(0, *a, None), alone(1, *c, 0)]) == 1


def test_a_planted_copy_shows_what_its_original_shows() -> None:
    rows = make_plan(0, 600).to_pylist()
    originals = {(row["source"], row["url"]): row for row in rows if row["plant"] != "duplicate_row"}
    copies = [row for row in rows if row["duplicate_kind"]]
    assert copies
    for row in copies:
        original = originals[row["duplicate_of_source"], row["duplicate_of_url"]]
        assert picture_of(row, originals) == picture_of(original, originals)
    empty = [row for row in rows if row["plant"] == PLACEHOLDER]
    assert len({picture_of(row, originals) for row in empty}) == 1
    copies += empty[1:]
    rest = [picture_of(row, originals) for row in rows if row["expected_status"] == "success" and row not in copies]
    assert len(set(rest)) == len(rest)


def called(number: int, plant: str, kind: str | None) -> Pair:
    """A stored picture planted as `plant`, with a verdict."""
    pair = alone(number, "noto", f"c{number}", None)
    return Pair({**pair.truth, "plant": plant}, {**pair.found, "kind": kind}, pair.picture)


def test_placeholders_are_counted_where_planted_and_where_not() -> None:
    pairs = [called(0, PLACEHOLDER, PLACEHOLDER), called(1, PLACEHOLDER, PLACEHOLDER), called(2, "clean", None)]
    found, wrong = placeholders(pairs)
    assert (found.planted, found.found, found.missed, found.met) == (2, 2, 0, True)
    assert (wrong.planted, wrong.false, wrong.met) == (1, 0, True)
    pairs += [called(3, PLACEHOLDER, "exact_bytes"), called(4, "clean", PLACEHOLDER)]
    found, wrong = placeholders(pairs)
    assert (found.planted, found.found, found.missed, found.met) == (3, 2, 1, False)
    assert (wrong.planted, wrong.false, wrong.met) == (2, 1, False)


def test_a_placeholder_is_not_among_the_clean_pictures() -> None:
    pair = called(0, PLACEHOLDER, PLACEHOLDER)
    clean = {check.check: check for check in duplicates([pair, called(1, "clean", None)])}
    assert clean["clean pictures called duplicates"].planted == 1


def test_placeholders_have_no_part_in_the_check_of_captions() -> None:
    def scored(number: int, plant: str, *, swapped: bool, score: float) -> Pair:
        pair = called(number, plant, None)
        truth = {**pair.truth, "caption_language": "en", "caption_swapped": swapped}
        return Pair(truth, {**pair.found, "clip_score": score}, pair.picture)

    pairs = [scored(n, "clean", swapped=n < 3, score=float(n)) for n in range(9)]
    with_placeholders = [*pairs, *(scored(n, PLACEHOLDER, swapped=False, score=-1.0) for n in range(9, 12))]
    assert _swapped(with_placeholders) == _swapped(pairs)
    assert _swapped(pairs)[0].check.startswith("swapped captions, seen cells: AUC 1.000")
