"""Credit of robustness to sources: Shapley values over the ensembles of single-source models, beside leaving a source
out of the training data.

Both are of one of two figures: `probit`, the accuracy under shift in probits, of models of one total size, and
`effective`, points of accuracy above a baseline at the model's own reference accuracy. **Shapley values are of output
mixing**: 2^k - 1 mixtures of data would have to be trained, ensembles cost nothing once each source's scores are
there. How far that stands for mixing data is what the measured leave-one-out says, and only that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from evaluation.draws import Estimate, Panel, Refusal, drawn_means, estimate
from evaluation.ensemble import Features, ensemble
from evaluation.halves import Half
from evaluation.lines import RESAMPLES, SEED, Floats, from_axis, to_axis
from evaluation.metrics import Ints, expected_k_way, true_ranks
from evaluation.runs import Pictures
from filters.errors import InputError

Value = Literal["probit", "effective"]
Baseline = Callable[[Floats], Floats]  # accuracies under shift for accuracies on the reference, as `Line.at`

_EVEN = 0.01  # how far from equal the shares of an even mixture may be


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """Scores of single-source models on one set: by source a matrix float32 [N, C] for each seed.

    `labels` int64 [N] index the C classes; `pictures` has the set's keys and concepts in the same order.
    """

    scores: Mapping[str, Sequence[Features]]
    labels: Ints
    pictures: Pictures


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """What every coalition of the `sources` [k] reaches as an ensemble, in probits, mean over seeds.

    Coalition c holds source i where bit i of c is set; the empty one answers by chance on both sets. `x` and `y`
    float64 [2^k] are of the reference and the shift, `drawn_x` and `drawn_y` [R, 2^k] of draws of pictures and seeds.
    """

    sources: tuple[str, ...]
    x: Floats
    y: Floats
    drawn_x: Floats
    drawn_y: Floats
    seeds: int

    @property
    def all(self) -> int:
        """The coalition of all sources."""
        return (1 << len(self.sources)) - 1


@dataclass(frozen=True, slots=True)
class Credit:
    """One source's part: its `shapley` value, and what is lost without it, from the ensemble of all sources and
    (`measured`) from a model trained on all in equal parts."""

    source: str
    shapley: Estimate
    ensemble: Estimate
    measured: Estimate | Refusal


def shapley(values: Floats) -> Floats:
    """Exact Shapley values float64 [..., k] of games float64 [..., 2^k], coalitions numbered as those of a `Game`.

    A player's value is the mean over all orders of players of what it adds to those before it (Shapley 1953); the k
    values sum to the game's last entry less its first. InputError where the last axis is no power of two.
    """
    found = np.asarray(values, np.float64)
    players = found.shape[-1].bit_length() - 1
    if found.shape[-1] != 2**players or not players:
        raise InputError(f"a game of k players has 2^k coalitions, here are {found.shape[-1]}")
    weights = np.zeros((2**players, players))
    for coalition in range(2**players):
        size = coalition.bit_count()
        for player in range(players):
            # Of all orders, those in which exactly the coalition's others stand before the player.
            inside = coalition >> player & 1
            before = size - inside
            share = math.factorial(before) * math.factorial(players - before - 1) / math.factorial(players)
            weights[coalition, player] = share if inside else -share
    return np.asarray(found @ weights, np.float64)


def play(
    reference: Cached,
    shift: Cached,
    *,
    ways: int,
    half: Half | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Game:
    """The game of all ensembles with equal weights, by expected `ways`-way accuracy over the classes of the scores.

    The i-th model of each source is taken to be of the i-th seed. InputError where the sets are of different sources
    or seeds, or the matrices of one set differ in shape.
    """
    counts = {(name, len(models)) for part in (reference, shift) for name, models in part.scores.items()}
    sources = tuple(sorted(reference.scores))
    if sources != tuple(sorted(shift.scores)) or len({n for _, n in counts}) != 1 or not sources:
        raise InputError(
            f"an ensemble needs models of each source, seed by seed, on both sets; here are {sorted(counts)}"
        )
    seeds = counts.pop()[1]
    across, up = (_figures(part, sources, seeds, ways, half) for part in (reference, shift))
    generator = np.random.default_rng(seed)
    flat = [values.reshape(-1, values.shape[-1]) for _, values in (across, up)]
    drawn = drawn_means(across[0], flat[0], up[0], flat[1], resamples, generator)
    picked = generator.integers(0, seeds, (resamples, seeds))
    axes = []
    for values, means in zip(flat, drawn, strict=True):
        images = values.shape[1]
        own = to_axis(values.mean(axis=1), images=images).reshape(seeds, -1)
        noisy = to_axis(np.clip(means, 0, 1), images=images).reshape(resamples, seeds, -1).mean(axis=1)
        if seeds > 1:  # as many seeds with replacement, spread to their unbiased variance
            noisy = noisy + np.sqrt(seeds / (seeds - 1)) * (own - own.mean(axis=0))[picked].mean(axis=1)
        nothing = float(to_axis(1 / ways))
        axes.append((np.r_[nothing, own.mean(axis=0)], np.pad(noisy, ((0, 0), (1, 0)), constant_values=nothing)))
    (x, drawn_x), (y, drawn_y) = axes
    return Game(sources, x, y, drawn_x, drawn_y, seeds)


def credits(
    game: Game,
    value: Value,
    *,
    baseline: Baseline | None = None,
    measured: Mapping[str, Estimate | Refusal] | None = None,
) -> list[Credit]:
    """Each source's credit by one figure, most first; `measured` is what `leave_one_out` found.

    InputError for "effective" without a baseline.
    """
    values, drawn = (_worth(x, y, value, baseline) for x, y in ((game.x, game.y), (game.drawn_x, game.drawn_y)))
    parts, drawn_parts = shapley(values), shapley(drawn)
    known = measured or {}
    found = []
    for i, source in enumerate(game.sources):
        rest = game.all ^ 1 << i
        lost = estimate(values[game.all] - values[rest], drawn[:, game.all] - drawn[:, rest])
        untrained = known.get(source, Refusal(f"no model was trained without {source}"))
        found.append(Credit(source, estimate(parts[i], drawn_parts[:, i]), lost, untrained))
    return sorted(found, key=lambda credit: -credit.shapley.value)


def leave_one_out(
    panel: Panel, n_total: int, value: Value, *, baseline: Baseline | None = None
) -> dict[str, Estimate | Refusal]:
    """What the even mixture of all sources loses without each of them, at equal total: above 0 the source helps.

    The sources are those of the panel's single-source runs. Refused where the even mixture, or that of all others in
    equal parts, was not trained at this size or is at floor.
    """
    sources = sorted({name for run in panel.runs if run.kind == "single" for name in run.shares})
    whole = _even(panel, sources, n_total)
    found: dict[str, Estimate | Refusal] = {}
    for source in sources:
        rest = _even(panel, [name for name in sources if name != source], n_total)
        if isinstance(whole, Refusal):
            found[source] = whole
        elif isinstance(rest, Refusal):
            found[source] = rest
        else:
            lost = _worth(*whole, value, baseline) - _worth(*rest, value, baseline)
            found[source] = estimate(lost[0], lost[1:])
    return found


def agreement(credits: Sequence[Credit], by: Literal["shapley", "ensemble"] = "ensemble") -> float | Refusal:
    """Spearman's rank correlation over sources of what ensembles say with the measured leave-one-out, -1 to 1.

    Refused below four measured sources, where it is a matter of one or two swaps.
    """
    pairs = [(getattr(c, by).value, c.measured.value) for c in credits if isinstance(c.measured, Estimate)]
    if len(pairs) < 4:
        return Refusal(f"{len(pairs)} sources were left out of training one by one, 4 are needed")
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _figures(
    cached: Cached, sources: Sequence[str], seeds: int, ways: int, half: Half | None
) -> tuple[Pictures, Floats]:
    """The pictures of the half, and expected accuracies float64 [seeds, 2^k - 1, N] of all coalitions on them."""
    kept = np.isin(cached.pictures.keys, cached.pictures.of(half).keys)
    labels = cached.labels[kept]
    pictures = Pictures(cached.pictures.keys[kept], cached.pictures.concepts[kept], np.zeros(int(kept.sum())))
    values = np.empty((seeds, 2 ** len(sources) - 1, len(labels)))
    for number in range(seeds):
        models = [cached.scores[source][number][kept] for source in sources]
        for coalition, mixed in _coalitions(models):
            values[number, coalition - 1] = expected_k_way(true_ranks(mixed, labels), mixed.shape[1], ways)
    return pictures, values


def _coalitions(
    models: Sequence[Features], first: int = 0, coalition: int = 0, mixed: Features | None = None
) -> Iterator[tuple[int, Features]]:
    """Every ensemble with equal weights, each from the one without its last model."""
    for i in range(first, len(models)):
        now = models[i] if mixed is None else ensemble([mixed, models[i]], [coalition.bit_count(), 1])
        yield coalition | 1 << i, now
        yield from _coalitions(models, i + 1, coalition | 1 << i, now)


def _worth(x: Floats, y: Floats, value: Value, baseline: Baseline | None) -> Floats:
    """The figure of points at probits x and y, of the same shape."""
    if value == "probit":
        return y
    if baseline is None:
        raise InputError("effective robustness is measured from a baseline; give one, such as a line of all models")
    return np.asarray(100 * (from_axis(y) - np.reshape(baseline(from_axis(x)), np.shape(y))), np.float64)


def _even(panel: Panel, sources: Sequence[str], n_total: int) -> tuple[Floats, Floats] | Refusal:
    """Probits [1 + R] on both sets, of the data and then of the draws, of the sources mixed in equal parts."""
    for group in panel.groups("input_mix", "single"):
        rows = panel.rows(group, n_total)
        shares = panel.runs[rows[0]].shares if rows else {}
        if sorted(shares) == list(sources) and all(abs(s - 1 / len(sources)) <= _EVEN for s in shares.values()):
            if panel.floor[rows].any():
                return Refusal(f"{group} at {n_total}: its interval touches chance ({panel.chance:.3f})", "at floor")
            sides = ((panel.x, panel.drawn_x), (panel.y, panel.drawn_y))
            x, y = (np.r_[points[rows].mean(), drawn[:, rows].mean(axis=1)] for points, drawn in sides)
            return x, y
    return Refusal(f"no mixture of {', '.join(sources)} in equal parts was trained at {n_total} samples")
