"""Captions to tokens, where they are loaded; both what is remembered of captions and of words is bounded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Tokenize = Callable[[list[str]], torch.Tensor]  # int64 [N, context_length] of N captions
_CAPTIONS = 1 << 14  # remembered: a caption of a small mixture comes back in every epoch
_WORDS = 1 << 17  # remembered by open_clip's tokenizer, which forgets none by itself


class Tokens:
    """`tokenize` with a bounded memory; `length` is the context length."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._words: dict[str, str] | None = getattr(tokenize, "cache", None)
        self._special = dict(self._words) if isinstance(self._words, dict) else {}
        self._one = functools.lru_cache(maxsize=_CAPTIONS)(self._tokens)
        self.length = int(self._one("").shape[0])

    def __call__(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens int64 [N, length] of N captions."""
        return np.stack([self._one(caption) for caption in captions]).astype(np.int64)

    def _tokens(self, caption: str) -> npt.NDArray[Any]:
        if isinstance(self._words, dict) and len(self._words) > _WORDS:
            self._words.clear()
            self._words.update(self._special)
        tokens: npt.NDArray[Any] = self._tokenize([caption])[0].to(torch.int32).numpy()
        return tokens
