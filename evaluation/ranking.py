"""Which source is best on which shift at equal reference accuracy, and whether one is best on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.draws import Estimate, Panel, Refusal, estimate
from evaluation.lines import Floats, from_axis, to_axis
from evaluation.mixing import Lines, source_lines
from evaluation.robustness import SourceLine


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Sources on one shift at reference accuracy `x`, best first: `accuracy` on the shift by source.

    `ahead` [i] by source is the distance in probits of each source to each other, the first named above the second.
    `chosen` is how often, of all draws, each source came out best. `left_out` says why a source is not here.
    """

    shift: str
    x: float
    accuracy: Mapping[str, Estimate]
    ahead: Mapping[tuple[str, str], Estimate]
    chosen: Mapping[str, float]
    left_out: Mapping[str, Refusal | str]

    @property
    def best(self) -> str:
        """The highest line."""
        return next(iter(self.accuracy))

    @property
    def is_clear(self) -> bool:
        """Whether the best is above every other source, by the interval of each distance."""
        return all(self.ahead[self.best, other].low > 0 for other in self.accuracy if other != self.best)


@dataclass(frozen=True, slots=True)
class Dominance:
    """Whether a source is best on all shifts.

    `holds`: `source` is best on each, clearly; `fails`: every source is clearly below another somewhere (`beaten`: on
    which shift, by whom); `cannot say`: neither, `source` then is the one that may be, if it is best everywhere.
    """

    verdict: Literal["holds", "fails", "cannot say"]
    source: str | None
    beaten: Mapping[str, tuple[str, str]]
    shifts: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Rankings by shift, or why there is none, and what they say together."""

    rankings: Mapping[str, Ranking | Refusal]
    dominance: Dominance | Refusal


def both_answers(panels: Sequence[Panel], lines: Mapping[str, Lines] | None = None) -> dict[str, Answer]:
    """The answers "with" and "without" cells where the source and the shift are of one family; `lines` by shift."""
    found = {panel.shift: source_lines(panel) for panel in panels} if lines is None else lines
    answers = {}
    for name in ("with", "without"):
        rankings = {
            p.shift: rank(p.shift, found[p.shift], without=() if name == "with" else same_family(p)) for p in panels
        }
        answers[name] = Answer(rankings, dominance(rankings))
    return answers


def same_family(panel: Panel) -> set[str]:
    """The single-source groups that the artist of the panel's shift drew."""
    return {run.group for run in panel.runs if run.kind == "single" and panel.shift in run.same_family}


def rank(
    shift: str, lines: Lines, *, x: float | None = None, without: Sequence[str] | set[str] = ()
) -> Ranking | Refusal:
    """Sources in order of their lines at reference accuracy `x`, by default in the middle of a range that as many
    lines as possible share, the widest of these; refused where fewer than two lines share one."""
    left_out: dict[str, Refusal | str] = {name: "same family" for name in lines if name in without}
    left_out |= {name: line for name, line in lines.items() if isinstance(line, Refusal) and name not in without}
    fitted = {name: line for name, line in lines.items() if isinstance(line, SourceLine) and name not in without}
    at = _common(fitted) if x is None else float(to_axis(x))
    here = {name: line for name, line in fitted.items() if at is not None and _covers(line, at)}
    if at is None or len(here) < 2:
        return Refusal(
            f"{shift}: fewer than two sources have lines at one reference accuracy ({len(fitted)} have lines)"
        )
    place = float(from_axis(at))
    for name, line in fitted.items():
        if name not in here:
            span = f"{100 * line.line.low:.1f} to {100 * line.line.high:.1f} %"
            left_out[name] = Refusal(f"{name} has {span}, compared at {100 * place:.1f} %", "outside overlap")
    height = {name: line.line.slope * at + line.line.intercept for name, line in here.items()}
    order = sorted(here, key=lambda name: -height[name])
    drawn = {name: here[name].slopes * at + here[name].intercepts for name in order}
    winners = np.argmax([drawn[name] for name in order], axis=0)
    return Ranking(
        shift,
        place,
        {name: estimate(from_axis(height[name]), from_axis(drawn[name])) for name in order},
        {(a, b): estimate(height[a] - height[b], drawn[a] - drawn[b]) for a in order for b in order if a != b},
        {name: float((winners == i).mean()) for i, name in enumerate(order)},
        left_out,
    )


def dominance(rankings: Mapping[str, Ranking | Refusal]) -> Dominance | Refusal:
    """Whether one source is best on all shifts that have a ranking; refused with fewer than two of them.

    A source that is missing from a ranking cannot be best on all.
    """
    known = {shift: found for shift, found in rankings.items() if isinstance(found, Ranking)}
    if len(known) < 2:
        return Refusal(f"{len(known)} shifts have a ranking; to be best on all takes two or more")
    everywhere = [s for s in next(iter(known.values())).accuracy if all(s in r.accuracy for r in known.values())]
    beaten: dict[str, tuple[str, str]] = {}
    for shift, found in known.items():
        for (above, below), ahead in found.ahead.items():
            if ahead.low > 0:
                beaten.setdefault(below, (shift, above))
    first = next(iter(known.values())).best
    leads = first if all(found.best == first for found in known.values()) else None
    if leads is not None and all(found.is_clear for found in known.values()):
        return Dominance("holds", leads, beaten, tuple(known))
    fails = all(source in beaten for source in everywhere)
    return Dominance("fails" if fails else "cannot say", None if fails else leads, beaten, tuple(known))


def _covers(line: SourceLine, at: float) -> bool:
    return bool(to_axis(line.line.low) - 1e-9 <= at <= to_axis(line.line.high) + 1e-9)


def _common(lines: Mapping[str, SourceLine]) -> float | None:
    """The middle, in probits, of the range that most lines cover."""
    ends: Floats = np.unique([to_axis([line.line.low, line.line.high]) for line in lines.values()])
    ranges = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    if not ranges:
        return None

    def covered(span: tuple[float, float]) -> tuple[int, float]:
        middle = (span[0] + span[1]) / 2
        return sum(_covers(line, middle) for line in lines.values()), span[1] - span[0]

    low, high = max(ranges, key=covered)
    return float(low + high) / 2
