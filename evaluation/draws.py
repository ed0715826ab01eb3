"""The bootstrap of the source study: one draw of pictures and seeds for all runs, so that whatever is computed from
them, line, mixture or ranking, is computed once a draw and keeps what its parts have in common.

Pictures: a draw takes as many of a set's pictures as there are, with replacement, the same ones for every run. Where
both sets show each concept once, a draw takes concepts, and with them the picture in both.

Seeds: runs of one cell (one group, one size) differ by their seeds alone. Two or three seeds drawn with replacement
would understate that noise, and one seed has none; so the differences of runs from the mean of their cell, in probits
on both sets together and times √(S/(S-1)) for S seeds, are pooled over all cells, and each run of a draw is the mean
of its cell with one of them added. This takes the noise of seeds to be the same everywhere on the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from evaluation.halves import Half
from evaluation.lines import RESAMPLES, SEED, Floats, Insufficient, to_axis
from evaluation.metrics import Interval, at_floor
from evaluation.runs import Pictures, Run
from filters.errors import InputError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 1 << 24  # numbers held at once


@dataclass(frozen=True, slots=True)
class Refusal(Insufficient):
    """No figure, under the study's name for it, and why."""

    label: Literal["cannot test", "at floor", "outside overlap", "parents too close", "no candidate"] = "cannot test"

    def __str__(self) -> str:
        return f"{self.label}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % percentile interval and its standard error, of the draws."""

    value: float
    low: float
    high: float
    error: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def estimate(value: float | Floats, drawn: Floats) -> Estimate:
    """`value` of the data, with the interval of the same figure `drawn` [R]."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), float(np.std(drawn)))


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Runs [n] on one shift and on the reference, on the shift's classes, in probits.

    `x` and `y` float64 [n] are of the reference and the shift, `drawn_x` and `drawn_y` float64 [R, n] of the draws.
    `floor` bool [n]: the interval of the run's cell touches chance on either set. `images` counts pictures of both.
    `seeds_drawn` is False where no cell has two seeds: intervals then know of pictures alone.
    """

    shift: str
    reference: str
    half: Half | None
    runs: tuple[Run, ...]
    x: Floats
    y: Floats
    drawn_x: Floats
    drawn_y: Floats
    floor: Bools
    images: tuple[int, int]
    chance: float
    seeds_drawn: bool

    def rows(self, group: str, total: int | None = None) -> list[int]:
        """Which runs are of a group, and of a size of it."""
        return [i for i, r in enumerate(self.runs) if r.group == group and total in (None, r.n_total)]

    def groups(self, *kinds: str) -> list[str]:
        """The groups of some kinds of run, in order of first appearance."""
        return list(dict.fromkeys(run.group for run in self.runs if run.kind in kinds))


def panel_of(
    runs: Sequence[Run],
    shift: str,
    reference: str,
    *,
    half: Half | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Panel:
    """Runs on one shift, on one half of the concepts or on all; a draw for every resample.

    The same runs, in any order of their pictures, and the same seed give the same numbers. InputError where a run
    lacks a set, has other pictures of it than the first run, or where fewer than two pictures are left.
    """
    if not runs:
        raise InputError("no runs to study; evaluate models first")
    across, x_values = _stacked(runs, (reference, shift), half)
    up, y_values = _stacked(runs, (shift, shift), half)
    generator = np.random.default_rng(seed)
    drawn = drawn_means(across, x_values, up, y_values, resamples, generator)
    chance = _chance(runs, shift)
    cells = _cells(runs)
    counts = (len(across.keys), len(up.keys))
    x, y = (to_axis(v.mean(axis=1), images=n) for v, n in zip((x_values, y_values), counts, strict=True))
    floor = _floor(drawn, cells, chance)
    across_drawn, up_drawn = (to_axis(np.clip(means, 0, 1), images=n) for means, n in zip(drawn, counts, strict=True))
    drawn_x, drawn_y, seeds_drawn = _with_seeds(x, y, across_drawn, up_drawn, cells, generator)
    return Panel(shift, reference, half, tuple(runs), x, y, drawn_x, drawn_y, floor, counts, chance, seeds_drawn)


def drawn_means(
    across: Pictures, x: Floats, up: Pictures, y: Floats, resamples: int, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Means [R, n] of figures `x` [n, N] and `y` [n, M] on the pictures `across` and `up`, a draw a row."""
    once = [len(np.unique(part.concepts)) == len(part.concepts) for part in (across, up)]
    if all(once) and np.array_equal(np.sort(across.concepts), np.sort(up.concepts)):
        by_concept = np.hstack([x[:, np.argsort(across.concepts)].T, y[:, np.argsort(up.concepts)].T])
        both = np.concatenate([c @ by_concept for c in _counts(len(by_concept), resamples, generator)])
        return both[:, : len(x)] / len(by_concept), both[:, len(x) :] / len(by_concept)
    found = [
        np.concatenate([c @ v.T for c in _counts(v.shape[1], resamples, generator)]) / v.shape[1] for v in (x, y)
    ]
    return found[0], found[1]


def _counts(size: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """How often each of `size` things is in each draw of as many: float64 [block, size], blocks of `resamples`."""
    block = max(1, _BLOCK // size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        places = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _stacked(runs: Sequence[Run], name: tuple[str, str], half: Half | None) -> tuple[Pictures, Floats]:
    """The pictures of a set, and the figures [n, N] of all runs on them."""
    where = name[0] if name[0] == name[1] else f"{name[0]} on the classes of {name[1]}"
    for run in runs:
        if name not in run.pictures:
            raise InputError(f"{run.run_id} has no figures on {where}; evaluate it on that set")
        if not np.array_equal(run.pictures[name].keys, runs[0].pictures[name].keys):
            raise InputError(f"{run.run_id} and {runs[0].run_id} were evaluated on different pictures of {where}")
    parts = [run.pictures[name].of(half) for run in runs]
    if len(parts[0].keys) < 2:
        raise InputError(f"{where}: {len(parts[0].keys)} pictures are too few for an interval")
    return parts[0], np.stack([part.values for part in parts])


def _chance(runs: Sequence[Run], shift: str) -> float:
    """Chance on the shift, and on the reference on its classes; the same question must be asked of all runs."""
    for run in runs:
        if run.chance[shift] != runs[0].chance[shift]:
            raise InputError(
                f"{run.run_id} and {runs[0].run_id} were asked different questions of {shift}, by chance "
                f"{run.chance[shift]:g} and {runs[0].chance[shift]:g}; evaluate both with the same ways"
            )
    return runs[0].chance[shift]


def _cells(runs: Sequence[Run]) -> Ints:
    """The number of each run's cell: int64 [n]."""
    names = list(dict.fromkeys(run.cell for run in runs))
    return np.array([names.index(run.cell) for run in runs], np.int64)


def _averager(cells: Ints) -> Floats:
    """Matrix [n, n] that replaces each run's figure by the mean of its cell."""
    same = (cells[:, None] == cells[None, :]).astype(np.float64)
    return np.asarray(same / same.sum(axis=1, keepdims=True))


def _floor(drawn: tuple[Floats, Floats], cells: Ints, chance: float) -> Bools:
    lows = [np.quantile(means @ _averager(cells).T, 0.025, axis=0) for means in drawn]
    touches = [[at_floor(Interval(float(low), 1.0), chance) for low in each] for each in lows]
    return np.asarray(np.any(touches, axis=0), bool)


def _with_seeds(
    x: Floats, y: Floats, drawn_x: Floats, drawn_y: Floats, cells: Ints, generator: np.random.Generator
) -> tuple[Floats, Floats, bool]:
    """The draws with the noise of seeds, and whether there is any to draw."""
    mean, seeds = _averager(cells), np.bincount(cells)[cells]
    several = seeds > 1
    if not several.any():
        return drawn_x, drawn_y, False
    wide = np.sqrt(seeds[several] / (seeds[several] - 1))
    pool = np.stack([((v - mean @ v)[several]) * wide for v in (x, y)])
    picked = generator.integers(0, pool.shape[1], drawn_x.shape)
    return drawn_x @ mean.T + pool[0][picked], drawn_y @ mean.T + pool[1][picked], True
