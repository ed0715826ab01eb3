"""Grouping: survivor order, classes of equal keys, stars."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from filters.groups import components, equal_classes, is_repeat, keys_of, stars, survivor_order


def test_survivor_order() -> None:
    table = pa.table(
        {
            "uid": ["e", "d", "c", "b", "a", "f"],
            "source": ["web", "photos", "photos", "zoo", None, "web"],
            "original_width": pa.array([10, 10, 10, 10, 10, None], pa.int32()),
            "original_height": pa.array([10, 10, 20, 10, 10, 90], pa.int32()),
        }
    )
    order = survivor_order(table, ["photos", "web"])
    assert [table["uid"][int(i)].as_py() for i in order] == ["c", "d", "e", "b", "a", "f"]


def test_keys_of_null_is_minus_one() -> None:
    keys = keys_of(pa.chunked_array([["x", None], ["y", "x"]]))
    assert keys[1] == -1
    assert keys[0] == keys[3] != keys[2]
    assert keys_of(pa.chunked_array([], pa.string())).shape == (0,)


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        ([0, 1, 2], [-1, -1, -1], [{0}, {1}, {2}]),
        ([0, 1, 0], [-1, -1, -1], [{0, 2}, {1}]),
        ([0, 1, 1], [0, 0, 1], [{0, 1, 2}]),
        ([-1, -1, -1], [-1, -1, -1], [{0}, {1}, {2}]),
        ([-1, -1, 3], [5, 5, -1], [{0, 1}, {2}]),
    ],
)
def test_equal_classes(first: list[int], second: list[int], classes: list[set[int]]) -> None:
    found = equal_classes(np.array(first), np.array(second))
    assert [set(np.flatnonzero(found == c).tolist()) for c in dict.fromkeys(found.tolist())] == classes


def test_components() -> None:
    found = components(5, np.array([[0, 3], [3, 4]]))
    assert found[0] == found[3] == found[4]
    assert len(set(found.tolist())) == 3
    assert components(0, np.empty((0, 2), np.int64)).shape == (0,)


def test_is_repeat_follows_the_order() -> None:
    keys = np.array([7, 7, -1, -1, 8])
    assert is_repeat(keys, np.array([0, 1, 2, 3, 4])).tolist() == [False, True, False, False, False]
    assert is_repeat(keys, np.array([4, 3, 2, 1, 0])).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("pairs", "survivors"),
    [
        ([], {}),
        ([(0, 1), (0, 2)], {1: 0, 2: 0}),
        ([(0, 1), (1, 2)], {1: 0}),  # a chain: 2 is like 1 only
        ([(0, 1), (1, 2), (2, 3)], {1: 0, 3: 2}),
        ([(1, 0), (2, 0), (2, 1)], {1: 0, 2: 0}),
        ([(0, 2), (1, 2)], {2: 0}),
    ],
)
def test_stars(pairs: list[tuple[int, int]], survivors: dict[int, int]) -> None:
    assert stars(4, np.array(pairs, np.int64).reshape(-1, 2)) == survivors
