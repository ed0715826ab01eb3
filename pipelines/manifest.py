"""The rows of a mixture: their repetitions and order, their digest, and DataComp's list of uids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from filters.sampling import salt, sample_order
from pipelines.store.schema import MANIFEST


def positions(there: int, asked: int, repeats: int) -> list[int]:
    """Which of `there` candidates are used, each `repeats` times at most: whole passes, then the front once more."""
    return [index % there for index in range(min(asked, there * repeats))] if there else []


def repeated(candidates: pa.Table, uses: Sequence[int]) -> pa.Table:
    """The candidates at the positions `uses`, as `positions` gives them, in the schema MANIFEST."""
    repeat = pa.array([i // max(1, candidates.num_rows) for i in range(len(uses))], pa.int32())
    taken = candidates.take(pa.array(uses, pa.int64())).append_column("repeat", repeat)
    return MANIFEST.conform(taken.select(MANIFEST.names))


def shuffled(manifest: pa.Table, seed: int) -> pa.Table:
    """The rows of all sources in one order, a function of uid, repetition and seed."""
    uids = manifest["uid"].to_pylist()
    low = np.array([int(uid[16:], 16) for uid in uids], dtype=np.uint64)
    with np.errstate(over="ignore"):
        low = low + manifest["repeat"].to_numpy().astype(np.uint64)
    keys = sample_order(low, salt("mix-order", seed))
    return manifest.take(pa.array(np.lexsort((np.array(uids), keys))))


def content_digest(manifest: pa.Table) -> str:
    """SHA-256 over the rows' identity, repetition and caption: independent of file format and library versions."""
    digest = hashlib.sha256()
    for row in zip(*(manifest[name].to_pylist() for name in ("uid", "repeat", "source", "caption")), strict=True):
        digest.update("\x1f".join(map(str, row)).encode() + b"\n")
    return digest.hexdigest()


def uid_pairs(uids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.void]]:
    """DataComp's subset format: sorted (high, low) halves of each uid, repeats as duplicates."""
    pairs = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return np.sort(np.array(pairs, dtype=np.dtype("u8,u8")), order=("f0", "f1"))
