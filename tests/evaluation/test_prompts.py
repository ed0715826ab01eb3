"""Prompts of classes: the context is found in them by its tokens."""

from __future__ import annotations

import open_clip
import pytest
import torch

from evaluation.prompts import class_prompts
from filters.errors import InputError

CLIP = open_clip.get_tokenizer("ViT-B-32")
WORDS = {
    word: number for number, word in enumerate(("<end>", "a", "photo", "of", "cat", "dog", "red", "car", "."), 1)
}


def words(texts: list[str], context_length: int | None = None) -> torch.Tensor:
    """A tokenizer of words without a start-of-text token, padded with its end-of-text token as SigLIP's is."""
    length = context_length or 9
    rows = [[WORDS[word] for word in text.replace(".", " .").split()] for text in texts]
    return torch.tensor([[*row[: length - 1], *[1] * (length - len(row[: length - 1]))] for row in rows])


def test_the_context_is_behind_the_start_of_text() -> None:
    found = class_prompts(CLIP, ["great_white_shark", "  tench "])
    assert found.texts == ["a photo of a great white shark.", "a photo of a tench."]
    assert found.context == range(1, 5)
    assert torch.equal(found.tokens, CLIP(found.texts))
    expected = CLIP(["a photo of a"])[0, 1:5]
    assert torch.equal(found.tokens[:, 1:5], expected.expand(2, -1))


def test_other_words_of_context_and_names_that_begin_alike() -> None:
    found = class_prompts(CLIP, ["red car", "red fox"], context="itap of the")
    length = CLIP.encode("itap of the")
    assert found.context == range(1, 1 + len(length))


def test_a_tokenizer_without_start_of_text() -> None:
    found = class_prompts(words, ["cat", "red car"])
    assert found.context == range(4)
    assert found.tokens[1].tolist() == [2, 3, 4, 2, 7, 8, 9, 1, 1]


@pytest.mark.parametrize(
    ("names", "context", "says"),
    [
        (["cat", "_"], "a photo of a", "a class has an empty name"),
        ([], "a photo of a", "at least one class name"),
        (["cat"], " ", "one word of context"),
        (["cat", "dog " * 80], "a photo of a", "class 'dog dog .*more than 77 tokens"),
        # One token, "catfish", which the context alone is not.
        (["fish"], "a photo of a cat-", "does not keep the context"),
    ],
)
def test_prompts_that_cannot_be(names: list[str], context: str, says: str) -> None:
    def joined(texts: list[str], context_length: int | None = None) -> torch.Tensor:
        found: torch.Tensor = CLIP([text.replace("- ", "") for text in texts], context_length)
        return found

    with pytest.raises(InputError, match=says):
        class_prompts(joined, names, context)


def test_a_prompt_that_just_fits_is_taken() -> None:
    name = "dog " * (77 - 2 - 4 - 1)
    assert class_prompts(CLIP, [name]).tokens[0, -1] == CLIP.eot_token_id
