"""Captions that are nearly the same: signatures, groups against brute force, chains, crowds, none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from filters.caption_groups import PERMUTATIONS, caption_groups, caption_signatures

WORDS = [
    "red",
    "blue",
    "house",
    "tree",
    "dog",
    "cat",
    "man",
    "woman",
    "street",
    "night",
    "day",
    "beach",
    "old",
    "new",
    "small",
    "big",
    "photo",
    "of",
    "the",
    "a",
    "with",
    "on",
]


def signatures(*captions: str | None) -> np.ndarray:
    return caption_signatures(pa.chunked_array([list(captions)], pa.string()))


def pieces(caption: str) -> set[str]:
    return {caption[i : i + 4] for i in range(len(caption) - 3)}


def test_case_and_white_space_do_not_count_and_chunks_neither() -> None:
    one = signatures("A dog  in the Park", "a dog in the park", "a cat in the park")
    assert np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], one[2])
    chunked = caption_signatures(
        pa.chunked_array([["A dog  in the Park"], [], ["a dog in the park", "a cat in the park"]])
    )
    assert np.array_equal(one, chunked)
    assert one.dtype == np.uint32
    assert one.shape == (3, PERMUTATIONS)


def test_no_caption_is_like_nothing() -> None:
    found = signatures(None, "", "   ", None, "cat", "CAT")
    first, similarity = caption_groups(found, np.arange(6), 0.5)
    assert first.tolist() == [-1, -1, -1, -1, -1, 4]
    assert np.isnan(similarity[:5]).all()
    assert similarity[5] == 1
    empty, none = caption_groups(signatures(), np.arange(0), 0.8)
    assert len(empty) == len(none) == 0


def test_the_estimate_is_near_the_jaccard_similarity() -> None:
    rng = np.random.default_rng(0)
    error = []
    for _ in range(200):
        a = "".join(chr(97 + letter) for letter in rng.integers(0, 26, 80))
        b = a[:70] + "".join(chr(97 + letter) for letter in rng.integers(0, 26, 10))
        true = len(pieces(a) & pieces(b)) / len(pieces(a) | pieces(b))
        found = signatures(a, b)
        error.append(float((found[0] == found[1]).mean()) - true)
    # The standard deviation of an estimate from 128 values is at most 0.044.
    assert abs(np.mean(error)) < 0.01
    assert np.std(error) < 0.05


def test_planted_captions_are_found_and_name_the_best_row() -> None:
    rng = np.random.default_rng(1)
    captions = [" ".join(rng.choice(WORDS, 20)) for _ in range(2000)]
    changed = [f"{caption} !" for caption in captions[::4]]
    order = rng.permutation(2500)
    first, similarity = caption_groups(signatures(*captions, *changed), order, 0.8)
    rank = np.argsort(order)
    found = 0
    for copy, original in zip(range(2000, 2500), range(0, 2000, 4), strict=True):
        better, worse = sorted((copy, original), key=lambda row: int(rank[row]))
        found += int(first[worse]) == better and first[better] == -1
    assert found >= 495
    named = np.flatnonzero(first >= 0)
    assert (rank[first[named]] < rank[named]).all()
    assert (first[first[named]] == -1).all()
    assert (similarity[named] >= 0.8).all()


def test_likeness_does_not_pass_along_a_chain() -> None:
    base = "the quick brown fox jumps over the lazy dog while the sun sets behind the old stone mill by the river"
    words = base.split()
    steps = [" ".join(["changed"] * n + words[n:]) for n in range(len(words))]
    found = signatures(*steps)
    first, similarity = caption_groups(found, np.arange(len(steps)), 0.7)
    named = np.flatnonzero(first >= 0)
    assert len(set(first[named].tolist())) > 1
    for row in named.tolist():
        assert similarity[row] == np.float32((found[row] == found[first[row]]).mean())


def test_a_crowd_of_one_caption_and_of_like_ones() -> None:
    captions = ["stock photo"] * 300 + [
        f"a very ordinary picture taken on an ordinary day, number {n}" for n in range(300)
    ]
    first, _ = caption_groups(signatures(*captions), np.arange(600), 0.6)
    assert (first[1:300] == 0).all()
    assert (first[301:] >= 300).mean() > 0.95


@pytest.mark.parametrize("seed", [1, 2])
def test_order_of_rows_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    captions = [" ".join(rng.choice(WORDS[:6], 6)) for _ in range(400)]
    found = signatures(*captions)
    straight, similarity = caption_groups(found, np.arange(400), 0.8)
    mixed = rng.permutation(400)
    place = np.argsort(mixed)
    shuffled, again = caption_groups(found[mixed], place, 0.8)
    named = shuffled[place]
    assert np.array_equal(np.where(named >= 0, mixed[named], -1), straight)
    assert np.array_equal(again[place], similarity, equal_nan=True)
