from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from evaluation.compare import compare
from evaluation.results import IMAGES
from filters.errors import InputError


def images(tasks: dict[str, list[int]], *, shuffled: bool = False) -> pa.Table:
    """A row a picture: rank 0 is right."""
    rows = [
        {
            "run_id": "x", "task": task, "concepts": "all", "key": f"{i:03d}", "concept": "c", "predicted": "c",
            "n_classes": 10, "rank": rank, "ties": 0, "expected_accuracy": 1.0 if rank == 0 else 0.2,
        }
        for task, ranks in tasks.items()
        for i, rank in enumerate(ranks)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows[::-1] if shuffled else rows, schema=IMAGES)


def test_pictures_are_paired_by_key_and_chance_is_tested() -> None:
    first = {"better": [0] * 30 + [1] * 30, "same": [0, 1] * 10}
    second = {"better": [0] * 50 + [1] * 10, "same": [0, 1] * 10}
    better, same = compare(images(first), images(second, shuffled=True))
    assert (better.task, better.n, better.only_a, better.only_b) == ("better", 60, 0, 20)
    assert better.difference == pytest.approx(20 / 60 * 0.8)
    assert better.low < better.difference < better.high
    assert better.low > 0
    assert better.p == pytest.approx(binomtest(0, 20).pvalue)
    assert better.p_holm == pytest.approx(2 * better.p)
    assert (same.difference, same.p, same.p_holm) == (0, 1, 1)
    assert better.as_json()["b"] == pytest.approx((50 + 10 * 0.2) / 60)
    [back, _] = compare(images(second), images(first))
    assert back.difference == -better.difference
    assert back.only_a == 20


def test_results_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match="no evaluation set in common"):
        compare(images({"a": [0, 1]}), images({"b": [0, 1]}))
    with pytest.raises(InputError, match=r"a \(all\) has other pictures"):
        compare(images({"a": [0, 1]}), images({"a": [0, 1, 0]}))


def test_the_correction_is_holm_s() -> None:
    """Three sets whose own p are 0.002, 0.25 and 1: times 3, 2 and 1, and never falling."""
    tasks = {"a": [1] * 10, "b": [1] * 3, "c": [0, 1]}
    better = {"a": [0] * 10, "b": [0] * 3, "c": [0, 1]}
    found = compare(images(tasks), images(better))
    assert [one.p for one in found] == pytest.approx([2 / 2**10, 2 / 2**3, 1])
    assert [one.p_holm for one in found] == pytest.approx([6 / 2**10, 4 / 2**3, 1])
    assert np.isfinite([one.low for one in found]).all()
