"""Canonical rows: what ingest makes of each record, and the declared rules by which it is kept or skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import uid_text
from pipelines.sources import Source
from pipelines.store.schema import METADATA

# Addresses that need no closer look: a plain host name, and no sign before the path that could name a user.
_PLAIN_URL = r"\Ahttps?://[A-Za-z0-9._-]+(:[0-9]{1,5})?([/?#]|\z)"


def canonical(rows: pa.Table, source: Source, recipe: str, blocklist: Sequence[str] = ()) -> pa.Table:
    """Rows of schema METADATA for identified rows: same rows, same order, each with uid, captions and reason."""
    captions = source.captions(rows, recipe)
    columns = {
        "uid": uid_text(rows["uid_hi"], rows["uid_lo"]),
        "uid_lo": rows["uid_lo"],
        "source": pa.repeat(source.name, len(rows)),
        "caption": pc.list_element(_padded(captions), 0),
        "captions": captions,
        "caption_recipe": pa.repeat(recipe, len(rows)),
        "reason": _reasons(rows, source, captions, blocklist),
        "duplicate_row_of": uid_text(rows["first_hi"], rows["first_lo"]),
    }
    table = pa.table({name: columns[name] if name in columns else rows[name] for name in METADATA.names})
    return METADATA.conform(table)


def _reasons(rows: pa.Table, source: Source, captions: pa.ChunkedArray, blocklist: Sequence[str]) -> pa.ChunkedArray:
    """The first rule that puts each row out, or `ok`; rules look only at what the source declares."""
    rules = [
        ("duplicate_row", rows["first_lo"].is_valid()),
        (None, pc.not_equal(rows["reason"], "ok")),
        ("bad_url", _bad_urls(rows["url"])),
        *_undeclared("nsfw_declared", rows, source.allowed_nsfw),
        *_undeclared("language_declared", rows, source.allowed_languages),
        ("no_caption", pc.equal(pc.fill_null(pc.list_value_length(captions), 0), 0)),
        *([("caption_blocked", _blocked(captions, blocklist))] if blocklist else []),
    ]
    reason = pa.repeat("ok", len(rows))
    for name, applies in reversed(rules):
        reason = pc.if_else(applies, rows["reason"] if name is None else name, reason)
    return reason


def _undeclared(column: str, rows: pa.Table, allowed: frozenset[str] | None) -> list[tuple[str, pa.ChunkedArray]]:
    if allowed is None:
        return []
    return [(column, pc.invert(pc.is_in(rows[column], pa.array(sorted(allowed), pa.string()))))]


def _blocked(captions: pa.ChunkedArray, blocklist: Sequence[str]) -> pa.Array:
    """Which rows have a caption with one of the texts in it."""
    lists = captions.combine_chunks()
    pattern = "|".join(re.escape(text) for text in blocklist)
    found = pc.match_substring_regex(pc.list_flatten(lists), pattern, ignore_case=True)
    blocked = np.zeros(len(lists), bool)
    blocked[pc.list_parent_indices(lists).filter(found).to_numpy()] = True
    return pa.array(blocked)


def _bad_urls(urls: pa.ChunkedArray) -> pa.Array:
    """Which addresses cannot be fetched; the plain ones, nearly all, are known without being taken apart."""
    is_plain = pc.fill_null(pc.match_substring_regex(urls, _PLAIN_URL), False).to_pylist()
    return pa.array([not (plain or is_fetchable(url)) for plain, url in zip(is_plain, urls.to_pylist(), strict=True)])


def is_fetchable(url: str | None) -> bool:
    """Whether the URL is http or https, names a host, and carries no user name or password."""
    try:
        parts = urlsplit(url or "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _padded(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of at least one element, so that the first can be taken; null where there is no caption."""
    is_empty = pc.equal(pc.fill_null(pc.list_value_length(captions), 0), 0)
    return pc.if_else(is_empty, pa.scalar([None], pa.list_(pa.string())), captions)
