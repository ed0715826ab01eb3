"""Entries in captions, as MetaCLIP finds and balances them: cases written by hand, and against a plain search."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import entries as module
from filters.entries import Entries, entry_counts, entry_signals, keep_probability, load_entries
from filters.errors import InputError
from pipelines.store.schema import SIGNALS
from tests.filters.caption_tables import captions_in_chunks, texts
from tests.filters.tables import is_extended

ENTRIES = Entries(("dog", "Dog", "golden retriever", "retriever", "retriever dog", "D.C.", "a . b", "猫", "dog"))


def found(caption: str | None) -> object:
    table = pa.table({"caption": pa.array([caption], pa.string())})
    return entry_signals(table, ENTRIES)["entries"][0].as_py()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog", [0, 8]),
        ("dog", [0, 8]),
        ("dog dog dog", [0, 8]),
        ("Dog", [1]),
        ("DOG", []),
        ("dogs", []),
        ("dog.", [0, 8]),
        ("a,dog;cat", [0, 8]),
        ("`dog`", [0, 8]),
        ("what?dog!", [0, 8]),
        ("dog\ncat", [0, 8]),
        ("dog\tcat\r", [0, 8]),
        ("(dog)", []),
        ('"dog"', []),
        ("dog's", []),
        ("dog-house", []),
        ("dog\u00a0house", []),
        ("a golden retriever dog", [0, 2, 3, 4, 8]),
        ("golden  retriever", [3]),
        ("golden\nretriever", [2, 3]),
        ("golden, retriever", [3]),
        ("Washington, D.C.", []),
        ("a.b", [6]),
        ("黒猫", []),
        ("黒 猫", [7]),
        ("", []),
        (None, None),
    ],
)
def test_an_entry_stands_between_spaces(caption: str | None, expected: list[int] | None) -> None:
    assert found(caption) == expected


ALPHABET = "aAb .,;:?!`\t\n\r-é猫"


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    texts(ALPHABET),
    st.lists(st.text(st.sampled_from("aAb .é猫"), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_it_equals_a_plain_search(captions: list[str | None], entries: list[str], chunk: int) -> None:
    table = captions_in_chunks(captions, chunk)
    result = entry_signals(table, Entries(tuple(entries)))
    assert is_extended(result, table, {"entries": SIGNALS.arrow.field("entries").type})
    for caption, numbers in zip(captions, result["entries"].to_pylist(), strict=True):
        if caption is None:
            assert numbers is None
            continue
        spaced = "".join(f" {c} " if c in ",.;:?!`" else " " if c in "\t\n\r" else c for c in f" {caption} ")
        assert numbers == [i for i, entry in enumerate(entries) if f" {entry} " in spaced]


def test_many_rows_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    table = captions_in_chunks(["dog", None, "", "golden retriever", "a dog"] * 3, 4)
    whole = entry_signals(table, ENTRIES)
    monkeypatch.setattr(module, "_ROWS", 2)
    parts = entry_signals(table, ENTRIES)
    assert parts["entries"].to_pylist() == whole["entries"].to_pylist() == [[0, 8], None, [], [2, 3], [0, 8]] * 3


MATCHES = pa.array([[0], [1], [0, 1], [1, 2], [], None, [3]], pa.list_(pa.int32()))
COUNTS = np.array([20_000, 80_000, 200_000, 0])


@pytest.mark.parametrize(
    ("t", "best", "each"),
    [
        (20_000, [1, 1 / 4, 1, 1 / 4, 0, None, 1], [1, 1 / 4, 1, 1 - 3 / 4 * 9 / 10, 0, None, 1]),
        (10_000, [1 / 2, 1 / 8, 1 / 2, 1 / 8, 0, None, 1], [1 / 2, 1 / 8, 9 / 16, 1 - 7 / 8 * 19 / 20, 0, None, 1]),
        (1e6, [1, 1, 1, 1, 0, None, 1], [1, 1, 1, 1, 0, None, 1]),
    ],
)
def test_keep_probability(t: float, best: list[float | None], each: list[float | None]) -> None:
    for matches in (MATCHES, pa.chunked_array([MATCHES[:3], MATCHES[3:3], MATCHES[3:]])):
        assert keep_probability(matches, COUNTS, t).to_pylist() == pytest.approx(each)
        assert keep_probability(matches, COUNTS, t, "best").to_pylist() == pytest.approx(best)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    st.lists(st.none() | st.lists(st.integers(0, 5), unique=True), max_size=20),
    st.floats(0.1, 100),
    st.integers(0, 3),
)
def test_probabilities_follow_from_the_counts(rows: list[list[int] | None], t: float, skip: int) -> None:
    matches = pa.array([[0], *rows], pa.list_(pa.int32()))[1:]
    counts = entry_counts(matches, 6 + skip)
    assert counts.tolist() == [sum(e in (row or ()) for row in rows) for e in range(6 + skip)]
    best = keep_probability(matches, counts, t, "best").to_pylist()
    each = keep_probability(matches, counts, t).to_pylist()
    for row, low, high in zip(rows, best, each, strict=True):
        if row is None:
            assert low is high is None
        else:
            assert low == pytest.approx(max((min(1, t / counts[e]) for e in row), default=0))
            assert high == pytest.approx(1 - math.prod(1 - min(1, t / counts[e]) for e in row))
            assert low - 1e-12 <= high <= 1
    # No entry keeps many more than t captions for itself: of the captions that hold one entry alone, t at most.
    alone = [(row[0], p) for row, p in zip(rows, best, strict=True) if row is not None and len(row) == 1]
    for entry in range(6):
        assert sum(p for e, p in alone if e == entry) <= t + 1e-9


def test_matches_of_another_list_are_an_error() -> None:
    with pytest.raises(InputError, match="entry 3 is not in a list of 3"):
        entry_counts(MATCHES, 3)
    with pytest.raises(InputError, match="another list"):
        keep_probability(MATCHES, COUNTS[:2], 1)
    with pytest.raises(InputError, match="entry -1 is not in a list of 3"):
        entry_counts(pa.array([[2, None]], pa.list_(pa.int32())), 3)
    for t in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="more than 0"):
            keep_probability(MATCHES, COUNTS, t)


def test_a_list_is_read_from_text_and_json(tmp_path: Path) -> None:
    text, metadata = tmp_path / "entries.txt", tmp_path / "metadata.json"
    text.write_text("dog\n\n# one\n dog\n golden retriever \n", encoding="utf-8")
    metadata.write_text(json.dumps(["dog", "", "# one", "dog", "golden retriever"]), encoding="utf-8")
    entries = load_entries(text)
    assert entries == load_entries(metadata)
    assert entries.texts == ("dog", "# one", "golden retriever")
    again = pickle.loads(pickle.dumps(entries))
    assert again.found_in(pa.chunked_array([["a # one dog"]])).to_pylist() == [[0, 1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.txt", b"\n\n", "no entry"),
        ("e.json", b"[]", "no entry"),
        ("e.json", b"{", "not JSON"),
        ("e.json", b"\xff", "not JSON"),
        ("e.json", b'{"a": 1}', "array of strings"),
        ("e.json", b"[1]", "array of strings"),
        ("e.json", b'["a", "b\\nc"]', "has a line break"),
        ("e.json", b'["\\ud800"]', "no text"),
        ("e.txt", b"\xff\n", "UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_entries(path)
    assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(InputError, match="cannot be read"):
        load_entries(tmp_path / f"none_{name}")
