"""Near hashes: complete against brute force, however the hashes crowd."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import hamming
from filters.errors import InputError
from filters.hamming import hamming_pairs, hamming_self_pairs
from filters.pixels import phash
from tests.filters.drawings import FAMILIES

# Few high bits, so that near hashes are common and all 64 bits matter.
hashes = st.lists(
    st.builds(lambda a, b: a ^ (1 << b), st.sampled_from([0, 2**64 - 1, 0x8000_0000_0000_0001]), st.integers(0, 63)),
    max_size=20,
)


@pytest.fixture(params=["as it is", "blocks even for few", "every key dense", "every key crowded"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths that only large collections take, on small ones."""
    if request.param != "as it is":
        monkeypatch.setattr(hamming, "_BRUTE", 0)
        monkeypatch.setattr(hamming, "_PER_COMPARISON", 1e9)
        monkeypatch.setattr(hamming, "_SLAB", 7)
        monkeypatch.setattr(hamming, "_CHUNK", 5)
    if request.param in ("every key dense", "every key crowded"):
        monkeypatch.setattr(hamming, "_DENSE", 2)
    if request.param == "every key crowded":
        monkeypatch.setattr(hamming, "_BRUTE", 150)
        monkeypatch.setattr(hamming, "_CROWD", 100)


def brute(queries: list[int], base: list[int], radius: int) -> list[list[int]]:
    return [[i, j] for i, a in enumerate(queries) for j, b in enumerate(base) if (a ^ b).bit_count() <= radius]


def star(values: list[int], radius: int) -> list[list[int]]:
    """All pairs of first occurrences, and each repetition with its first."""
    first = {value: values.index(value) for value in values}
    near = [p for p in brute(values, values, radius) if p[0] < p[1] and all(first[values[k]] == k for k in p)]
    return sorted(near + [[first[value], row] for row, value in enumerate(values) if first[value] != row])


@pytest.mark.usefixtures("limits")
class TestComplete:
    def check(self, queries: list[int], base: list[int], radius: int) -> None:
        found = hamming_pairs(np.array(queries, np.uint64), np.array(base, np.uint64), radius)
        assert found.tolist() == brute(queries, base, radius)
        assert hamming_self_pairs(np.array(queries, np.uint64), radius).tolist() == star(queries, radius)

    def test_any_hashes(self) -> None:
        @settings(deadline=None, max_examples=30, derandomize=True)
        @given(hashes, hashes, st.integers(0, 3))
        def holds(queries: list[int], base: list[int], radius: int) -> None:
            self.check(queries, base, radius)

        holds()

    @pytest.mark.parametrize("radius", [0, 1, 4])
    def test_crowds(self, radius: int) -> None:
        rng = np.random.default_rng(radius)
        values = around(rng, 0x8000_0000_0000_0000, 60, 6) + rng.integers(0, 2**64, 20, dtype=np.uint64).tolist()
        self.check(values + values[:5], around(rng, 0x8000_0000_0000_0000, 40, 5), radius)

    def test_few_bits_vary(self) -> None:
        values = (np.random.default_rng(3).integers(0, 32, 50, dtype=np.uint64) << np.uint64(40)).tolist()
        self.check(values, values[:20], 2)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(hashes, hashes, st.integers(0, 64))
def test_any_radius(queries: list[int], base: list[int], radius: int) -> None:
    TestComplete().check(queries, base, radius)


def around(rng: np.random.Generator, centre: int, count: int, flips: int) -> list[int]:
    return [
        centre ^ sum(1 << int(b) for b in set(rng.integers(0, 64, rng.integers(0, flips + 1)))) for _ in range(count)
    ]


@pytest.mark.parametrize("radius", [1, 4, 8])
def test_many_hashes_against_all_with_all(radius: int) -> None:
    rng = np.random.default_rng(radius)
    values = rng.integers(0, 2**64, 6000, dtype=np.uint64)
    # One bit in each part, so that they are different ones.
    parts = np.arange(radius) * (64 // radius)
    bits = (rng.integers(0, 64 // radius, (3000, radius)) + parts).astype(np.uint64)
    values[3000:] = values[:3000] ^ np.bitwise_or.reduce(np.left_shift(np.uint64(1), bits), axis=1)
    expected = []
    for row, value in enumerate(values):
        near = row + 1 + np.flatnonzero(np.bitwise_count(value ^ values[row + 1 :]) <= radius)
        expected += [[row, int(column)] for column in near]
    assert len(np.unique(values)) == 6000
    assert hamming_self_pairs(values, radius).tolist() == expected
    queries, base = values[::2], values[1::2]
    across = [[i, j] for i, j in expected if i % 2 != j % 2]
    found = hamming_pairs(queries, base, radius)
    assert sorted(sorted([2 * i, 2 * j + 1]) for i, j in found.tolist()) == sorted(across)


def test_real_hashes_within_the_default_radius() -> None:
    values = [phash(np.asarray(family(k))) for family in FAMILIES.values() for k in range(4)]
    assert hamming_self_pairs(np.array(values, np.uint64), 8).tolist() == star(values, 8)


def test_equal_hashes_are_a_star() -> None:
    values = np.full(100_000, 7, np.uint64)
    values[[10, 99_999]] = 6
    pairs = hamming_self_pairs(values, 4)
    assert len(pairs) == 99_999
    assert pairs[pairs[:, 1] == 99_999].tolist() == [[10, 99_999]]
    assert pairs[pairs[:, 1] == 10].tolist() == [[0, 10]]
    assert hamming_pairs(values[:3], values[10:11], 1).tolist() == [[0, 0], [1, 0], [2, 0]]


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    values = np.array(around(rng, 3, 3000, 9), np.uint64)
    values = np.unique(values)
    shuffled = rng.permutation(len(values))
    there = shuffled[hamming_self_pairs(values[shuffled], 4)]
    assert np.array_equal(np.unique(np.sort(there, axis=1), axis=0), hamming_self_pairs(values, 4))


def test_too_many_pairs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "MOST_PAIRS", 10)
    # All with all, a few at a time.
    with pytest.raises(InputError, match="more than 10 pairs of hashes within 32 bits"):
        hamming_self_pairs(np.arange(64, dtype=np.uint64), 32)
    with pytest.raises(InputError, match="more than 10 pairs of hashes within 32 bits"):
        hamming_pairs(np.arange(64, dtype=np.uint64), np.arange(2, dtype=np.uint64), 32)
    assert len(hamming_self_pairs(np.arange(5, dtype=np.uint64), 32)) == 10
    monkeypatch.setattr(hamming, "_BRUTE", 0)
    monkeypatch.setattr(hamming, "_PER_COMPARISON", 1e9)
    with pytest.raises(InputError, match="more than 10 pairs of hashes within 2 bits"):
        hamming_self_pairs(np.arange(64, dtype=np.uint64), 2)


@pytest.mark.parametrize(("queries", "base"), [(0, 0), (0, 3), (3, 0)])
def test_no_hashes_no_pairs(queries: int, base: int) -> None:
    assert hamming_pairs(np.zeros(queries, np.uint64), np.zeros(base, np.uint64), 64).shape == (0, 2)
    assert hamming_self_pairs(np.zeros(min(queries, 1), np.uint64), 64).shape == (0, 2)
