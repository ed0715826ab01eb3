"""Reader of the demo's drawings: a choice of openclipart, for a study of near duplicates.

The files `demo/corpus/drawings*` are written once by `python -m demo.build_drawings` and committed. They have no part
in the demo's web. They are drawings of many hands, and hold families of hard negatives as they occur in nature: one
balloon in eight colours, chess pieces, moons, magnifying glasses with other signs.
"""

from __future__ import annotations

import csv

import pyarrow as pa
import pyarrow.parquet as pq

from demo.corpus import CORPUS_DIR
from filters.errors import InputError

DRAWINGS = CORPUS_DIR / "drawings.parquet"
SAME_DRAWINGS = CORPUS_DIR / "drawings_same.csv"
CREDIT = "openclipart 0.18: several hundred artists, public domain; rendered to 256 px WebP"


def load_drawings() -> pa.Table:
    """Return the drawings, sorted by `drawing`, at most 256 px a side, RGB on white.

    Columns: `drawing` (path in openclipart without its suffix), `title`, `author`, `license` (string), `image`
    (binary, WebP). Raises InputError when the file is missing.
    """
    if not DRAWINGS.is_file():
        raise InputError(f"demo corpus file {DRAWINGS} is missing; restore it from the repository")
    return pq.read_table(DRAWINGS)


def same_drawings() -> dict[frozenset[str], str]:
    """Return the pairs of drawings that one could take for copies of each other, and how they were judged.

    The list was made by eye before any threshold was looked at; its head says how.
    """
    lines = [line for line in SAME_DRAWINGS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {frozenset((row["drawing_a"], row["drawing_b"])): row["judged"] for row in csv.DictReader(lines)}
