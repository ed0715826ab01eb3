"""Two models on the same pictures: how far apart they are, and whether chance alone could do it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import binomtest

from evaluation.metrics import Interval, bootstrap_interval
from filters.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Model B less model A on one set: the mean difference of a figure, its 95 % interval, and an exact test.

    `only_a` and `only_b` count the pictures that one alone has right; `p` is McNemar's exact two-sided test of these,
    `p_holm` the same corrected for as many sets as were compared (Holm 1979).
    """

    task: str
    concepts: str
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p: float
    p_holm: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def compare(a: pa.Table, b: pa.Table, *, seed: int = 0) -> list[Comparison]:
    """Each set, and each choice of its classes, that both tables have; schema `evaluation.results.IMAGES`.

    Figures are expected k-way accuracies, paired by the pictures' keys; the interval resamples pictures. InputError
    where the two have no set in common, or a set with other pictures in one than in the other.
    """
    groups = sorted(_groups(a) & _groups(b))
    if not groups:
        raise InputError("compare: the two results have no evaluation set in common")
    found = [
        _compared(task, concepts, _part(a, task, concepts), _part(b, task, concepts), seed)
        for task, concepts in groups
    ]
    order = np.argsort([one["p"] for one in found], kind="stable")
    corrected, highest = np.empty(len(found)), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, found[index]["p"] * (len(found) - place)))
        corrected[index] = highest
    return [Comparison(**one, p_holm=float(p)) for one, p in zip(found, corrected, strict=True)]


def _compared(task: str, concepts: str, a: pa.Table, b: pa.Table, seed: int) -> dict[str, Any]:
    if a["key"].to_pylist() != b["key"].to_pylist():
        raise InputError(f"compare: {task} ({concepts}) has other pictures in one result than in the other")
    first, second = (_numbers(part, "expected_accuracy") for part in (a, b))
    difference = second - first
    interval = bootstrap_interval(difference, seed) if len(difference) > 1 else Interval(np.nan, np.nan)
    right_a, right_b = (_right(part) for part in (a, b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        "task": task, "concepts": concepts, "n": len(difference),
        "a": float(first.mean()), "b": float(second.mean()), "difference": float(difference.mean()),
        "low": float(interval.low), "high": float(interval.high), "only_a": only_a, "only_b": only_b,
        "p": float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
    }  # fmt: skip


def _right(part: pa.Table) -> NDArray[np.bool_]:
    """Whether the true class stands first, alone."""
    return np.asarray((_numbers(part, "rank") == 0) & (_numbers(part, "ties") == 0))


def _numbers(part: pa.Table, column: str) -> Floats:
    return np.asarray(part[column].to_numpy(), dtype=np.float64)


def _groups(table: pa.Table) -> set[tuple[str, str]]:
    pairs = table.group_by(["task", "concepts"]).aggregate([])
    return set(zip(pairs["task"].to_pylist(), pairs["concepts"].to_pylist(), strict=True))


def _part(table: pa.Table, task: str, concepts: str) -> pa.Table:
    mine = pc.and_(pc.equal(table["task"], task), pc.equal(table["concepts"], concepts))
    return table.filter(mine).sort_by("key")
