"""What is planted in the demo web: each kind's share of the rows, where it may stand and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np

from demo.web_record import SOURCES, Record
from filters.errors import InputError

MIN_ROWS = 150


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of planted row: its share of all rows, the reason to expect, and the sources that can have it."""

    share: float
    reason: str = "ok"
    sources: tuple[str, ...] = SOURCES


def _all_but(source: str) -> tuple[str, ...]:
    return tuple(s for s in SOURCES if s != source)


KINDS: dict[str, Kind] = {
    "http_404": Kind(0.012, "http_404"),
    "http_410": Kind(0.004, "http_410"),
    "http_429": Kind(0.003, "http_429"),
    "http_429_then_ok": Kind(0.005),
    "http_5xx": Kind(0.004, "http_5xx"),
    "http_5xx_then_ok": Kind(0.008),
    "slow_body": Kind(0.003),
    "endless_body": Kind(0.001, "timeout"),
    "short_body": Kind(0.003, "connection"),
    "html": Kind(0.006, "decode"),
    "truncated": Kind(0.008, "decode"),
    "redirect": Kind(0.012),
    "redirect_loop": Kind(0.002, "redirects"),
    "opt_out": Kind(0.006, "opt_out"),
    "odd_content_type": Kind(0.010),
    "dns": Kind(0.001, "dns"),
    "bad_url": Kind(0.002, "bad_url"),
    "bad_row": Kind(0.003, "bad_row", _all_but("laion")),  # a parquet row cannot have too few fields
    "duplicate_row": Kind(0.004, "duplicate_row"),
    "null_caption": Kind(0.008, "no_caption"),
    "unbalanced_quote": Kind(0.006),
    "swapped_caption": Kind(0.040),
    "non_english_caption": Kind(0.012, "ok", _all_but("wit")),
    "language_declared": Kind(0.010, "language_declared", ("wit",)),
    "nsfw_declared": Kind(0.008, "nsfw_declared", ("laion",)),
    "video": Kind(0.003, "video", ("yfcc",)),
    "exact_duplicate": Kind(0.020),
    "near_duplicate": Kind(0.040),
    "leak_exact": Kind(0.004),
    "leak_reencoded": Kind(0.006),
}

# Kinds whose row copies another row or an evaluation picture; they are made after all others.
COPIES = ("exact_duplicate", "near_duplicate", "leak_exact", "leak_reencoded", "duplicate_row")

# Strengths of near duplicates, fixed before anything was tuned on them. Crop is the share of each side that goes.
SCALES = (0.5, 0.7, 1.4, 2.0)
CROPS = (0.01, 0.03, 0.05)
QUALITIES = (60, 75, 90)
TRANSFORMS: dict[str, float] = {
    "scale": 0.24,
    "jpeg": 0.18,
    "crop": 0.20,
    "scale+jpeg": 0.12,
    "crop+jpeg": 0.10,
    "scale+crop": 0.08,
    "scale+crop+jpeg": 0.08,
}
LEAK_TRANSFORMS: dict[str, float] = {"scale": 0.3, "jpeg": 0.35, "scale+jpeg": 0.35}

# What a planted server fault does, by kind: one of these is drawn as the record's `param`.
PARAMS: dict[str, tuple[str, ...]] = {
    "http_5xx": ("500", "502", "503", "504"),
    "http_5xx_then_ok": ("500", "502", "503", "504"),
    "html": ("text/html; charset=utf-8", "image/jpeg"),
    "truncated": ("0.3", "0.5", "0.7"),
    "short_body": ("0.3", "0.6", "0.9"),
    "redirect": ("301", "302", "303", "307", "308"),
    "redirect_loop": ("self", "pair"),
    "opt_out": ("noai", "noimageai", "noindex, noai", "noai, noimageai"),
    "odd_content_type": ("application/octet-stream", "binary/octet-stream", "image/jpg", "text/plain"),
    "bad_row": ("fields_missing", "fields_extra"),
    "nsfw_declared": ("UNSURE", "NSFW", "NSFW", "null"),
}
# How often: failures before success (at most the two retries a client has), or hops of a redirect.
TIMES = {"http_429_then_ok": (1, 2), "http_5xx_then_ok": (1, 2), "redirect": (1, 2, 3)}


def deal_kinds(rows: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """For each source the kinds of its rows, in random order: `rows` in all, each kind at least twice."""
    if rows < MIN_ROWS:
        raise InputError(f"the demo web needs at least {MIN_ROWS} rows to plant every fault twice; got {rows}")
    dealt: dict[str, list[str]] = {source: [] for source in SOURCES}
    shuffled = [SOURCES[i] for i in rng.permutation(len(SOURCES))]
    turn = cycle(shuffled)
    for kind, entry in KINDS.items():
        for _ in range(max(2, round(entry.share * rows))):
            source = next(s for s in turn if s in entry.sources)
            dealt[source].append(kind)
    per_source = [rows // len(SOURCES) + (i < rows % len(SOURCES)) for i in range(len(SOURCES))]
    for source, wanted in zip(SOURCES, per_source, strict=True):
        dealt[source] += ["clean"] * (wanted - len(dealt[source]))
        rng.shuffle(dealt[source])
    return dealt


def set_behaviour(record: Record, rng: np.random.Generator) -> None:
    """Draw how the record's planted fault shows: its `param` and `times`."""
    if record.plant in PARAMS:
        choices = PARAMS[record.plant]
        record.param = choices[int(rng.integers(len(choices)))]
    if record.plant in TIMES:
        record.times = int(rng.choice(TIMES[record.plant]))


def set_transform(record: Record, kinds: dict[str, float], longest: int, rng: np.random.Generator) -> None:
    """Draw a near-duplicate transform and its strengths; the longest side stays between 64 and 1,200 px."""
    name = str(rng.choice(list(kinds), p=list(kinds.values())))
    parts, strength = name.split("+"), []
    if "scale" in parts:
        record.near_scale = float(rng.choice([s for s in SCALES if 64 <= longest * s <= 1200]))
        strength.append(f"x{record.near_scale:g}")
    if "crop" in parts:
        record.near_crop = float(rng.choice(CROPS))
        strength.append(f"{record.near_crop:.0%}")
    if "jpeg" in parts:
        record.near_quality = int(rng.choice(QUALITIES))
        strength.append(f"q{record.near_quality}")
    record.near_transform, record.near_strength = name, " ".join(strength)
