"""Entries of a metadata list in captions, and balancing over them: MetaCLIP (Xu et al., 2023).

MetaCLIP matches captions to a list of 500,000 entries (words of WordNet and Wikipedia) and keeps about `t` captions
of each at most: t = 20,000 for 400 M pairs, 170,000 for 2.5 B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ahocorasick_rs import BytesAhoCorasick

from filters.captions import caption_column, with_columns
from filters.errors import InputError
from filters.phrases import occurrences, read_lines

_ROWS = 8192


@dataclass(frozen=True)
class Entries:
    """A list of entries, ready to be looked for; an entry's position in `texts` is its number. Can be pickled."""

    texts: tuple[str, ...]
    _automaton: BytesAhoCorasick = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_automaton", BytesAhoCorasick([f" {text} ".encode() for text in self.texts]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Entries, (self.texts,)

    def found_in(self, captions: pa.ChunkedArray) -> pa.ChunkedArray:
        """Numbers of the entries that each caption holds, ascending: list of int32 [N], null where the caption is."""
        slices = [self._found(captions.slice(start, _ROWS)) for start in range(0, len(captions), _ROWS)]
        return pa.chunked_array(slices, pa.list_(pa.int32()))

    def _found(self, captions: pa.ChunkedArray) -> pa.Array:
        rows, patterns = occurrences(self._automaton, _spaced(captions))
        both = np.unique(rows * len(self.texts) + patterns)
        rows, patterns = np.divmod(both, len(self.texts))
        offsets = np.r_[0, np.cumsum(np.bincount(rows, minlength=len(captions)))].astype(np.int32)
        null = captions.is_null().combine_chunks()
        return pa.ListArray.from_arrays(offsets, patterns.astype(np.int32), mask=null)


def load_entries(path: Path) -> Entries:
    """The entries of a list: a JSON file (`.json`) with an array of strings, as MetaCLIP's `metadata.json`, or a text
    file in UTF-8 with one a line.

    Empty entries, and those that were there before, are skipped and have no number. InputError if the file cannot be
    read or holds no entry.
    """
    texts = dict.fromkeys(_json_strings(path) if path.suffix == ".json" else read_lines(path))
    if not texts:
        raise InputError(f"{path}: no entry in it; one a line, or a JSON array of strings, is expected")
    try:
        return Entries(tuple(texts))
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: an entry is no text: {error}") from error


def entry_signals(table: pa.Table, entries: Entries) -> pa.Table:
    """`table` with `entries` list of int32: numbers of the entries that column `caption` holds, ascending, each once.

    MetaCLIP's sub-string matching, as it was released: the caption gets a space at both ends and on both sides of
    each of , . ; : ? ! `, tabs and line breaks become spaces, and an entry matches where it stands between spaces.
    Case counts, overlapping matches all do, an entry of several words matches single spaces only, and an entry with
    such a sign in it never does unless it has spaces around it, too. No threshold.
    """
    return with_columns(table, entries=entries.found_in(caption_column(table)))


def entry_counts(matches: pa.Array | pa.ChunkedArray, size: int) -> npt.NDArray[np.int64]:
    """How many captions hold each of `size` entries: int64 [size], from column `entries` (list of int32 [N])."""
    return np.bincount(_numbers(matches, size), minlength=size)


def keep_probability(
    matches: pa.Array | pa.ChunkedArray,
    counts: npt.NDArray[np.int64],
    t: float,
    draws: Literal["each", "best"] = "each",
) -> pa.Array:
    """How likely balancing keeps each sample: float64 [N], 0 to 1; 0 where no entry matched, null where `matches` is.

    An entry that `counts` (int64 [E]) says c captions hold lets one through with p = min(1, t / c). `each`: one draw
    for each entry, any of which keeps the sample, 1 − ∏(1 − p): that is Algorithm 1 of MetaCLIP (Xu et al., 2023;
    t = 20,000 for 400 M pairs). `best`: one draw for each sample, with the largest p of its entries. That is less
    where several entries are frequent, the same where one alone is or where any has p = 1. InputError if `t` is not a
    number above 0 or an entry has no count.
    """
    if not 0 < t < np.inf:
        raise InputError(f"t = {t}: the number of captions to keep of each entry must be finite and more than 0")
    numbers = _numbers(matches, len(counts))
    lost = np.ones(len(matches))
    join = np.minimum if draws == "best" else np.multiply
    join.at(lost, pc.list_parent_indices(matches).to_numpy(), 1 - t / np.maximum(counts, t)[numbers])
    kept = 1 - lost
    return pa.array(kept, mask=matches.is_null().to_numpy(zero_copy_only=False))


def _numbers(matches: pa.Array | pa.ChunkedArray, size: int) -> npt.NDArray[np.int64]:
    """The numbers in all lists one after the other, each at most `size` − 1."""
    numbers: npt.NDArray[np.int64] = pc.fill_null(pc.list_flatten(matches), -1).to_numpy().astype(np.int64)
    strange = numbers[(numbers < 0) | (numbers >= size)]
    if len(strange):
        raise InputError(f"entry {strange[0]} is not in a list of {size}: the matches were made with another list")
    return numbers


def _spaced(captions: pa.ChunkedArray) -> pa.Array:
    """Each caption with spaces around it and its signs; null as the empty text is."""
    texts = pc.fill_null(captions, "").combine_chunks()
    texts = pc.replace_substring_regex(texts, r"([,.;:?!`])", r" \1 ")
    texts = pc.replace_substring_regex(texts, r"[\t\n\r]", " ")
    return pc.binary_join_element_wise(" ", texts, " ", "")


def _json_strings(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON in UTF-8: {error}") from error
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InputError(f"{path}: a JSON array of strings is expected")
    # Captions have no line breaks when they are searched, and a list of one entry a line could not hold them.
    broken = [text for text in found if "\n" in text or "\r" in text]
    if broken:
        raise InputError(f"{path}: the entry {broken[0]!r} has a line break: take it off the list")
    return [text for text in found if text.strip()]
