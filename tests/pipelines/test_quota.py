"""Shares: within one sample of the exact ones, and nested, by the quota method."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from filters.errors import ConfigError
from pipelines.quota import apportion

WEIGHTS = st.lists(st.decimals("0.01", "100", places=2).map(float), min_size=1, max_size=6)


@hypothesis_settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 20_000))
def test_counts_add_up_and_are_within_one_of_the_share(weights: list[float], total: int) -> None:
    counts = apportion(weights, total)
    whole = sum(Fraction(str(weight)) for weight in weights)
    assert sum(counts) == total
    assert all(abs(n - Fraction(str(w)) * total / whole) < 1 for n, w in zip(counts, weights, strict=True))


@hypothesis_settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.integers(0, 5_000), st.integers(1, 40))
def test_no_count_falls_as_the_total_grows(weights: list[float], total: int, steps: int) -> None:
    rows = [apportion(weights, total + step) for step in range(steps + 1)]
    assert all(a <= b for small, large in itertools.pairwise(rows) for a, b in zip(small, large, strict=True))


def test_where_largest_remainders_fail() -> None:
    """Alabama: by largest remainder the third source has 2 of 10 and 1 of 11."""
    assert apportion([6, 6, 2], 10) == [5, 4, 1]
    assert apportion([6, 6, 2], 11) == [5, 5, 1]


@pytest.mark.parametrize(
    ("weights", "total", "counts"),
    [
        ([1.0, 1.0, 1.0], 100, [34, 33, 33]),
        ([3, 2, 1], 120, [60, 40, 20]),
        ([0.1, 0.2, 0.7], 12_800_000, [1_280_000, 2_560_000, 8_960_000]),
        ([1e-300, 1, 1], 10, [0, 5, 5]),
        ([0.3333333333333333] * 3, 12_800_000, [4_266_667, 4_266_667, 4_266_666]),
        ([5.0], 7, [7]),
    ],
)
def test_by_hand(weights: list[float], total: int, counts: list[int]) -> None:
    assert apportion(weights, total) == counts


def test_weights_that_are_too_fine_are_said() -> None:
    with pytest.raises(ConfigError, match=r"weights 0\.12345678, 1\.0 are too fine for 12800000 samples: round"):
        apportion([0.12345678, 1.0], 12_800_000)
