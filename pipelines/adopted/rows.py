"""Rows of schema SHARD from what a tar and the parquet beside it say of a sample."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.identity import uid_of
from pipelines.sources.wit import ALT, ATTRIBUTION, REFERENCE
from pipelines.store.reasons import REASONS, Status
from pipelines.store.schema import SHARD

Record = Mapping[str, Any]

_EMPTY = dict.fromkeys(SHARD.names)

# Our column → the names under which img2dataset users, LAION, COYO, RedCaps and DataComp have it.
_NAMES = {
    "url": ("url", "URL", "image_url"),
    "license": ("license", "LICENSE"),
    "nsfw_declared": ("nsfw_declared", "NSFW"),
    "language_declared": ("language_declared", "LANGUAGE"),
    "hash_declared": ("hash_declared",),
}
_CAPTIONS = ("caption", "text", "TEXT", "alt_text")
# Source → where its dump has an identifier of its own; in any other table it has one of the usual names.
_IDS: dict[str, tuple[str, ...]] = {
    "cc12m": (), "laion": ("SAMPLE_ID",), "redcaps": ("image_id",), "shutterstock": (), "wit": (),
    "yfcc": ("photo_id", "id"),
}  # fmt: skip
_ANY_ID = ("SAMPLE_ID", "sample_id", "id", "image_id")
# Source → the raw caption fields that ingest reads, each with the names it may have beside a tar: a sample that was
# downloaded from the same dump then gets the same uid.
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "laion": {"TEXT": ("TEXT", *_CAPTIONS)},
    "redcaps": {"raw_caption": ("raw_caption",), "caption": ("caption",), "subreddit": ("subreddit",)},
    "wit": {REFERENCE: (REFERENCE, "caption"), ATTRIBUTION: (ATTRIBUTION,), ALT: (ALT,)},
    "yfcc": {"title": ("title",), "description": ("description",), "usertags": ("usertags",)},
}
_FAILURES = frozenset(Status) - {Status.SUCCESS}
_UID = re.compile(r"[0-9a-f]{32}")
_RESHARDED = re.compile(r"([0-9a-f]{32})-\d+")  # DataComp's resharder: uid and repetition
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")
_LITERALS = {literal: reason for reason, (_, literal, _) in REASONS.items() if literal}
# What urllib says, in img2dataset's `error_message`; the first that is found counts.
_MESSAGES = (
    (r"HTTP Error 404\b", "http_404"),
    (r"HTTP Error 410\b", "http_410"),
    (r"HTTP Error 429\b", "http_429"),
    (r"HTTP Error 3\d\d\b", "redirects"),
    (r"HTTP Error 4", "http_4xx"),
    (r"HTTP Error 5", "http_5xx"),
    (r"timed? ?out", "timeout"),
    (r"name or service not known|name resolution|no address associated|getaddrinfo|nodename nor servname", "dns"),
    (r"label (?:empty|too long)|'idna' codec", "dns"),
    (r"unknown url type|no host given|control character|nonnumeric port|invalid ipv6|port (?:could|out)", "bad_url"),
    (r"X-Robots-Tag", "opt_out"),
)


def row_of(source: str, file: str, line: int, key: str, record: Record, text: str | None = None) -> dict[str, Any]:
    """The columns of one sample that need no pixels: identity, caption, what was recorded and declared.

    `record` holds the fields of the sample's json and of its parquet row, `text` is its `txt`. `file` and `line` are
    the tar's name and the sample's place in it. The uid is the recorded one; else ingest's, from source, native id,
    url and raw caption, where a url is known; else that of the key, which needs the tar's name unless it is a UUID.
    """
    named = {ours: _first(record, theirs) for ours, theirs in _NAMES.items()}
    named["native_id"] = _first(record, ("native_id", *_IDS.get(source, _ANY_ID))) or ""
    raw = caption_fields(source, record) or ({"txt": text} if text else {})
    captions, recipe = _captions(record, text)
    uid = _uid(source, file, key, record, named, raw)
    return {
        **_EMPTY,
        **named,
        "uid": uid,
        "uid_lo": int(uid[16:], 16),
        "source": source,
        "key": key,
        "caption": captions[0] if captions else None,
        "captions": captions,
        "caption_raw": raw,
        "caption_recipe": recipe,
        "scores_declared": _scores(record) or None,
        "face_bboxes": _boxes(record.get("face_bboxes")),
        "original_width": _whole(record.get("original_width")),
        "original_height": _whole(record.get("original_height")),
        "exif": _text(record.get("exif")),
        "sha256": _digest(record.get("sha256")),
        "attempt": 0,
        "file": file,
        "line": line,
    }


def caption_fields(source: str, record: Record) -> dict[str, str | None]:
    """The raw caption fields as ingest would read them from the source's dump, as far as they were recorded."""
    own = _mapping(record.get("caption_raw"))
    if own:
        return {name: _text(value) for name, value in own.items()}
    fields = _FIELDS.get(source, {})
    if fields and all(any(name in record for name in names) for names in fields.values()):
        return {field: _first(record, names) for field, names in fields.items()}
    texts = _texts(record.get("texts"))
    if texts:
        return {f"texts[{index}]": text for index, text in enumerate(texts)}
    return next(({name: _text(record[name])} for name in _CAPTIONS if name in record), {})


def reason_of(status: str, message: str | None) -> str:
    """Our reason for img2dataset's `status` (one that is not success) and `error_message`."""
    if message in _LITERALS:
        return _LITERALS[message]
    for pattern, reason in _MESSAGES:
        if message and re.search(pattern, message, re.IGNORECASE):
            return reason
    return "decode" if status == Status.FAILED_TO_RESIZE else "connection"


def listed_failure(record: Record) -> tuple[str, str, str | None] | None:
    """Status, reason and message of a parquet row that says that its download failed; None for any other row."""
    status, message = _text(record.get("status")), _text(record.get("error_message"))
    if status not in _FAILURES:
        return None
    own = _text(record.get("reason"))
    reason = own if own in REASONS and own != "ok" else reason_of(status, message)
    return status, reason, message or REASONS[reason][1]


def _uid(
    source: str, file: str, key: str, record: Record, named: Mapping[str, str | None], raw: Mapping[str, str | None]
) -> str:
    declared = (_text(record.get("uid")) or "").lower()
    if _UID.fullmatch(declared):
        return declared
    fields = [text or "" for text in raw.values()]
    if named["url"]:
        return uid_of(source, named["native_id"] or "", named["url"], fields)
    resharded = _RESHARDED.fullmatch(key)
    if resharded:
        return resharded[1]
    return uid_of(source, key if _UUID.fullmatch(key) else f"{file}/{key}", "", fields)


def _captions(record: Record, text: str | None) -> tuple[list[str], str]:
    """The captions to train on, and where they stand: the `txt` before the record, since it is what loaders read."""
    recorded = next(((name, value) for name in _CAPTIONS if _is_said(value := _text(record.get(name)))), None)
    if _is_said(text) and (recorded is None or recorded[1] != text):
        return [text or ""], "txt"
    for name in ("captions", "texts"):
        texts = [value for value in _texts(record.get(name)) if _is_said(value)]
        if texts and (recorded is None or recorded[1] == texts[0]):
            return texts, _text(record.get("caption_recipe")) or name
    if recorded is None:
        return [], "caption"
    return [recorded[1] or ""], _text(record.get("caption_recipe")) or recorded[0]


def _is_said(text: str | None) -> bool:
    return text is not None and bool(text.strip())


def _texts(value: Any) -> list[str]:
    """The strings of a list of strings, or of MetaCLIP's list of pairs [kind, text]."""
    if not isinstance(value, list):
        return []
    flat = [item[1] if isinstance(item, list) and len(item) > 1 else item for item in value]
    return [text for item in flat if isinstance(item, str) and (text := _text(item)) is not None]


def _first(record: Record, names: Sequence[str]) -> str | None:
    return next((text for name in names if (text := _text(record.get(name))) is not None), None)


def _text(value: Any) -> str | None:
    """A recorded value as text that UTF-8 can hold; whole numbers without a fraction, as ids that were floats."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else None


def _digest(value: Any) -> str | None:
    text = (_text(value) or "").lower()
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _scores(record: Record) -> dict[str, float]:
    """The numbers that were recorded with the sample and are none of our columns: similarities and the like."""
    other = {name: value for name, value in record.items() if name not in _EMPTY}
    found = _mapping(record.get("scores_declared")) | _mapping(other)
    return {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}


def _mapping(value: Any) -> dict[str, Any]:
    """A map column of ours as JSON (an object) or Arrow (a list of pairs) gives it; empty for anything else."""
    if isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        value = dict(value)
    return {_text(name) or "": item for name, item in value.items()} if isinstance(value, Mapping) else {}


def _boxes(value: Any) -> list[list[float]] | None:
    try:
        return [[float(side) for side in box] for box in value]
    except (TypeError, ValueError, OverflowError):
        return None
