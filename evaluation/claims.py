"""The statistics that claims of a source study are judged by, each as `configs/study/claims.yaml` words it.

All are of panels by shift, in probits. A shift that has no figure is left out and named; where none is left there is
a `Refusal`. A mean over shifts has the mean of their intervals' ends: the shifts share models and reference pictures,
and errors that go together make that interval, any others a narrower one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student

from evaluation.draws import Estimate, Panel, Refusal, estimate
from evaluation.lines import Floats, fit_lines, to_axis
from evaluation.mixing import Lines, Mixture
from evaluation.ranking import Ranking
from evaluation.robustness import SourceLine

Direction = Literal["at least", "at most", "above", "below"]
Verdict = Literal["shown", "not shown", "cannot test"]
Cells = Mapping[str, Mixture | Refusal]  # one mixture by shift
LinesOf = Mapping[str, Lines]  # lines by shift

_BETWEEN = (-0.1, 1.1)  # positions that count as between two parents


@dataclass(frozen=True, slots=True)
class Statistic:
    """A statistic's value, and the figures it was made of, in words or numbers by name."""

    value: float
    parts: Mapping[str, float | str]


def verdict(value: float, direction: Direction, threshold: float) -> Verdict:
    """Whether a statistic shows its claim."""
    shown = {
        "at least": value >= threshold, "at most": value <= threshold,
        "above": value > threshold, "below": value < threshold,
    }[direction]  # fmt: skip
    return "shown" if shown else "not shown"


def least_fit(lines: LinesOf) -> Statistic | Refusal:
    """The least R² over all lines of sources on shifts."""
    found = {name: line.line.r2 for name, line in _lines(lines)}
    return _of(min, found, "no source has a line")


def different_winners(lines: LinesOf, rankings: Mapping[str, Ranking | Refusal]) -> Statistic | Refusal:
    """How many different sources stand highest on some shift, clearly above the mean of the other lines there."""
    parts: dict[str, float | str] = {}
    winners = set()
    for shift, ranking in rankings.items():
        if isinstance(ranking, Refusal):
            parts[shift] = str(ranking)
            continue
        x = float(to_axis(ranking.x))
        known = {name: line for name in ranking.accuracy if isinstance(line := lines[shift][name], SourceLine)}
        others = [line for name, line in known.items() if name != ranking.best]
        best = known[ranking.best]
        lead = estimate(
            _height(best, x) - float(np.mean([_height(line, x) for line in others])),
            _drawn(best, x) - np.mean([_drawn(line, x) for line in others], axis=0),
        )
        parts[shift] = f"{ranking.best} leads by {_said(lead)}"
        if lead.low > 0:
            winners.add(ranking.best)
    if not any(isinstance(one, Ranking) for one in rankings.values()):
        return Refusal("no shift has two lines at one reference accuracy")
    return Statistic(float(len(winners)), parts)


def moves_with_share(mixtures: Sequence[Cells], source: str) -> Statistic | Refusal:
    """The least over shifts of the rank correlation of `source`'s share in two-source mixtures with their position,
    0 at the other parent's line and 1 at its own; -1 where a position is not between -0.1 and 1.1."""
    parts: dict[str, float | str] = {}
    found: dict[str, float] = {}
    for shift in dict.fromkeys(name for cells in mixtures for name in cells):
        here = [cells[shift] for cells in mixtures if shift in cells]
        refused = [one for one in here if isinstance(one, Refusal)]
        refused += [one.position for one in here if isinstance(one, Mixture) and isinstance(one.position, Refusal)]
        if refused:
            parts[shift] = str(refused[0])
            continue
        places = [_position(one, source) for one in here if isinstance(one, Mixture)]
        shares = [one.shares[source] for one in here if isinstance(one, Mixture)]
        inside = all(_BETWEEN[0] <= place <= _BETWEEN[1] for place in places)
        found[shift] = _rank_correlation(shares, places) if inside else -1.0
        parts[shift] = f"{found[shift]:.2f}, positions {', '.join(f'{place:.2f}' for place in places)}"
    return _of(min, found, "on no shift have all mixtures a position", parts)


def dilution_end(cells: Cells) -> Statistic | Refusal:
    """The lower end of a mixture's dilution, the mean over shifts."""
    parts = {shift: one if isinstance(one, Refusal) else one.dilution for shift, one in cells.items()}
    return _mean_of(parts, lambda one: one.low, "the mixture is comparable on no shift")


def outside_parents(cells: Cells) -> Statistic | Refusal:
    """On how many shifts a mixture is below the lowest or above the highest of its sources' lines at its own x₀."""
    found: dict[str, float] = {}
    parts: dict[str, float | str] = {}
    for shift, one in cells.items():
        if isinstance(one, Refusal):
            parts[shift] = str(one)
            continue
        y, heights = float(to_axis(one.y.value)), [parent.value for parent in one.parents.values()]
        found[shift] = float(not min(heights) <= y <= max(heights))
        parts[shift] = f"{y:.3f}, the lines {min(heights):.3f} to {max(heights):.3f}"
    return _of(sum, found, "the mixture is comparable on no shift", parts)


def output_error(pairs: Mapping[str, Mapping[str, Estimate | Refusal]]) -> Statistic | Refusal:
    """Ensemble less mixture, by pair and shift: the largest over pairs of the mean of its absolute values."""
    means: dict[str, float] = {}
    parts: dict[str, float | str] = {}
    for pair, by_shift in pairs.items():
        found = _mean_of(by_shift, lambda one: abs(one.value), f"{pair} is comparable on no shift")
        if isinstance(found, Refusal):
            return found
        means[pair] = found.value
        parts |= {f"{pair}, {shift}": said for shift, said in found.parts.items()}
    return _of(max, means, "no ensemble has a mixture of its name", parts)


def off_with_size(panels: Mapping[str, Panel], lines: LinesOf) -> Statistic | Refusal:
    """Share of the lines whose residuals have a slope on the logarithm of the size with an interval without 0."""
    found, parts = {}, {}
    for name, line in _lines(lines):
        shift, source = name.split(": ")
        panel, rows = panels[shift], _rows(panels[shift], source)
        sizes = np.log([panel.runs[i].n_total for i in rows])
        off, drawn = _residuals(panel, line, rows)
        slope, _ = fit_lines(sizes, off)
        slopes, _ = fit_lines(np.broadcast_to(sizes, drawn.shape), drawn)
        one = estimate(float(slope), slopes)
        found[name], parts[name] = float(one.clear), _said(one)
    return _of(lambda v: float(np.mean(list(v))), found, "no source has a line", parts)


def off_with_seed(panels: Mapping[str, Panel], lines: LinesOf, seeds: Sequence[int]) -> Statistic | Refusal:
    """Share of the lines on which two seeds' residuals differ, by Student's t over pairs of one size.

    The bootstrap takes what seeds differ by for its noise, and cannot say whether they differ.
    """
    first, second = seeds[:2]
    found, parts = {}, {}
    for name, line in _lines(lines):
        shift, source = name.split(": ")
        panel, rows = panels[shift], _rows(panels[shift], source)
        off, _ = _residuals(panel, line, rows)
        by_seed: dict[int | None, dict[int, float]] = {}
        for i, value in zip(rows, off, strict=True):
            by_seed.setdefault(panel.runs[i].seed, {})[panel.runs[i].n_total] = float(value)
        one, other = by_seed.get(first, {}), by_seed.get(second, {})
        apart = np.array([one[size] - other[size] for size in sorted(one.keys() & other.keys())])
        if len(apart) < 3:
            parts[name] = f"{len(apart)} sizes with both seeds"
            continue
        reach = float(student.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart)))
        middle = float(apart.mean())
        found[name] = float(abs(middle) > reach)
        parts[name] = f"{middle:+.3f} ({middle - reach:+.3f} to {middle + reach:+.3f})"
    return _of(lambda v: float(np.mean(list(v))), found, "no line has three sizes with both seeds", parts)


def height_between(
    panels: Mapping[str, Panel], first: str, second: str, seeds: Sequence[int]
) -> dict[str, Estimate | Refusal]:
    """By shift, shifted less reference probit of the runs called `first` and `-s` a seed, less that of `second`."""
    found: dict[str, Estimate | Refusal] = {}
    for shift, panel in panels.items():
        ids = [run.run_id for run in panel.runs]
        rows = [[ids.index(run) for s in seeds if (run := f"{name}-s{s}") in ids] for name in (first, second)]
        if not all(rows):
            found[shift] = Refusal(f"{first if not rows[0] else second} was not run with the claim's seeds")
        elif low := [ids[i] for i in (*rows[0], *rows[1]) if panel.floor[i]]:
            found[shift] = Refusal(f"{low[0]}: its interval touches chance ({panel.chance:.3f})", "at floor")
        else:
            value = [float((panel.y[r] - panel.x[r]).mean()) for r in rows]
            drawn = [(panel.drawn_y[:, r] - panel.drawn_x[:, r]).mean(axis=1) for r in rows]
            found[shift] = estimate(value[0] - value[1], drawn[0] - drawn[1])
    return found


def inherited(by_shift: Mapping[str, Estimate | Refusal]) -> Statistic | Refusal:
    """The lower end of a difference, the mean over shifts."""
    return _mean_of(by_shift, lambda one: one.low, "the filtered runs are comparable on no shift")


def unmoved(by_shift: Mapping[str, Estimate | Refusal]) -> Statistic | Refusal:
    """The absolute value of the mean of a difference over shifts."""
    found = _mean_of(by_shift, lambda one: one.value, "the filtered runs are comparable on no shift")
    return found if isinstance(found, Refusal) else Statistic(abs(found.value), found.parts)


def rises_with_size(accuracies: Mapping[str, Mapping[int, Sequence[float]]]) -> Statistic | Refusal:
    """The least over sources of the rank correlation of size and mean accuracy over seeds, from accuracies by source,
    size and seed; a fall of less than the pooled standard deviation of seeds is not counted as one."""
    spreads = [np.var(v, ddof=1) for by_size in accuracies.values() for v in by_size.values() if len(v) > 1]
    noise = float(np.sqrt(np.mean(spreads))) if spreads else 0.0
    found: dict[str, float] = {}
    parts: dict[str, float | str] = {"standard deviation of seeds": f"{100 * noise:.2f} points"}
    for source, by_size in accuracies.items():
        sizes = sorted(by_size)
        means = [float(np.mean(by_size[size])) for size in sizes]
        level = means[:1]
        for mean in means[1:]:
            level.append(mean if mean > level[-1] or level[-1] - mean >= noise else float(np.nextafter(level[-1], 1)))
        if len(sizes) > 1:
            found[source] = _rank_correlation(sizes, level)
            parts[source] = f"{found[source]:.2f}, {', '.join(f'{100 * mean:.1f}' for mean in means)} %"
    return _of(min, found, "no source has two sizes", parts)


def _lines(lines: LinesOf) -> Iterator[tuple[str, SourceLine]]:
    for shift, by_source in lines.items():
        for source, line in by_source.items():
            if isinstance(line, SourceLine):
                yield f"{shift}: {source}", line


def _rows(panel: Panel, group: str) -> list[int]:
    """The runs that a group's line goes through."""
    return [i for i in panel.rows(group) if not panel.floor[i]]


def _residuals(panel: Panel, line: SourceLine, rows: Sequence[int]) -> tuple[Floats, Floats]:
    """Distances [n] of runs from their line, and the same in draws [R, n]."""
    off = panel.y[rows] - (line.line.slope * panel.x[rows] + line.line.intercept)
    return off, panel.drawn_y[:, rows] - (line.slopes[:, None] * panel.drawn_x[:, rows] + line.intercepts[:, None])


def _position(one: Mixture, source: str) -> float:
    """From 0 at the other parent to 1 at `source`; `Mixture.position` has 1 at the first in order of name."""
    assert isinstance(one.position, Estimate)
    return one.position.value if source == min(one.shares) else 1 - one.position.value


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, without the last digits, for thresholds of exactly 1."""
    return round(float(spearmanr(one, other).statistic), 12)


def _height(line: SourceLine, x: float) -> float:
    return line.line.slope * x + line.line.intercept


def _drawn(line: SourceLine, x: float) -> Floats:
    return line.slopes * x + line.intercepts


def _mean_of(
    by_shift: Mapping[str, Estimate | Refusal], take: Callable[[Estimate], float], nothing: str
) -> Statistic | Refusal:
    """The mean over shifts of what is taken of each estimate."""
    parts = {shift: str(one) if isinstance(one, Refusal) else _said(one) for shift, one in by_shift.items()}
    found = {shift: take(one) for shift, one in by_shift.items() if isinstance(one, Estimate)}
    return _of(lambda values: float(np.mean(list(values))), found, nothing, parts)


def _of(
    fold: Callable[[Iterable[float]], float],
    found: Mapping[str, float],
    nothing: str,
    parts: Mapping[str, float | str] | None = None,
) -> Statistic | Refusal:
    if found:
        return Statistic(float(fold(found.values())), dict(parts or found))
    reasons = "; ".join(f"{name}: {said}" for name, said in (parts or {}).items())
    return Refusal(f"{nothing}{f' ({reasons})' if reasons else ''}")


def _said(one: Estimate) -> str:
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
