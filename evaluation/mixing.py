"""Mixtures between their sources: position, dilution and interaction at a mixture's own reference accuracy, and data
mixed before training against scores mixed after it (the study, sections 4.3 and 4.4).

A mixture is a point x₀, y₀ in probits, the mean of its seeds; ŷ_s is the line of source s, of single-source runs, at
x₀, and p_s its share. Nothing is asked of a line outside of the models that it was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.draws import Estimate, Panel, Refusal, estimate
from evaluation.lines import Floats, fit_lines, from_axis, line_through
from evaluation.robustness import LEAST_SIZES, LEAST_SPREAD, SourceLine
from filters.errors import InputError

Lines = Mapping[str, SourceLine | Refusal]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mixture:
    """A mixture at one size. `x` and `y` are accuracies, `parents` the probits of the sources' lines at x₀.

    `best` is the source that the dilution D = ŷ_best - y₀ (probits; `dilution_points`: points of accuracy) is
    against; above 0 the mixture is less robust than it. `excess` = y₀ - Σ p_s ŷ_s is what the shares do not explain.
    Of two sources A and B, the first in order of name being A: `position` λ = (y₀ - ŷ_B)/(ŷ_A - ŷ_B), and
    `interaction` λ - p_A.
    """

    group: str
    n_total: int
    shares: Mapping[str, float]
    x: Estimate
    y: Estimate
    parents: Mapping[str, Estimate]
    best: str
    dilution: Estimate
    dilution_points: Estimate
    excess: Estimate
    position: Estimate | Refusal
    interaction: Estimate | Refusal


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """A cell's x₀ and y₀, the sources' lines there, and all of it drawn [R]."""

    shares: Mapping[str, float]
    x: float
    y: float
    drawn_x: Floats
    drawn_y: Floats
    parents: Mapping[str, float]
    drawn: Mapping[str, Floats]


def source_lines(panel: Panel) -> dict[str, SourceLine | Refusal]:
    """The line of each single-source group, or why it has none; slopes and intercepts [R] are those of the draws."""
    return {group: line_of(panel, group) for group in panel.groups("single")}


def line_of(panel: Panel, group: str) -> SourceLine | Refusal:
    """The line of one group through all of its runs that are off the floor, whatever their seed."""
    rows = panel.rows(group)
    off = [i for i in rows if not panel.floor[i]]
    sizes = len({panel.runs[i].n_total for i in off})
    if sizes < LEAST_SIZES:
        left = f", {len(rows) - len(off)} of its {len(rows)} runs are at floor" if len(off) < len(rows) else ""
        return Refusal(f"{group}: {sizes} sizes off the floor, {LEAST_SIZES} are needed{left}")
    across, up = panel.x[off], panel.y[off]
    if np.ptp(across) < LEAST_SPREAD:
        return Refusal(f"{group}: its models are {np.ptp(across):.3f} probits apart, {LEAST_SPREAD} are needed")
    return SourceLine(line_through(across, up), *fit_lines(panel.drawn_x[:, off], panel.drawn_y[:, off]))


def mixture(panel: Panel, lines: Lines, group: str, n_total: int, *, best: str | None = None) -> Mixture | Refusal:
    """A mixture at one of its sizes, or why it says nothing.

    `best` names the source that dilution is against. Chosen here, on the data that D is reported on, the best of
    several lines flatters itself: choose it by `best_parent` on the other half of the concepts.
    """
    point = _point(panel, lines, group, n_total)
    if isinstance(point, Refusal):
        return point
    names, y, drawn_y = list(point.parents), point.y, point.drawn_y
    best = best or max(names, key=lambda name: point.parents[name])
    if best not in point.parents:
        raise InputError(f"{group}: dilution against {best}, which is none of its sources {', '.join(names)}")
    top, drawn_top = point.parents[best], point.drawn[best]
    excess, drawn_excess = _excess(point)
    return Mixture(
        group=group,
        n_total=n_total,
        shares=point.shares,
        x=estimate(from_axis(point.x), from_axis(point.drawn_x)),
        y=estimate(from_axis(y), from_axis(drawn_y)),
        parents={name: estimate(point.parents[name], point.drawn[name]) for name in names},
        best=best,
        dilution=estimate(top - y, drawn_top - drawn_y),
        dilution_points=estimate(
            100 * (from_axis(top) - from_axis(y)), 100 * (from_axis(drawn_top) - from_axis(drawn_y))
        ),
        excess=estimate(excess, drawn_excess),
        **_between(group, point),
    )


def best_parent(panel: Panel, lines: Lines, group: str, n_total: int) -> str | Refusal:
    """The source whose line is highest at a mixture's reference accuracy."""
    point = _point(panel, lines, group, n_total)
    return point if isinstance(point, Refusal) else max(point.parents, key=lambda name: point.parents[name])


def output_less_input(
    panel: Panel, lines: Lines, mixed: tuple[str, int], ensemble: tuple[str, int]
) -> Estimate | Refusal:
    """y_out - y_in in probits: an ensemble (group, size) above a mixture of the same sources, each taken at its own
    reference accuracy, as far as the sources' lines, weighed by the mixture's shares, make them comparable.

    The prediction error of output mixing |y_out - y_in| is at most the farther end of the interval.
    """
    points = [_point(panel, lines, *cell) for cell in (mixed, ensemble)]
    for point in points:
        if isinstance(point, Refusal):
            return point
    one, other = (point for point in points if not isinstance(point, Refusal))
    if one.parents.keys() != other.parents.keys():
        raise InputError(f"{mixed[0]} and {ensemble[0]} are of different sources; compare mixtures of the same ones")
    (below, drawn_below), (above, drawn_above) = _excess(one), _excess(other, one.shares)
    return estimate(above - below, drawn_above - drawn_below)


def above_lines(panel: Panel, lines: Lines, group: str, n_total: int) -> Estimate | Refusal:
    """How far a group at one of its sizes is above its sources' lines in proportion, in probits, at its own reference
    accuracy: of a filtered source, what the filter did that is not a change of size. Refused as a mixture is."""
    point = _point(panel, lines, group, n_total, least=1)
    return point if isinstance(point, Refusal) else estimate(*_excess(point))


def _point(panel: Panel, lines: Lines, group: str, n_total: int, *, least: int = 2) -> _Point | Refusal:
    rows = panel.rows(group, n_total)
    if not rows:
        raise InputError(f"no run of {group} has {n_total} samples")
    shares = panel.runs[rows[0]].shares
    if len(shares) < least:
        raise InputError(f"{group} is of {len(shares)} sources; a mixture has two or more")
    if panel.floor[rows].any():
        return Refusal(f"{group} at {n_total}: its interval touches chance ({panel.chance:.3f})", "at floor")
    x, y = float(panel.x[rows].mean()), float(panel.y[rows].mean())
    drawn_x, drawn_y = panel.drawn_x[:, rows].mean(axis=1), panel.drawn_y[:, rows].mean(axis=1)
    parents, drawn = {}, {}
    for source in sorted(shares):
        line = lines.get(source, Refusal(f"{source} has no runs of its own"))
        if isinstance(line, Refusal):
            return Refusal(f"{group} at {n_total}: {line.reason}")
        if not line.line.low <= from_axis(x) <= line.line.high:
            span = f"{100 * line.line.low:.1f} to {100 * line.line.high:.1f} %"
            at = 100 * float(from_axis(x))
            return Refusal(
                f"{group} at {n_total} has {at:.1f} % on the reference, {source} {span}", "outside overlap"
            )
        parents[source] = line.line.slope * x + line.line.intercept
        drawn[source] = line.slopes * drawn_x + line.intercepts
    return _Point(shares, x, y, drawn_x, drawn_y, parents, drawn)


def _excess(point: _Point, shares: Mapping[str, float] | None = None) -> tuple[float, Floats]:
    """How far the point is above its sources' lines in proportion, also drawn [R]."""
    weights = shares or point.shares
    expected = sum(weights[name] * value for name, value in point.parents.items())
    drawn = np.sum([weights[name] * value for name, value in point.drawn.items()], axis=0)
    return point.y - expected, point.drawn_y - drawn


def _between(group: str, point: _Point) -> dict[str, Estimate | Refusal]:
    names = list(point.parents)
    if len(names) != 2:
        refused = Refusal(f"{group} is of {len(names)} sources; a position is between two")
        return {"position": refused, "interaction": refused}
    first, second = names
    apart, drawn_apart = point.parents[first] - point.parents[second], point.drawn[first] - point.drawn[second]
    error = float(np.std(drawn_apart))
    if abs(apart) < 2 * error:
        refused = Refusal(
            f"{first} and {second} are {abs(apart):.3f} probits apart, less than twice the error {error:.3f} of that",
            "parents too close",
        )
        return {"position": refused, "interaction": refused}
    place, drawn = (point.y - point.parents[second]) / apart, (point.drawn_y - point.drawn[second]) / drawn_apart
    share = point.shares[first]
    return {"position": estimate(place, drawn), "interaction": estimate(place - share, drawn - share)}
