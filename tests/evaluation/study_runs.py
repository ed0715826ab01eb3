"""Runs with planted truths: figures on single pictures whose means are exactly the accuracies asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm

from evaluation.runs import Pictures, Run

REFERENCE, SHIFT, WAYS = "ref", "ink", 20
SIZES = (1000, 2000, 4000, 8000)
# Slope and intercept of each source's line in probits.
LINES: dict[str, tuple[float, float]] = {"ant": (1.0, 0.2), "bee": (0.8, -0.5), "cat": (0.5, -0.9)}


def pictures(probit: float, count: int, seed: int, *, prefix: str = "") -> Pictures:
    """Values whose mean is Φ(probit): the same pictures are hard for every run of one `seed`."""
    hard = norm.ppf((np.arange(count) + 0.5) / count)
    np.random.default_rng(seed).shuffle(hard)
    names = np.array([f"{prefix}{i:05d}" for i in range(count)])
    values = norm.cdf(np.sqrt(2) * probit + hard)
    return Pictures(names, names, values + norm.cdf(probit) - values.mean())


def run(
    group: str,
    place: Mapping[str, tuple[float, float]] | tuple[float, float],
    *,
    total: int = 4000,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    kind: str | None = None,
    count: int = 400,
    family: Sequence[str] = (),
    prefix: str = "",
) -> Run:
    """A run at probits (x, y) on the shift, or by shift."""
    shares = shares or {group: 1.0}
    places = place if isinstance(place, Mapping) else {SHIFT: place}
    found = {}
    for i, (shift, (x, y)) in enumerate(places.items()):
        found[REFERENCE, shift] = pictures(x, count, 1)
        found[shift, shift] = pictures(y, count, 2 + i, prefix=prefix)
    return Run(
        run_id=f"{group}-{total}-{seed}", kind=kind or ("single" if len(shares) == 1 else "input_mix"), group=group,
        shares=shares, n_total=total, seed=seed, samples_seen=30_000, pictures=found,
        chance=dict.fromkeys([REFERENCE, *places], 1 / WAYS), same_family=frozenset(family),
    )  # fmt: skip


def x_of(total: float) -> float:
    """Where a run of `total` samples stands on the reference, in probits, whatever its source."""
    return -0.9 + 0.35 * float(np.log2(total / 1000))


def singles(
    lines: Mapping[str, tuple[float, float]] = LINES,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 2,
    noise: float = 0.0,
    count: int = 400,
    prefix: str = "",
) -> list[Run]:
    """All sizes and seeds of sources that lie on `lines` but for the `noise` of seeds, in probits on either set."""
    generator = np.random.default_rng(7)
    return [
        run(
            name,
            tuple(np.array([x_of(n), slope * x_of(n) + intercept]) + noise * generator.standard_normal(2)),
            total=n, seed=seed, count=count, prefix=prefix,
        )
        for name, (slope, intercept) in lines.items()
        for n in sizes
        for seed in range(seeds)
    ]  # fmt: skip


def mixed(
    shares: Mapping[str, float], lift: float = 0.0, *, total: int = 4000, seed: int = 0, kind: str = "input_mix",
    x: float | None = None, count: int = 400, prefix: str = "",
) -> Run:  # fmt: skip
    """A mixture whose probit is its sources' in proportion, and `lift`."""
    at = x_of(total) if x is None else x
    y = sum(share * (LINES[name][0] * at + LINES[name][1]) for name, share in shares.items()) + lift
    name = "+".join(sorted(shares)) + " " + ":".join(f"{100 * shares[s]:.0f}" for s in sorted(shares))
    if kind == "output_mix":
        name += " ensemble"
    return run(name, (at, y), total=total, seed=seed, shares=shares, kind=kind, count=count, prefix=prefix)
