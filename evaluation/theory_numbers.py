"""The theory's numbers, closed form beside simulation, as rows: those of sections 5.3 and 5.4 of the notes."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from evaluation import theory_classes as classes
from evaluation.lines import Floats
from evaluation.theory import Example, ensemble_probits, filtered, filtered_probits, mixed_slopes
from evaluation.theory_simulation import SIZES, after_filter, ensembles, learned, ray

Row = dict[str, float | str | None]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ADDED = (0, 200, 800, 3200, 12_800)
THRESHOLDS = (-np.inf, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
FRACTIONS = (1.0, 0.5, 0.3, 0.1)
_SEEDS = 50
_EACH = np.array(SIZES)[:, None]  # the same of each model in an ensemble


def mixtures(example: Example, rng: np.random.Generator) -> list[Row]:
    """Slopes of mixtures of data and of ensembles, for shares of the robust source (P2, P3)."""
    setting, both = example.setting, np.stack([example.a, example.b])
    rows: list[Row] = []
    for share in SHARES:
        pair = np.array([share, 1 - share])
        data = setting.probits(learned(setting, pair @ both, SIZES, rng, _SEEDS))
        models = setting.probits(ensembles(setting, both, pair, _EACH, rng, _SEEDS))
        found = {
            "mixture": mixed_slopes(setting, both, pair), "mixture_drawn": ray(data),
            "ensemble": ray(ensemble_probits(setting, both, pair, _EACH)), "ensemble_drawn": ray(models),
        }  # fmt: skip
        rows.append({"share": share, **{name: float(slope[0]) for name, slope in found.items()}})
    return rows


def added(example: Example, rng: np.random.Generator, start: int = 800) -> list[Row]:
    """Accuracies of `start` samples of the robust source and more and more of the brittle one (P2)."""
    setting, counts = example.setting, np.array(ADDED)
    means = (start * example.a + counts[:, None] * example.b) / (start + counts[:, None])
    closed = norm.cdf(setting.expected(means, start + counts))
    drawn = norm.cdf(setting.probits(learned(setting, means, start + counts, rng, _SEEDS))).mean(axis=0)
    rows = _rows(slope=setting.slopes(means)[:, 0], reference=closed[:, 0], reference_drawn=drawn[:, 0],
                 shifted=closed[:, 1], shifted_drawn=drawn[:, 1])  # fmt: skip
    return [{"added": count, **row} for count, row in zip(ADDED, rows, strict=True)]


def filters(example: Example, rng: np.random.Generator, n: int = 4000) -> list[Row]:
    """`n` samples of the brittle source after a filter by the robust scorer; threshold None keeps all (P4, P6)."""
    setting, source, scorer = example.setting, example.b, example.scorer
    kept, means = filtered(setting, source, scorer, THRESHOLDS)
    shifted = norm.cdf(filtered_probits(setting, source, scorer, THRESHOLDS, n)[:, 1])
    kept_drawn, models = after_filter(setting, source, scorer, THRESHOLDS, n, rng, _SEEDS)
    z = setting.probits(models)
    slopes = np.array([ray(z[:, i])[0] for i in range(len(THRESHOLDS))])
    rows = _rows(kept=kept, kept_drawn=kept_drawn.mean(axis=0), slope=setting.slopes(means)[:, 0], slope_drawn=slopes,
                 shifted=shifted, shifted_drawn=norm.cdf(z[..., 1]).mean(axis=0))  # fmt: skip
    cuts = [None if np.isinf(threshold) else threshold for threshold in THRESHOLDS]
    return [{"threshold": cut, **row} for cut, row in zip(cuts, rows, strict=True)]


def many_classes(rng: np.random.Generator) -> list[Row]:
    """With 100 classes: the line of each training set, and its shifted accuracy at 30 % reference accuracy."""
    world = classes.make_world(rng)
    a, b = world.sources["a"], world.sources["b"]

    def drawn(prototypes: Floats) -> classes.Singles:
        return classes.learned(prototypes, classes.SIZES, rng, seeds=2)

    models = {name: drawn(source) for name, source in world.sources.items()}
    for share in SHARES[1:-1]:
        models[f"{share:g} a + {1 - share:g} b"] = drawn(share * a + (1 - share) * b)
        models[f"ensemble of {share:g} a, {1 - share:g} b"] = classes.joined([drawn(a), drawn(b)], [share, 1 - share])
    for name, scorer in (("a", a), ("b", b), ("random", rng.standard_normal(a.shape))):
        for fraction in FRACTIONS[1:]:
            models[f"{fraction:.0%} of b by {name}"] = drawn(classes.filtered(b, scorer, fraction))
    rows: list[Row] = []
    for name, found in models.items():
        line = classes.fitted(world, found)
        fit = {"slope": line.slope, "intercept": line.intercept, "r2": line.r2}
        rows.append({"data": name, **fit, "shifted_at_30": float(line.at(classes.AT))})
    return rows


def _rows(**columns: Floats) -> list[Row]:
    return [dict(zip(columns, row, strict=True)) for row in np.stack(list(columns.values()), axis=1).tolist()]
