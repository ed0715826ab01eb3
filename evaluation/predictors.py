"""Predictors of a mixture that was not trained, and how far off each is on those that were.

Every predictor is linear in what was measured: it gives weights, and these on every draw make its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.draws import Bools, Estimate, Refusal, estimate
from evaluation.lines import SEED, Floats
from evaluation.points import SAME, Points

# Weights float64 [c, m] on the points [m] for mixtures of shares [c, S] and totals [c]; what it says is weights @ y.
Predictor = Callable[[Points, Floats, Floats], Floats | Refusal]

_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Probits of mixtures [c] on the reference and the shift, and the same in draws [R, c]."""

    x: Floats
    y: Floats
    drawn_x: Floats
    drawn_y: Floats


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """Each predictor on every mixture in turn, from the runs without it.

    `error` is the mean of |predicted - measured| in probits; `less` by (predictor, baseline) the first's error less
    the second's: below 0 the predictor is better. `spread` is the root of the mean squared error. `predicted` has
    the probits [M] of each predictor, `measured` those of the mixtures, named by (group, samples).
    """

    mixtures: tuple[tuple[str, int], ...]
    measured: Floats
    predicted: Mapping[str, Floats]
    error: Mapping[str, Estimate | Refusal]
    less: Mapping[tuple[str, str], Estimate]
    spread: Mapping[str, float]


def mediant(points: Points, shares: Floats, totals: Floats) -> Floats | Refusal:
    """The mediant law (the study, P2): a mixture's probit is its sources' in proportion, each at the mixture's total.

    In the Gaussian model a source's signal on a set is its probit times the norm of its classifier, and signals add
    by share; with norms alike, probits do too, on both sets, and the mixture's slope is the mediant
    Σ p_i a_i κ_i / Σ p_i a_i with the reference's signal a_i. A source's probit at a total is read from the line of
    its runs over the logarithm of their sizes, beyond them too. Norms are never quite alike: a mixture's mean is
    shorter than its sources', so the law is a little low where models have seen much.
    """
    weights = np.zeros((len(shares), len(points.totals)))
    for i, source in enumerate(points.sources):
        rows = np.flatnonzero(points.of("single") & (points.shares[:, i] == 1))
        if len(rows):
            weights[:, rows] += shares[:, i, None] * _at_total(points.totals[rows], totals)
        elif shares[:, i].any():
            return Refusal(f"{source} has no run of its own off the floor")
    return weights


def output_mixing(points: Points, shares: Floats, totals: Floats) -> Floats | Refusal:
    """An ensemble of single-source models weighed by the shares, where one was evaluated; of the nearest total, and
    from there as the mediant law has it."""
    if not points.of("output_mix").any():
        return Refusal("no ensemble was evaluated")
    weights = np.zeros((len(shares), len(points.totals)))
    ensembles = points.of("output_mix", "single")
    for row, (wanted, total) in enumerate(zip(shares, totals, strict=True)):
        found = _measured(points, ensembles, wanted, total)
        if isinstance(found, Refusal):
            return Refusal(f"ensembles: {found.reason}")
        weights[row] = found
    return weights


def regression(points: Points, shares: Floats, totals: Floats) -> Floats | Refusal:
    """A ridge regression over all trained runs: on the shares, the logarithm of the total, and how mixed a run is.

    The last is the entropy of the shares as a part of its greatest, so that what mixing itself gives or takes can be
    seen. The penalty, on all but the level and the total, is the one of least leave-one-out error on the shift
    (Allen's PRESS, 1974). Refused with fewer runs than sources and two more.
    """
    trained = np.flatnonzero(points.of("single", "input_mix"))
    if len(trained) < len(points.sources) + 2:
        return Refusal(f"{len(trained)} runs are too few for a regression on {len(points.sources)} sources")
    middle = float(np.log(points.totals[trained]).mean())
    design = _features(points.shares[trained], points.totals[trained], middle)
    y, free = points.y[trained], (0, 1)  # the level and the total are not penalised
    ridges = [np.linalg.pinv(design.T @ design + _penalty(design.shape[1], p, free)) @ design.T for p in _PENALTIES]

    def press(ridge: Floats) -> float:
        hat = design @ ridge
        return float((((y - hat @ y) / np.maximum(1 - np.diag(hat), 1e-6)) ** 2).sum())

    weights = np.zeros((len(shares), len(points.totals)))
    weights[:, trained] = _features(shares, totals, middle) @ min(ridges, key=press)
    return weights


def even(points: Points, shares: Floats, totals: Floats) -> Floats | Refusal:
    """Whatever the shares: the mixture of all sources in equal parts, from the nearest total on as the mediant law
    has it, or all by that law where it was not trained."""
    equal = np.full(len(points.sources), 1 / len(points.sources))
    found = [_measured(points, points.of("input_mix"), equal, total) for total in totals]
    if any(isinstance(weights, Refusal) for weights in found):
        return mediant(points, np.tile(equal, (len(shares), 1)), totals)
    return np.stack([weights for weights in found if not isinstance(weights, Refusal)])


def best_single(points: Points, shares: Floats, totals: Floats) -> Floats | Refusal:
    """Whatever the shares: the source that is best on the shift by itself, at each total."""
    chosen = best_source(points, totals)
    if isinstance(chosen, Refusal):
        return chosen
    return mediant(points, np.eye(len(points.sources))[chosen], totals)


PREDICTORS: dict[str, Predictor] = {
    "mediant law": mediant, "output mixing": output_mixing, "regression": regression,
}  # fmt: skip
BASELINES: dict[str, Predictor] = {"even mixing": even, "best single source": best_single}


def best_source(points: Points, totals: Floats) -> list[int] | Refusal:
    """At each total, the number of the source with the highest probit on the shift, of those that have runs."""
    heights = np.full((len(points.sources), len(totals)), -np.inf)
    for i, only in enumerate(np.eye(len(points.sources))):
        weights = mediant(points, np.tile(only, (len(totals), 1)), totals)
        if not isinstance(weights, Refusal):
            heights[i] = weights @ points.y
    if not np.isfinite(heights).any():
        return Refusal("no source has a run of its own off the floor")
    found: list[int] = heights.argmax(axis=0).tolist()
    return found


def predict(points: Points, weights: Floats) -> Predicted:
    """What the weights [c, m] of a predictor say of the points."""
    return Predicted(weights @ points.x, weights @ points.y, points.drawn_x @ weights.T, points.drawn_y @ weights.T)


def leave_one_mixture_out(
    points: Points, predictors: Mapping[str, Predictor] | None = None, *, seed: int = SEED
) -> LeftOut | Refusal:
    """Errors of the predictors, by default all, and of both baselines; draws resample mixtures, pictures and seeds.

    A mixture leaves with all of its sizes; the ensembles stay, no mixture was seen by them. A predictor that cannot
    say anything of one of the mixtures is refused. An interval of an error near 0 is above it: noise has no sign.
    """
    found = np.flatnonzero(points.of("input_mix"))
    groups = list(dict.fromkeys(points.groups[i] for i in found))
    if len(groups) < 3:
        return Refusal(f"{len(groups)} mixtures are too few to leave one out, 3 are needed")
    chosen = {**(PREDICTORS if predictors is None else predictors), **BASELINES}
    refused: dict[str, Estimate | Refusal] = {}
    errors: dict[str, tuple[Floats, Floats]] = {}  # [M], [R, M]
    for name, predictor in chosen.items():
        result = _without_each(points, groups, found, predictor)
        if isinstance(result, Refusal):
            refused[name] = result
        else:
            errors[name] = result
    members = [np.flatnonzero([points.groups[i] == group for i in found]) for group in groups]
    picked = np.random.default_rng(seed).integers(0, len(groups), (len(points.drawn_y), len(groups)))

    def mean(off: Floats) -> Floats:
        """Mean over mixtures of the mean over their sizes of |error| [..., M], also of the mixtures of each draw."""
        by_group = np.stack([np.abs(off)[..., rows].mean(axis=-1) for rows in members], axis=-1)
        drawn = by_group if off.ndim == 1 else np.take_along_axis(by_group, picked, axis=1)
        return np.asarray(drawn.mean(axis=-1), np.float64)

    means = {name: (float(mean(off)), mean(drawn)) for name, (off, drawn) in errors.items()}
    return LeftOut(
        mixtures=tuple((points.groups[i], int(points.totals[i])) for i in found),
        measured=points.y[found],
        predicted={name: points.y[found] + off for name, (off, _) in errors.items()},
        error={**{name: estimate(*both) for name, both in means.items()}, **refused},
        less={
            (name, base): estimate(means[name][0] - means[base][0], means[name][1] - means[base][1])
            for name in means
            for base in BASELINES
            if base in means and name not in BASELINES
        },
        spread={name: float(np.sqrt((off**2).mean())) for name, (off, _) in errors.items()},
    )


def _without_each(
    points: Points, groups: Sequence[str], found: np.ndarray, predictor: Predictor
) -> tuple[Floats, Floats] | Refusal:
    """Predicted less measured of the points `found`, of the data [M] and of the draws [R, M]."""
    off, drawn = np.zeros(len(found)), np.zeros((len(points.drawn_y), len(found)))
    for group in groups:
        here = np.array([points.groups[i] == group for i in found])
        kept = np.ones(len(points.groups), bool)
        kept[found[here]] = False
        rest, rows = points.only(kept), found[here]
        weights = predictor(rest, points.shares[rows], points.totals[rows])
        if isinstance(weights, Refusal):
            return Refusal(f"{group}: {weights.reason}")
        said = predict(rest, weights)
        off[here], drawn[:, here] = said.y - points.y[rows], said.drawn_y - points.drawn_y[:, rows]
    return off, drawn


def _at_total(sizes: Floats, totals: Floats) -> Floats:
    """Weights [c, n] of least squares on the logarithm of sizes [n], at totals [c]; equal where there is one size."""
    across, at = np.log(sizes), np.log(totals)
    off = across - across.mean()
    spread = float((off**2).sum())
    slope = np.outer(at - across.mean(), off) / spread if spread > 1e-9 else 0.0
    return np.asarray(np.broadcast_to(1 / len(sizes) + slope, (len(totals), len(sizes))), np.float64)


def _features(shares: Floats, totals: Floats, middle: float) -> Floats:
    """The regression's columns [c, S + 3]: level, logarithm of the total, entropy, and shares from equal ones."""
    sources = shares.shape[1]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1) / np.log(max(sources, 2))
    return np.column_stack([np.ones(len(shares)), np.log(totals) - middle, entropy, shares - 1 / sources])


def _penalty(columns: int, penalty: float, free: Sequence[int]) -> Floats:
    diagonal = np.full(columns, penalty)
    diagonal[list(free)] = 0
    return np.diag(diagonal)


def _measured(points: Points, among: Bools, shares: Floats, total: float) -> Floats | Refusal:
    """Weights [m] of what was measured of these shares [S] at the nearest total, and of what the mediant law adds
    from there to `total`; refused where nothing was measured, or the sources have one size each."""
    rows = np.flatnonzero(among & points.with_shares(shares))
    if not len(rows):
        return Refusal(f"none was evaluated with the shares {_named(points, shares)}")
    apart = np.abs(np.log(points.totals[rows]) - np.log(total))
    mine = rows[apart <= apart.min() + 1e-9]
    weights = np.zeros(len(points.totals))
    weights[mine] = 1 / len(mine)
    near = float(points.totals[mine[0]])
    if abs(np.log(near / total)) <= SAME:
        return weights
    step = mediant(points, np.tile(shares, (2, 1)), np.array([total, near]))
    if isinstance(step, Refusal):
        return step
    if np.allclose(step[0], step[1]):
        why = f"no source at several sizes says what {total:.0f} do"
        return Refusal(f"it was evaluated at {near:.0f} samples, and {why}")
    return np.asarray(weights + step[0] - step[1], np.float64)


def _named(points: Points, shares: Floats) -> str:
    return ", ".join(f"{name} {share:.2f}" for name, share in zip(points.sources, shares, strict=True) if share > 0)
