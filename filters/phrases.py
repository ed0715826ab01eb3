"""Phrases of a list in captions: the block list and the class list, found with Aho-Corasick (Aho and Corasick, 1975).

A phrase matches whole words: letters, marks and digits are what words consist of, all else separates them, and case
and Unicode's compatible forms (NFKC) make no difference. Where a phrase begins or ends with a letter of a script
that is written without spaces (Han, kana, Thai, Lao, Khmer, Burmese), no word needs to begin or end there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ahocorasick_rs import BytesAhoCorasick

from filters.captions import WORD_SEPARATORS, caption_column, with_columns
from filters.errors import InputError

Positions = npt.NDArray[np.int64]

_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# So many captions are searched at a time: the matches of each make Python tuples.
_ROWS = 8192


@dataclass(frozen=True)
class Phrases:
    """A list of phrases, ready to be looked for; InputError for one without a letter or digit. Can be pickled."""

    texts: tuple[str, ...]
    _automaton: BytesAhoCorasick = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        patterns = _spaced(pa.array(self.texts, pa.string())).to_pylist()
        empty = [text for text, pattern in zip(self.texts, patterns, strict=True) if not pattern.strip()]
        if empty:
            raise InputError(f"the phrase {empty[0]!r} has no letter or digit: take it off the list")
        object.__setattr__(self, "_automaton", BytesAhoCorasick([_pattern(p).encode() for p in patterns]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Phrases, (self.texts,)

    def found_in(self, captions: pa.ChunkedArray) -> pa.Array:
        """Which captions hold a phrase: bool [N], null where the caption is null."""
        found = np.zeros(len(captions), bool)
        for start in range(0, len(captions), _ROWS):
            rows, _ = occurrences(self._automaton, _spaced(captions.slice(start, _ROWS)))
            found[start + rows] = True
        return pa.array(found, mask=captions.is_null().to_numpy())


def load_phrases(path: Path) -> Phrases:
    """The phrases of a text file in UTF-8, one a line; empty lines and those that begin with `# ` are skipped.

    InputError if the file cannot be read or holds no phrase.
    """
    texts = tuple(line for line in read_lines(path) if not line.startswith("# ") and line != "#")
    if not texts:
        raise InputError(f"{path}: no phrase in it; one a line is expected")
    try:
        return Phrases(texts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file in UTF-8, less white space at their ends and empty ones; InputError if unreadable."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8 (byte {error.start})") from error
    return [line for raw in text.split("\n") if (line := raw.strip())]


def blocked_signals(table: pa.Table, phrases: Phrases) -> pa.Table:
    """`table` with `caption_blocked` bool: whether column `caption` holds a phrase of the block list, as whole words.

    A list of the user's own; no threshold. It differs from `--caption-blocklist` of ingest, which looks for any
    substring, in all captions of a row, and puts the row out: that one is for marks such as `ohcb01` that stand
    inside longer strings, this one for words of a language, so that `ass` does not find "class".
    """
    return with_columns(table, caption_blocked=phrases.found_in(caption_column(table)))


def class_signals(table: pa.Table, phrases: Phrases) -> pa.Table:
    """`table` with `text_based` bool: whether column `caption` names a class of the list, as whole words.

    After the text-based filter of DataComp (Gadre et al., 2023), which keeps English captions of which one word's
    first WordNet synset is among those of ImageNet-21k; English is a signal of its own here. DataComp's rule knows
    plurals and synonyms through WordNet, looks at single words only, leaves signs on them ("dog," is no word) and
    takes a word's first sense alone. Here the list says all: plurals and synonyms count if they are on it, phrases
    of several words do too, signs do not matter, and the senses of a word are not told apart. No threshold.
    """
    return with_columns(table, text_based=phrases.found_in(caption_column(table)))


def occurrences(automaton: BytesAhoCorasick, texts: pa.Array) -> tuple[Positions, Positions]:
    """Every place where a pattern stands in one of `texts` (strings without null), overlapping ones too.

    Returns the number of the text and that of the pattern, int64 [P] each.
    """
    if not len(texts) or texts.buffers()[2] is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    # One search over the bytes of all: a call for each text would cost more than the search.
    joined = memoryview(texts.buffers()[2]).cast("B")[offsets[0] : offsets[-1]]
    matches = automaton.find_matches_as_indexes(joined, overlapping=True)
    found = np.fromiter(chain.from_iterable(matches), np.int64, 3 * len(matches)).reshape(-1, 3)
    ends = offsets[1:] - offsets[0]
    first = np.searchsorted(ends, found[:, 1], side="right")
    inside = first == np.searchsorted(ends, found[:, 2], side="left")
    return first[inside], found[inside, 0]


def _spaced(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Each text folded, one space between its words and at both ends; null as the empty text is."""
    folded: Sequence[str] = [unicodedata.normalize("NFKC", text or "").casefold() for text in texts.to_pylist()]
    words = pc.replace_substring_regex(pa.array(folded, pa.string()), WORD_SEPARATORS, " ")
    return pc.binary_join_element_wise(" ", pc.utf8_trim(words, " "), " ", "")


def _pattern(spaced: str) -> str:
    """The pattern for a phrase: its words, with a space where a word must begin or end."""
    words = spaced.strip(" ")
    before = "" if _SPACELESS.match(words[0]) else " "
    after = "" if _SPACELESS.match(words[-1]) else " "
    return before + words + after
