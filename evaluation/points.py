"""What the advisor learns from: one point a training set (its seeds together), with the shares of its sources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.accuracies import ModelScores
from evaluation.draws import Bools, Panel
from evaluation.lines import RESAMPLES, SEED, Floats, to_axis
from filters.errors import InputError

SAME = 0.01  # shares that differ by no more are the same mixture

_KINDS = ("single", "input_mix", "output_mix")
_LABEL = re.compile(r"(?P<names>[^ ]+)(?: (?P<ratio>\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)*))?(?P<ensemble> ensemble)?")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Training sets [m]: `shares` float64 [m, S] of the `sources` [S], samples `totals` [m], probits `x` and `y` [m]
    on the reference and the shift, and the same in draws [R, m]. `left_out` says which are not here, and why;
    `seeds_drawn` whether draws hold the noise of seeds."""

    sources: tuple[str, ...]
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    shares: Floats
    totals: Floats
    x: Floats
    y: Floats
    drawn_x: Floats
    drawn_y: Floats
    left_out: Mapping[str, str]
    seeds_drawn: bool = False

    def of(self, *kinds: str) -> Bools:
        """Which points are of some kinds of run: bool [m]."""
        return np.array([kind in kinds for kind in self.kinds], bool)

    def only(self, kept: Bools) -> Points:
        """The points [m] that are `kept`, of the same sources."""
        names, kinds = (tuple(np.array(values, object)[kept]) for values in (self.groups, self.kinds))
        return Points(
            self.sources, names, kinds, self.shares[kept], self.totals[kept], self.x[kept], self.y[kept],
            self.drawn_x[:, kept], self.drawn_y[:, kept], self.left_out, self.seeds_drawn,
        )  # fmt: skip

    def with_shares(self, shares: Floats) -> Bools:
        """Which points [m] have these shares [S]."""
        return np.asarray((np.abs(self.shares - shares) <= SAME).all(axis=1))


def points_of(panel: Panel) -> Points:
    """The panel's single-source runs, mixtures and ensembles off the floor; InputError where none is left."""
    kept: dict[tuple[str, int, int | None], list[int]] = {}
    left_out: dict[str, str] = {}
    for i, run in enumerate(panel.runs):
        if run.kind not in _KINDS or not run.shares:
            left_out[run.run_id] = f"is {run.kind}" if run.kind not in _KINDS else "its sources are not known"
        elif panel.floor[i]:
            left_out[run.run_id] = "at floor"
        else:
            kept.setdefault(run.cell, []).append(i)
    cells = list(kept.values())
    first = [panel.runs[rows[0]] for rows in cells]
    sources = tuple(sorted({name for run in first for name in run.shares}))
    shares = [[run.shares.get(name, 0.0) for name in sources] for run in first]
    x, y = (np.array([values[rows].mean() for rows in cells]) for values in (panel.x, panel.y))
    drawn = [[d[:, rows].mean(axis=1) for rows in cells] for d in (panel.drawn_x, panel.drawn_y)]
    found = _points(
        sources, [r.group for r in first], [r.kind for r in first], shares, [r.n_total for r in first], x, y,
        drawn, left_out, f"{panel.shift}: no run is off the floor with known sources",
    )  # fmt: skip
    return replace(found, seeds_drawn=panel.seeds_drawn)


def points_of_scores(
    scores: Sequence[ModelScores], shift: str, reference: str, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Points:
    """Models of which no more than accuracies are known, such as those of a table: a draw is binomial in each set.

    `source` is a source's name, or `a+b 25:75`, with ` ensemble` behind for one; what is anything else, has no
    size, or lacks one of the sets or its number of pictures, is left out. InputError where none is left.
    """
    generator, left_out = np.random.default_rng(seed), {}
    rows: list[tuple[ModelScores, str, dict[str, float]]] = []
    for score in scores:
        parsed = _parsed(score.source)
        if parsed is None:
            left_out[score.model] = f"{score.source!r} says no shares; write `a`, or `a+b 25:75`"
        elif not score.size:
            left_out[score.model] = "its number of samples is not known"
        elif not {shift, reference} <= score.accuracy.keys() & score.images.keys():
            left_out[score.model] = f"no accuracy or number of pictures on {shift} or {reference}"
        else:
            rows.append((score, *parsed))
    sources = tuple(sorted({name for _, _, shares in rows for name in shares}))
    axes: list[Floats] = []
    drawn: list[list[Floats]] = []
    for name in (reference, shift):
        accuracy = np.array([score.accuracy[name] for score, _, _ in rows])
        counts = np.array([score.images[name] for score, _, _ in rows], np.int64)
        found = generator.binomial(counts, accuracy, (resamples, len(rows))) / counts
        axes.append(np.array([to_axis(a, images=int(n)) for a, n in zip(accuracy, counts, strict=True)]))
        drawn.append([to_axis(found[:, i], images=int(n)) for i, n in enumerate(counts)])
    return _points(
        sources, [score.source for score, _, _ in rows], [kind for _, kind, _ in rows],
        [[shares.get(source, 0.0) for source in sources] for _, _, shares in rows],
        [float(score.size or 0) for score, _, _ in rows], axes[0], axes[1], drawn, left_out,
        f"no model has known sources, its size, and both {reference} and {shift}",
    )  # fmt: skip


def together(one: Points, other: Points) -> Points:
    """Both; InputError where they hold another number of draws."""
    if len(one.drawn_x) != len(other.drawn_x):
        raise InputError(f"{len(one.drawn_x)} and {len(other.drawn_x)} draws cannot be joined; draw as many of both")
    sources = tuple(sorted({*one.sources, *other.sources}))
    shares = [
        [dict(zip(part.sources, row, strict=True)).get(name, 0.0) for name in sources]
        for part in (one, other)
        for row in part.shares.tolist()
    ]
    return Points(
        sources, (*one.groups, *other.groups), (*one.kinds, *other.kinds), np.array(shares),
        np.r_[one.totals, other.totals], np.r_[one.x, other.x], np.r_[one.y, other.y],
        np.hstack([one.drawn_x, other.drawn_x]), np.hstack([one.drawn_y, other.drawn_y]),
        {**one.left_out, **other.left_out}, one.seeds_drawn or other.seeds_drawn,
    )  # fmt: skip


def _points(
    sources: tuple[str, ...],
    groups: Sequence[str],
    kinds: Sequence[str],
    shares: Sequence[Sequence[float]],
    totals: Sequence[float],
    x: Floats,
    y: Floats,
    drawn: Sequence[Sequence[Floats]],
    left_out: Mapping[str, str],
    nothing: str,
) -> Points:
    if not groups:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise InputError(f"{nothing} ({why or 'there are none'})")
    drawn_x, drawn_y = (np.stack(columns, axis=1) for columns in drawn)
    return Points(
        sources, tuple(groups), tuple(kinds), np.array(shares, np.float64), np.array(totals, np.float64),
        x, y, drawn_x, drawn_y, left_out,
    )  # fmt: skip


def _parsed(label: str) -> tuple[str, dict[str, float]] | None:
    """Kind and shares that a label such as `a+b 25:75 ensemble` says."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return None
    names = found["names"].split("+")
    parts = [float(part) for part in found["ratio"].split(":")] if found["ratio"] else [1.0]
    if len(parts) != len(names) or len(set(names)) < len(names) or not all(names) or not sum(parts):
        return None
    kind = "output_mix" if found["ensemble"] else "single" if len(names) == 1 else "input_mix"
    return kind, {name: part / sum(parts) for name, part in zip(names, parts, strict=True) if part}
