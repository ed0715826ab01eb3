"""Which immutable files to merge when rows come: few files to read, and each row written a bounded number of times.

The scheme is that of a log-structured merge tree with tiers (O'Neil et al., 1996): files of about one size wait until
there are FAN of them, then become one file of the next size. A row climbs a level each time that it is written again,
so it is written at most as often as there are levels up to the largest file, however many rows there are in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FAN = 4
# Rows of a file of level 0.
BASE = 4096
# Rows of a file that is left as it is: it is sorted in memory when it is written.
CAP = 4_000_000
# Of the rows of a file, the part that may be hidden before the file is written again without them.
MAX_HIDDEN = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """One immutable file: its name and rows, and how many of them count no more."""

    name: str
    rows: int
    hidden: int = 0

    @property
    def live(self) -> int:
        """Rows that a rewriting would keep."""
        return self.rows - self.hidden


def level(rows: int) -> int:
    """The tier of a file of so many rows: 0 below BASE × FAN, one more each time that it is FAN times as large."""
    found = 0
    while rows >= BASE * FAN ** (found + 1):
        found += 1
    return found


def to_merge(runs: Sequence[Run], fresh: int, cap: int) -> list[Run]:
    """The files that `fresh` new rows are to be written together with, and those that hide too much.

    Files of half of `cap` rows and more are sealed: they are only written again when too much of them is hidden.
    """
    merged = [run for run in runs if run.hidden > MAX_HIDDEN * run.rows]
    rest = [run for run in runs if run not in merged and 2 * run.rows < cap]
    total = fresh + sum(run.live for run in merged)
    while total:
        tier = level(total)
        if sum(level(run.rows) == tier for run in rest) + 1 < FAN:
            break
        swallowed = [run for run in rest if level(run.rows) <= tier]
        rest = [run for run in rest if run not in swallowed]
        merged += swallowed
        total += sum(run.live for run in swallowed)
    return merged
