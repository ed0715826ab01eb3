"""Phrases in captions: cases written by hand, and against a search word by word."""

from __future__ import annotations

import pickle
import unicodedata
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import phrases as module
from filters.errors import InputError
from filters.phrases import Phrases, blocked_signals, class_signals, load_phrases
from pipelines.store.schema import SIGNALS
from tests.filters.caption_tables import captions_in_chunks, texts
from tests.filters.tables import is_extended


def is_found(phrase: str, caption: str | None) -> object:
    table = pa.table({"caption": pa.array([caption], pa.string())})
    return blocked_signals(table, Phrases((phrase,)))["caption_blocked"][0].as_py()


@pytest.mark.parametrize(
    ("phrase", "caption", "expected"),
    [
        ("dog", "a dog", True),
        ("dog", "Dog.", True),
        ("dog", '"dog"', True),
        ("dog", "(a-dog)", True),
        ("dog", "dog's bowl", True),
        ("dog", "dog_house.jpg", True),
        ("dog", "dog\ncat", True),
        ("dog", "hotdog", False),
        ("dog", "dogs", False),
        ("dog", "dog2", False),
        ("dog", "", False),
        ("dog", None, None),
        ("ass", "first class", False),
        ("DOG", "a dog", True),
        ("golden retriever", "A Golden  Retriever!", True),
        ("golden retriever", "golden-retriever", True),
        ("golden retriever", "golden, retriever", True),
        ("golden retriever", "golden retrievers", False),
        ("golden retriever", "retriever golden", False),
        ("t-shirt", "T shirt", True),
        ("t-shirt", "tshirt", False),
        ("42", "no. 42", True),
        ("42", "1942", False),
        ("straße", "STRASSE", True),
        ("ΟΔΟΣ", "οδος", True),
        ("café", "cafe\u0301", True),
        ("café", "cafe", False),
        ("dog", "ｄｏｇ", True),
        ("dog", "dög", False),
        ("काम", "काम करो", True),
        ("काम", "कामना", False),
        ("क", "का", False),
        ("猫", "黒猫です", True),
        ("猫", "a 猫!", True),
        ("แมว", "รูปแมวดำ", True),
        ("人々", "街の人々の写真", True),
        ("猫 cafe", "黒猫 cafe", True),
        ("猫 cafe", "猫 cafes", False),
    ],
)
def test_a_phrase_is_whole_words(phrase: str, caption: str | None, expected: bool | None) -> None:
    assert is_found(phrase, caption) is expected


def test_phrases_that_share_words_are_all_found() -> None:
    captions = pa.chunked_array([["a golden retriever dog", "retriever dog", "golden", "a b"]])
    for phrases in (("golden retriever", "retriever dog"), ("golden retriever dog", "retriever dog", "a b")):
        expected = [any(f" {p} " in f" {caption} " for p in phrases) for caption in captions.to_pylist()]
        assert Phrases(phrases).found_in(captions).to_pylist() == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog in the park", True),
        ("dog, asleep", True),  # DataComp: no, "dog," is not in WordNet
        ("a golden retriever", True),  # DataComp: single words only, so by "retriever" or not at all
        ("two dogs", False),  # DataComp: yes, WordNet knows the plural
        ("a hound", False),  # DataComp: by its own synset, if ImageNet-21k has it
        ("a crane on a building site", True),  # DataComp: only if the first sense is the one on its list
        ("nothing", False),
        (None, None),
    ],
)
def test_classes_are_those_of_the_list(caption: str | None, expected: bool | None) -> None:
    table = pa.table({"caption": pa.array([caption], pa.string())})
    found = class_signals(table, Phrases(("dog", "golden retriever", "crane")))
    assert found["text_based"].to_pylist() == [expected]


def words_of(text: str) -> list[str]:
    """Runs of letters, marks and digits of the folded text."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    runs = groupby(folded, key=lambda c: unicodedata.category(c)[0] in "LMN")
    return ["".join(run) for is_word, run in runs if is_word]


ALPHABET = "aAbßée\u0301 \u00a0_-.1\n"


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    texts(ALPHABET),
    st.lists(st.text(st.sampled_from(ALPHABET), max_size=4).filter(words_of), max_size=4),
    st.integers(1, 4),
)
def test_it_equals_a_search_word_by_word(captions: list[str | None], phrases: list[str], chunk: int) -> None:
    table = captions_in_chunks(captions, chunk)
    for signals, name in ((blocked_signals, "caption_blocked"), (class_signals, "text_based")):
        found = signals(table, Phrases(tuple(phrases)))
        assert is_extended(found, table, {name: SIGNALS.arrow.field(name).type})
        for caption, is_there in zip(captions, found[name].to_pylist(), strict=True):
            if caption is None:
                assert is_there is None
                continue
            words = words_of(caption)
            wanted = [words_of(phrase) for phrase in phrases]
            assert is_there is any(w == words[i : i + len(w)] for w in wanted for i in range(len(words)))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(texts(), st.integers(1, 4))
def test_any_text_is_safe(captions: list[str | None], chunk: int) -> None:
    table = captions_in_chunks(captions, chunk)
    found = blocked_signals(table, Phrases(("a", "猫")))
    assert found["caption_blocked"].is_null().to_pylist() == [caption is None for caption in captions]


def test_many_rows_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["dog", None, "", "cat", "a dog", "dog cat"] * 3
    table = captions_in_chunks(captions, 5)
    whole = blocked_signals(table, Phrases(("dog",)))
    monkeypatch.setattr(module, "_ROWS", 4)
    assert blocked_signals(table, Phrases(("dog",))).equals(whole)
    assert whole["caption_blocked"].to_pylist() == [True, None, False, False, True, True] * 3


def test_a_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff# Words to avoid\r\nbad word\r\n\r\n  #tag \n#\nx\u2028y\n".encode())
    phrases = load_phrases(path)
    assert phrases.texts == ("bad word", "#tag", "x\u2028y")
    assert pickle.loads(pickle.dumps(phrases)) == phrases
    captions = pa.chunked_array([["a tag", "bad word", "words to avoid"]])
    assert pickle.loads(pickle.dumps(phrases)).found_in(captions).to_pylist() == [True, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no phrase"),
        (b"# only\n\n", "no phrase"),
        (b"good\n!!!\n", "'!!!' has no letter"),
        (b"\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_phrases(path)
    assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(InputError, match="cannot be read"):
        load_phrases(tmp_path / "none.txt")
