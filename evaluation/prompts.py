"""Class names as tokenised prompts, of which the tokens of the context are known by their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from filters.errors import InputError

CONTEXT = "a photo of a"
# open_clip's tokenizers: (texts, context_length=None) to int64 [N, context_length].
Tokenizer = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """One prompt a class: `tokens` int64 [K, L], and the positions of the context, which are the same in each."""

    texts: list[str]
    tokens: torch.Tensor
    context: range


def class_prompts(tokenizer: Tokenizer, classnames: Sequence[str], context: str = CONTEXT) -> ClassPrompts:
    """`"{context} {name}."` of each name, `_` read as a space, as `tokenizer` gives it.

    The context is found by its own tokens, after the start-of-text token where the tokenizer has one. InputError
    for an empty name, one whose prompt is longer than the tokenizer reads, and a context that is not the same tokens
    in each prompt.
    """
    texts = [f"{context} {' '.join(name.replace('_', ' ').split())}." for name in classnames]
    for name in classnames:
        if not name.replace("_", " ").strip():
            raise InputError("a class has an empty name; give each a name")
    if not texts or not context.strip():
        raise InputError("prompts need at least one class name and one word of context")
    tokens = tokenizer(texts)
    length = tokens.shape[1]
    # With room for one token more, a text that was cut reads otherwise.
    cut = (tokenizer(texts, length + 1)[:, :length] != tokens).any(dim=1)
    if cut.any():
        name = classnames[int(cut.int().argmax())]
        raise InputError(f"class {name!r}: its prompt has more than {length} tokens, which is all the model reads")
    return ClassPrompts(texts, tokens, _context_positions(tokenizer, context, tokens))


def _context_positions(tokenizer: Tokenizer, context: str, tokens: torch.Tensor) -> range:
    """Where the tokens of `context` stand in each of `tokens`.

    They start where the context alone departs from the empty text (a start-of-text token is common to both), and
    end where it goes on as the empty text does there: with an end-of-text token.
    """
    empty, alone = tokenizer(["", context])
    start = int((empty != alone).int().argmax())
    end = int((alone != tokens).any(dim=0).int().argmax())
    if end <= start or alone[end] != empty[start]:
        raise InputError(f"the tokenizer does not keep the context {context!r} apart from the names; use other words")
    return range(start, end)
