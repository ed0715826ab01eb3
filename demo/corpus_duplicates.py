"""Natural duplicates of the demo corpus: pictures that are the same before anything has been planted."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pyarrow as pa

from demo.corpus import STYLES
from demo.corpus_render import decode
from filters.errors import InputError

COLUMNS = ("style_a", "concept_a", "style_b", "concept_b", "kind", "confirmed")
Picture = tuple[str, str]


def find_duplicates(tables: Mapping[str, pa.Table], confirmed_near: Path) -> pa.Table:
    """Return all pairs of equal pixels and the near pairs that were confirmed by eye.

    Args:
        tables: the table of pictures of every style (columns: see `demo.corpus.load_style`).
        confirmed_near: the CSV of near pairs; its head says how they were judged.

    Returns:
        A table of the string columns `COLUMNS`, sorted by the order of `STYLES` and then by concept.
    """
    equal = [pair for group in equal_pixel_groups(tables) for pair in combinations(group, 2)]
    rows = dict.fromkeys(equal, ("equal_pixels", "equal pixels"))
    for pair, judged in read_confirmed(confirmed_near, tables):
        rows.setdefault(pair, ("near", f"by eye: {judged}"))
    ordered = [(*a, *b, *rows[a, b]) for a, b in sorted(rows, key=lambda pair: [_rank(p) for p in pair])]
    return pa.table({name: pa.array([row[i] for row in ordered], pa.string()) for i, name in enumerate(COLUMNS)})


def equal_pixel_groups(tables: Mapping[str, pa.Table]) -> list[list[Picture]]:
    """Group `(style, concept)` by equal decoded pixels; only groups of two and more, in the order of the styles."""
    groups: dict[str, list[Picture]] = {}
    for style in STYLES:
        table = tables[style]
        for concept, image in zip(table["concept"].to_pylist(), table["image"].to_pylist(), strict=True):
            groups.setdefault(pixel_digest(image), []).append((style, concept))
    return [group for group in groups.values() if len(group) > 1]


def pixel_digest(image: bytes) -> str:
    """SHA-256 of the decoded RGB pixels of a WebP file, in hex."""
    return hashlib.sha256(decode(image).tobytes()).hexdigest()


def read_confirmed(path: Path, tables: Mapping[str, pa.Table]) -> list[tuple[tuple[Picture, Picture], str]]:
    """Read the near pairs confirmed by eye, `((picture, picture), judged)`; InputError names an unknown picture."""
    known = {(style, concept) for style, table in tables.items() for concept in table["concept"].to_pylist()}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pairs = []
    for row in csv.DictReader(lines):
        pictures = [(row["style_a"], row["concept_a"]), (row["style_b"], row["concept_b"])]
        for picture in pictures:
            if picture not in known:
                raise InputError(f"{path}: there is no picture {'/'.join(picture)}; remove the line or look again")
        first, second = sorted(pictures, key=_rank)
        pairs.append(((first, second), row["judged"]))
    return pairs


def _rank(picture: Picture) -> tuple[int, str]:
    return list(STYLES).index(picture[0]), picture[1]
