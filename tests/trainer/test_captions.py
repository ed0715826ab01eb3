from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import letters
from trainer.captions import Tokens, _Words

TOKENIZER = open_clip.get_tokenizer("ViT-B-32")
ODD = [
    "",
    " ",
    "A photo  of the Dog's 2 bones, isn't it?",
    "caf&eacute; &amp;amp; more",
    "<start_of_text> a <end_of_text> b",
    "Stra\u00dfe \u00e4\u00f6\u00fc \u4e2d\u6587 \U0001f600\u200d\U0001f680",
    "l\u00c3\u00a9gende abim\u00c3\u00a9e",
    "tab\there\nand \x1b[31mred\x1b[0m",
    "\u201cquoted\u201d \u2026 \ufb01ne \u0130stanbul",
    "word " * 100,
    "x" * 500,
]
ENDS = {77: "word " * 75 + "last", 78: "word " * 76 + "last"}


@pytest.mark.parametrize("text", [*ODD, *ENDS.values()])
def test_tokens_are_those_of_open_clip(text: str) -> None:
    tokens = Tokens(TOKENIZER)
    assert isinstance(tokens._one.__wrapped__, _Words)
    np.testing.assert_array_equal(tokens([text, "a", text]), TOKENIZER([text, "a", text]).numpy())


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.text(st.characters(max_codepoint=126)), st.from_regex(r"[\w' &;<>-]{0,60}")))
def test_any_text_has_the_tokens_of_open_clip(text: str) -> None:
    np.testing.assert_array_equal(Tokens(TOKENIZER)([text]), TOKENIZER([text]).numpy())


def test_what_is_remembered_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.captions._WORDS", 5)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    tokens = Tokens(tokenizer)
    texts = [f"{chr(97 + i)}{chr(98 + i)} word <end_of_text>" for i in range(20)]
    np.testing.assert_array_equal(tokens(texts), TOKENIZER(texts).numpy())
    words = tokens._one.__wrapped__
    assert isinstance(words, _Words)
    assert len(words._known) <= 9
    assert len(tokenizer.cache) <= 11


def test_other_tokenizers_are_asked_once_for_each_caption() -> None:
    asked: list[str] = []

    def tokenize(captions: list[str]) -> torch.Tensor:
        asked.extend(captions)
        return letters(captions)

    tokens = Tokens(tokenize)
    assert tokens.length == 24
    texts = [str(i) for i in range(20)]
    for _ in range(2):
        np.testing.assert_array_equal(tokens(texts), letters(texts))
    assert tokens(texts).dtype == np.int64
    assert asked == ["", *texts]


@pytest.mark.parametrize("options", [{"clean": "canonicalize"}, {"clean": "whitespace"}, {"context_length": 9}])
def test_tokenizers_with_other_rules_keep_them(options: dict[str, Any]) -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer(**options)
    texts = ["A Photo, of the  Dog!", "word " * 20]
    np.testing.assert_array_equal(Tokens(tokenizer)(texts), tokenizer(texts).numpy())


def test_a_tokenizer_that_shortens_by_its_own_rule_is_called_as_a_whole() -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer(reduction_mask="simple")
    assert not isinstance(Tokens(tokenizer)._one.__wrapped__, _Words)
