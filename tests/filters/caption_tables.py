"""Captions for the tests of signals of text."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from hypothesis import strategies as st


def texts(alphabet: str | None = None) -> st.SearchStrategy[list[str | None]]:
    """Lists of captions, some of them null: of any characters, or of those of `alphabet` only."""
    characters = st.sampled_from(alphabet) if alphabet else st.characters(codec="utf-8")
    return st.lists(st.none() | st.text(characters, max_size=20), max_size=8)


def captions_in_chunks(captions: Sequence[str | None], chunk: int) -> pa.Table:
    """A table with a uid and these captions, in chunks of `chunk` that are slices of larger arrays."""
    whole = pa.array(["before", *captions], pa.string())
    uids = pa.array([f"{i:032x}" for i in range(len(whole))])
    parts = [slice(start, start + chunk) for start in range(1, len(whole), chunk)]
    return pa.table(
        {
            "uid": pa.chunked_array([uids[part] for part in parts], pa.string()),
            "caption": pa.chunked_array([whole[part] for part in parts], pa.string()),
        }
    )
