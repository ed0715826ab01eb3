"""Captions to tokens, where they are loaded; both what is remembered of captions and of words is bounded."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip import tokenizer as open_clip_tokenizer

Tokenize = Callable[[list[str]], torch.Tensor]  # int64 [N, context_length] of N captions
_CAPTIONS = 1 << 14  # remembered: a caption of a small mixture comes back in every epoch
_WORDS = 1 << 17  # remembered: the rare words of a large mixture would fill the memory


class Tokens:
    """`tokenize` with a bounded memory; `length` is the context length."""

    def __init__(self, tokenize: Tokenize) -> None:
        one = _Words(tokenize) if _is_plain(tokenize) else functools.partial(_one, tokenize)
        self._one = functools.lru_cache(maxsize=_CAPTIONS)(one)
        self.length = len(self._one(""))

    def __call__(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens int64 [N, length] of N captions."""
        return np.stack([self._one(caption) for caption in captions]).astype(np.int64)


def _is_plain(tokenize: Any) -> bool:
    """Whether this is open_clip's byte-pair tokenizer, which cuts long captions at their end."""
    return type(tokenize) is open_clip_tokenizer.SimpleTokenizer and tokenize.reduction_fn is None


def _one(tokenize: Tokenize, caption: str) -> npt.NDArray[np.int32]:
    tokens: npt.NDArray[np.int32] = tokenize([caption])[0].to(torch.int32).numpy()
    return tokens


class _Words:
    """open_clip's byte-pair tokenizer, word by word: the same tokens in a third of the time.

    Its own `encode` looks each piece of each word up again, and cleans captions that cannot need it. It also forgets
    no word, which is done here for it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.cache)
        self._pattern = re.compile(tokenizer.pat) if isinstance(tokenizer.pat, str) else tokenizer.pat
        self._has_plain = tokenizer.clean_fn is open_clip_tokenizer._clean_lower
        self._known: dict[str, list[int]] = {}

    def __call__(self, caption: str) -> npt.NDArray[np.int32]:
        """Tokens int32 [context_length] of a caption: start, pieces, end, zeros; pieces that are too many are cut."""
        if len(self._known) > _WORDS:
            self._known.clear()
            self._tokenizer.cache.clear()
            self._tokenizer.cache.update(self._special)
        tokenizer, known = self._tokenizer, self._known
        out = np.zeros(tokenizer.context_length, np.int32)
        pieces = [tokenizer.sot_token_id]
        for word in self._pattern.findall(self._clean(caption)):
            found = known.get(word)
            pieces += self._pieces(word) if found is None else found
        pieces = pieces[: len(out) - 1]
        out[: len(pieces)] = pieces
        out[len(pieces)] = tokenizer.eot_token_id
        return out

    def _clean(self, caption: str) -> str:
        # ASCII without entities and control characters is nothing that could be repaired.
        if self._has_plain and caption.isascii() and caption.isprintable() and "&" not in caption:
            return " ".join(caption.split()).lower()
        text: str = self._tokenizer.clean_fn(caption)
        return text

    def _pieces(self, word: str) -> list[int]:
        tokenizer = self._tokenizer
        letters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
        found = [tokenizer.encoder[piece] for piece in tokenizer.bpe(letters).split(" ")]
        self._known[word] = found
        return found
