"""The comparison with the ground truth: what counts as the same picture, and how well scores are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from demo.compare import auc
from demo.compare_pictures import Pair, duplicates, picture_of
from demo.corpus import natural_duplicates
from demo.plan import make_plan
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
    rest = [picture_of(row, originals) for row in rows if row["expected_status"] == "success" and row not in copies]
    assert len(set(rest)) == len(rest)
