"""Grouping: survivor order, classes of equal keys, stars."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from filters.groups import components, heads_of, is_repeat, keys_of, row_hashes, stars, survivor_order, unique_pairs


def test_survivor_order() -> None:
    table = pa.table(
        {
            "uid": ["e", "d", "c", "b", "a", "f", "g", "h"],
            "source": ["web", "photos", "photos", "zoo", None, "web", "photos", "photos"],
            "original_width": pa.array([10, 10, 10, 10, 10, None, 10, 10], pa.int32()),
            "original_height": pa.array([10, 10, 20, 10, 10, 90, 10, 10], pa.int32()),
        }
    )

    def names(priority: list[str], with_score: bool = True) -> str:
        score = pa.array([None, 0.2, 0.1, 0.9, 0.1, 0.9, 0.3, None], pa.float32())
        given = table.append_column("score", score) if with_score else table
        return "".join(table["uid"][int(i)].as_py() for i in survivor_order(given, priority))

    assert names(["photos", "web"]) == "cgdhefba"
    assert names(["photos", "web"], with_score=False) == "cdghefab"
    # Sources that are not named tie: the size decides, then the score, then the uid.
    assert names([]) == "cbgdaehf"
    # What cannot be read comes last, in the same order.
    unreadable = pa.array([uid in "cgf" for uid in table["uid"].to_pylist()])
    table = table.append_column("readable", pc.invert(unreadable))
    assert names(["photos", "web"]) == "dhebacgf"


def test_keys_of_values_that_are_there_once_or_null_are_minus_one() -> None:
    keys = keys_of(pa.chunked_array([["x", None], ["y", "x"]]))
    assert keys[0] == keys[3] >= 0
    assert keys[1] == keys[2] == -1
    assert keys_of(pa.chunked_array([], pa.string())).shape == (0,)


@pytest.mark.parametrize(
    ("first", "second", "heads"),
    [
        ([0, 1, 2], [-1, -1, -1], [0, 1, 2]),
        ([0, 1, 0], [-1, -1, -1], [2, 1, 2]),
        ([0, 1, 1], [0, 0, 1], [2, 2, 2]),
        ([-1, -1, -1], [-1, -1, -1], [0, 1, 2]),
        ([-1, -1, 3], [5, 5, -1], [1, 1, 2]),
    ],
)
def test_heads_are_the_best_of_their_class(first: list[int], second: list[int], heads: list[int]) -> None:
    assert heads_of(np.array([2, 1, 0]), np.array(first), np.array(second)).tolist() == heads


def test_row_hashes_tell_rows_apart() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (20_000, 8), np.uint32)
    _, by_hash = np.unique(row_hashes(rows), return_inverse=True)
    _, by_value = np.unique(rows, axis=0, return_inverse=True)
    assert len(set(zip(by_hash.tolist(), by_value.tolist(), strict=True))) == by_hash.max() + 1 == by_value.max() + 1
    assert not np.array_equal(row_hashes(rows, 1), row_hashes(rows))


def test_components() -> None:
    found = components(5, np.array([[0, 3], [3, 4]]))
    assert found[0] == found[3] == found[4]
    assert len(set(found.tolist())) == 3
    assert components(0, np.empty((0, 2), np.int64)).shape == (0,)


def test_unique_pairs() -> None:
    assert unique_pairs(np.array([[2, 1], [0, 4], [2, 1], [0, 3]]), 5).tolist() == [[0, 3], [0, 4], [2, 1]]
    assert unique_pairs(np.empty((0, 2), np.int64), 0).shape == (0, 2)


def test_is_repeat_follows_the_order() -> None:
    keys = np.array([7, 7, -1, -1, 8])
    assert is_repeat(keys, np.array([0, 1, 2, 3, 4])).tolist() == [False, True, False, False, False]
    assert is_repeat(keys, np.array([4, 3, 2, 1, 0])).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("pairs", "survivors"),
    [
        ([], [0, 1, 2, 3]),
        ([(0, 1), (0, 2)], [0, 0, 0, 3]),
        ([(0, 1), (1, 2)], [0, 0, 2, 3]),  # a chain: 2 is like 1 only
        ([(0, 1), (1, 2), (2, 3)], [0, 0, 2, 2]),
        ([(1, 0), (2, 0), (2, 1)], [0, 0, 0, 3]),
        ([(0, 2), (1, 2)], [0, 1, 0, 3]),
    ],
)
def test_stars(pairs: list[tuple[int, int]], survivors: list[int]) -> None:
    assert stars(4, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == survivors
