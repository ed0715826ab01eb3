"""The advisor: the next mixture for a shift, how sure that is, and what a point of shifted accuracy costs.

A mixture is chosen on the points of one half of the concepts and reported on those of the other, so that the best of
thousands of candidates does not flatter itself with the pictures that it was chosen on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.draws import Bools, Estimate, Refusal, estimate
from evaluation.lines import SEED, Floats, from_axis
from evaluation.points import SAME, Points
from evaluation.predictors import Predicted, Predictor, best_source, even, mediant, predict
from filters.errors import InputError

NO_GAIN = "no detectable gain"

_MOST = 300_000  # candidates
_DRAWS = 200  # of those that say how sure a choice is: each ranks all candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a mixture must keep to: `total` samples, of each source no more than its `rows` (after dedupe; a source
    without a number has enough) times `max_repeats`, none of the `excluded` (licence rules), and a predicted
    reference accuracy of at least `least_reference`, 0 to 1."""

    total: int
    rows: Mapping[str, int] = field(default_factory=dict)
    max_repeats: int = 1
    excluded: frozenset[str] = frozenset()
    least_reference: float = 0.0


@dataclass(frozen=True, slots=True)
class Gain:
    """Points of shifted accuracy that a proposal is predicted to have above another way to mix."""

    points: Estimate
    verdict: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Advice:
    """A proposed mixture: `shares` by source, and its predicted accuracies `x` on the reference and `y` on the shift.

    `gains` over the two ways to do without advice, within the same limits: mixing evenly, and the best single source
    (no such entry where none has enough rows).
    `ranges`: 95 % of draws put each source's share in here, had they been asked instead. `reference_price`: points of
    reference accuracy given for each point gained on the shift, against even mixing; below 0 both rise.
    `doubling`: points on the shift that twice the samples would add, `sample_price`: samples for one more point.
    `kept`: how often, of all draws, the reference is where the limits want it. `notes` are in words.
    """

    predictor: str
    total: int
    shares: Mapping[str, float]
    x: Estimate
    y: Estimate
    gains: Mapping[str, Gain]
    ranges: Mapping[str, tuple[float, float]]
    reference_price: Estimate | Refusal
    doubling: Estimate | Refusal
    sample_price: float | Refusal
    kept: float
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; what is refused is its text."""
        found = asdict(self)
        for name in ("reference_price", "sample_price", "doubling"):
            value = getattr(self, name)
            found[name] = str(value) if isinstance(value, Refusal) else found[name]
        return {**found, "notes": list(self.notes), "ranges": {name: list(r) for name, r in self.ranges.items()}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A prediction beside what was measured afterwards: `points` of accuracy, measured less predicted, and whether
    that interval, which holds the errors of both, leaves room for a prediction that was right."""

    predicted: Estimate
    measured: Estimate
    points: Estimate
    held: bool


def propose(
    name: str,
    predictor: Predictor,
    choose: Points,
    report: Points,
    limits: Limits,
    *,
    spread: float | None = None,
    step: float = 0.05,
    seed: int = SEED,
) -> Advice | Refusal:
    """The candidate with the highest predicted accuracy on the shift of `choose`, with its figures from `report`.

    Candidates are all shares in steps of `step` that keep to the limits. `spread` is the predictor's own error in
    probits (`LeftOut.spread`); normal noise of that size is part of every interval of the proposal. Refused where no
    candidate keeps to the limits, or the predictor has nothing to say of any.
    """
    if choose.sources != report.sources:
        raise InputError(f"chosen among {choose.sources}, reported on {report.sources}; give the same runs for both")
    asked = candidates(choose, limits, step)
    if isinstance(asked, Refusal):
        return asked
    shares, weights = _answered(predictor, choose, asked, limits)
    if isinstance(weights, Refusal):
        return weights
    said = predict(choose, weights)
    enough = from_axis(said.x) >= limits.least_reference
    if not enough.any():
        most = 100 * float(from_axis(said.x.max()))
        least = 100 * limits.least_reference
        return Refusal(f"at most {most:.1f} % are predicted on the reference, {least:.1f} are wanted", "no candidate")
    best = int(np.flatnonzero(enough)[said.y[enough].argmax()])
    chosen = shares[best]
    generator = np.random.default_rng(seed)
    now, twice = (_predicted(predictor, report, chosen, total) for total in (limits.total, 2 * limits.total))
    if isinstance(now, Refusal):
        return now
    noise = generator.standard_normal((2, len(now.drawn_y))) * (spread or 0.0)
    x, y = now.drawn_x[:, 0] + noise[0], now.drawn_y[:, 0] + noise[1]
    rivals = _rivals(choose, report, limits)
    doubling = _doubling(now, twice)
    return Advice(
        predictor=name,
        total=limits.total,
        shares={s: float(share) for s, share in zip(choose.sources, chosen, strict=True) if share > 0},
        x=estimate(from_axis(now.x[0]), from_axis(x)),
        y=estimate(from_axis(now.y[0]), from_axis(y)),
        gains={rival: _gain(now.y[0], y, other) for rival, other in rivals.items()},
        ranges=_ranges(choose, shares[enough], weights[enough]),
        reference_price=_reference_price(now, x, y, rivals.get("even mixing")),
        doubling=doubling,
        sample_price=_sample_price(limits.total, doubling),
        kept=float((from_axis(x) >= limits.least_reference).mean()),
        notes=_notes(choose, limits, spread),
    )


def candidates(points: Points, limits: Limits, step: float) -> Floats | Refusal:
    """Shares [c, S] in steps that keep to the limits, and the most even ones that do; refused where none can."""
    most = _most(points, limits)
    if most.sum() < 1 - 1e-9:
        rows = round(limits.total * float(most.sum()))
        return Refusal(f"the sources allowed have {rows} samples, {limits.total} are wanted", "no candidate")
    parts, allowed = round(1 / step), np.flatnonzero(most > 0)
    places, between = parts + len(allowed) - 1, len(allowed) - 1
    if parts < 1 or (count := math.comb(places, between)) > _MOST:
        has = f"{count} candidates, more than {_MOST}," if parts >= 1 else "no candidates"
        raise InputError(
            f"a step of {step:g} makes {has} of {len(allowed)} sources; use 0.05, or 0.1 for many sources"
        )
    # Stars and bars: the parts of each source are the places between two of its bars.
    bars = np.array(list(itertools.combinations(range(places), between)), np.int64)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    found = np.zeros((len(bars), len(points.sources)))
    found[:, allowed] = (np.diff(edges, axis=1) - 1) / parts
    found = np.vstack([found[(found <= most + 1e-9).all(axis=1)], _most_even(most)])
    return np.asarray(np.unique(found.round(9), axis=0), np.float64)


def outcome(predicted: Estimate, measured: Estimate) -> Outcome:
    """A predicted accuracy beside the one that was measured, their errors added as if they had no pictures in common,
    which makes the interval too wide rather than too narrow."""
    off = 100 * (measured.value - predicted.value)
    error = 100 * float(np.hypot(predicted.error, measured.error))
    points = Estimate(off, off - 1.96 * error, off + 1.96 * error, error)
    return Outcome(predicted, measured, points, not points.clear)


def _most(points: Points, limits: Limits) -> Floats:
    """The greatest share [S] that the limits leave each source."""
    unknown = [name for name in (*limits.rows, *limits.excluded) if name not in points.sources]
    if unknown:
        raise InputError(f"limits name the source {unknown[0]!r}, of which no run is; there are {points.sources}")
    return np.array(
        [
            0.0
            if name in limits.excluded
            else min(1.0, limits.rows[name] * limits.max_repeats / limits.total)
            if name in limits.rows
            else 1.0
            for name in points.sources
        ]
    )


def _most_even(most: Floats) -> Floats:
    """Equal shares, but for sources that have less: what they lack goes to the others."""
    low, high = 0.0, 1.0
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(most, level).sum() < 1 else (low, level)
    return np.asarray(np.minimum(most, high), np.float64)


def _answered(
    predictor: Predictor, points: Points, shares: Floats, limits: Limits
) -> tuple[Floats, Floats | Refusal]:
    """The candidates that the predictor has an answer for, and its weights: output mixing knows some shares only."""
    weights = predictor(points, shares, np.full(len(shares), float(limits.total)))
    if not isinstance(weights, Refusal):
        return shares, weights
    most, total = _most(points, limits), np.array([float(limits.total)])
    known = [s for s in np.unique(points.shares.round(9), axis=0) if (s <= most + 1e-9).all()]
    found = [(s, w) for s in known if not isinstance(w := predictor(points, s[None], total), Refusal)]
    if not found:
        return shares, weights
    return np.stack([s for s, _ in found]), np.vstack([w for _, w in found])


def _predicted(predictor: Predictor, points: Points, shares: Floats, total: float) -> Predicted | Refusal:
    weights = predictor(points, shares[None], np.array([float(total)]))
    return weights if isinstance(weights, Refusal) else predict(points, weights)


def _rivals(choose: Points, report: Points, limits: Limits) -> dict[str, Predicted]:
    """Mixing as evenly as the limits let, and the best source that has the rows (chosen on the one half)."""
    most, totals = _most(choose, limits), np.array([float(limits.total)])
    equal = _most_even(most)[None]
    weights = {"even mixing": (even if np.ptp(equal) < SAME else mediant)(report, equal, totals)}
    alone = choose.only(~choose.of("single") | (choose.shares[:, most >= 1].sum(axis=1) > 0))
    best = best_source(alone, totals)
    if not isinstance(best, Refusal):
        weights["best single source"] = mediant(report, np.eye(len(most))[best], totals)
    return {name: predict(report, found) for name, found in weights.items() if not isinstance(found, Refusal)}


def _gain(y: float, drawn: Floats, other: Predicted) -> Gain:
    points = estimate(
        100 * (from_axis(y) - from_axis(other.y[0])), 100 * (from_axis(drawn) - from_axis(other.drawn_y[:, 0]))
    )
    return Gain(points, ("gain" if points.low > 0 else "loss") if points.clear else NO_GAIN)


def _ranges(points: Points, shares: Floats, weights: Floats) -> dict[str, tuple[float, float]]:
    winners = shares[(points.drawn_y[:_DRAWS] @ weights.T).argmax(axis=1)]
    low, high = np.quantile(winners, [0.025, 0.975], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(points.sources)}


def _reference_price(now: Predicted, x: Floats, y: Floats, other: Predicted | None) -> Estimate | Refusal:
    if other is None or not _gain(now.y[0], y, other).points.low > 0:
        return Refusal(f"{NO_GAIN} over even mixing that could be paid for")
    lost, gained = (
        (from_axis(other.x[0]) - from_axis(now.x[0]), from_axis(other.drawn_x[:, 0]) - from_axis(x)),
        (from_axis(now.y[0]) - from_axis(other.y[0]), from_axis(y) - from_axis(other.drawn_y[:, 0])),
    )
    return estimate(lost[0] / gained[0], lost[1] / gained[1])


def _doubling(now: Predicted, twice: Predicted | Refusal) -> Estimate | Refusal:
    if isinstance(twice, Refusal):
        return twice
    if np.array_equal(now.drawn_y, twice.drawn_y):
        return Refusal("each of these sources has runs of one size only: what more samples add is not known")
    drawn = from_axis(twice.drawn_y[:, 0]) - from_axis(now.drawn_y[:, 0])
    return estimate(100 * (from_axis(twice.y[0]) - from_axis(now.y[0])), 100 * drawn)


def _sample_price(total: int, doubling: Estimate | Refusal) -> float | Refusal:
    if isinstance(doubling, Refusal):
        return doubling
    if doubling.low <= 0:
        return Refusal("twice the samples have no effect on the shift that these runs could show")
    return float(total * (2 ** (1 / doubling.value) - 1))


def _notes(points: Points, limits: Limits, spread: float | None) -> tuple[str, ...]:
    trained: Bools = points.of("single", "input_mix")
    largest = int(points.totals[trained].max()) if trained.any() else 0
    notes = []
    if limits.total > largest:
        notes.append(f"{limits.total} samples are beyond the largest run, of {largest}: an extrapolation")
    if not points.seeds_drawn:
        notes.append("no training set has two seeds: no interval here knows of their noise")
    if spread is None:
        notes.append("the predictor's own error is not known: intervals are of pictures and seeds alone")
    return tuple(notes)
