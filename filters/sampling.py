"""The order in which samples are drawn: a stated 64-bit mix of `uid_lo` and a salt, the same in NumPy and in SQL.

The mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over `uid_lo + salt` modulo 2**64. It is a
bijection for each salt, so two samples tie only where their `uid_lo` is equal; the uid then decides.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def salt(purpose: str, seed: int) -> int:
    """A 64-bit number for (purpose, seed), so that orders made for different ends are independent."""
    digest = hashlib.sha256(f"{purpose}\x1f{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def sample_order(uid_lo: npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """Rank key of each sample: uint64 [N] from `uid_lo` uint64 [N]; smaller keys are drawn first."""
    with np.errstate(over="ignore"):
        z = uid_lo.astype(np.uint64) + np.uint64(salt)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
        return z ^ (z >> np.uint64(31))


def sample_order_sql() -> str:
    """The same key as DuckDB macros; `sample_order(uid_lo, salt)` gives UBIGINT.

    DuckDB refuses to overflow, hence the products go through 128 bits and are cut back to 64.
    """
    mask = f"{_MASK}::UHUGEINT"
    return f"""
        CREATE OR REPLACE MACRO _mix_1(z) AS (((xor(z, z >> 30))::UHUGEINT * {_FIRST}::UHUGEINT) & {mask})::UBIGINT;
        CREATE OR REPLACE MACRO _mix_2(z) AS (((xor(z, z >> 27))::UHUGEINT * {_SECOND}::UHUGEINT) & {mask})::UBIGINT;
        CREATE OR REPLACE MACRO _mix_3(z) AS xor(z, z >> 31);
        CREATE OR REPLACE MACRO sample_order(uid_lo, salt) AS
            _mix_3(_mix_2(_mix_1(((uid_lo::UHUGEINT + salt::UHUGEINT) & {mask})::UBIGINT)));
    """
