"""Two halves of the concepts, split once and for all by hash: one to fit and choose with, one to report on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Half = Literal["fit", "report"]


def half_of(concept: str) -> Half:
    """The half of a concept, by the first bit of its name's SHA-256; the same in every study."""
    return "fit" if hashlib.sha256(concept.encode()).digest()[0] < 128 else "report"


def in_half(concepts: Iterable[str], half: Half) -> NDArray[np.bool_]:
    """Which concepts [N] are in the half, bool [N]."""
    return np.array([half_of(concept) == half for concept in concepts], dtype=np.bool_)
