"""A study's runs: from its page of YAML and what each source has, to a list of training sets, ensembles and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import duckdb
import numpy as np
from pydantic import BaseModel, ConfigDict

from filters.errors import ConfigError
from filters.sampling import salt
from pipelines.draw import survey
from pipelines.mixture import MixConfig, MixSource
from pipelines.quota import apportion
from pipelines.rules import find_rules
from pipelines.study_config import Ensembles, Filters, Mixtures, StudyConfig, samples_of
from trainer.config import TrainConfig

RANDOM, BEST, SELF = "random", "best", "self"


class Choice(BaseModel):
    """How a filtered run chooses from its pool: by the scores of a run, one of several, or by chance.

    `scorers` are ids of runs, of which the best is found later where there are several; none: by chance. `swapped` is
    the share of the pool's captions that change places first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorers: list[str]
    fraction: float
    swapped: float
    pool: int


class RunSpec(BaseModel):
    """One run: samples of each source, drawn and trained with `seed`, or, for an ensemble, the runs it is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kind: Literal["single", "input_mix", "output_mix", "filtered"]
    counts: dict[str, int]
    seed: int
    half: Literal[0, 1] | None = None
    choice: Choice | None = None
    members: list[str] = []
    weights: list[float] = []

    @property
    def samples(self) -> int:
        """Pairs in the training set, or in those of all members."""
        return sum(self.counts.values())

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.kind != "output_mix"


class Supply(BaseModel):
    """What each source has after the rules, and of those that are filtered how much is in each half."""

    there: dict[str, int]
    halves: dict[str, tuple[int, int]]

    @property
    def unit(self) -> int:
        """What the smallest source has."""
        return min(self.there.values())


def supply(con: duckdb.DuckDBPyConnection, config: StudyConfig) -> Supply:
    """Count what the mixture rules leave of each source; ConfigError for a source that has nothing."""
    there = _count(con, config, config.sources, None)
    if empty := [name for name, count in there.items() if not count]:
        raise ConfigError(f"study: nothing is left of {', '.join(empty)}; take it out of `sources`, or widen `where`")
    filtered = list(dict.fromkeys(one.source for one in config.filters))
    first, second = [_count(con, config, filtered, half) if filtered else {} for half in (0, 1)]
    return Supply(there=there, halves={name: (first[name], second[name]) for name in filtered})


def _count(
    con: duckdb.DuckDBPyConnection, config: StudyConfig, sources: Sequence[str], half: Literal[0, 1] | None
) -> dict[str, int]:
    mix = mixture("supply", config, dict.fromkeys(sources, 1), 0, half)
    return {part.source: part.there for part in survey(con, find_rules(con, mix)).parts}


def mixture(
    name: str, config: StudyConfig, counts: Mapping[str, int], seed: int, half: Literal[0, 1] | None
) -> MixConfig:
    """The mixture of exactly so many samples of each source; a smaller count is a subset for the same seed."""
    where = None if half is None else f"sample_order(uid_lo, {salt('study-half', 0)}::UBIGINT) % 2 = {half}"
    sources = [MixSource(source=source, weight=count, where=where) for source, count in counts.items()]
    return MixConfig(name=name, seed=seed, total=sum(counts.values()), where=config.where, sources=sources)


def recipe_of(config: StudyConfig, spec: RunSpec, rate: float) -> TrainConfig:
    """The recipe of one run: the study's, with the chosen learning rate, the run's seed and its samples seen."""
    seen = config.train.samples_seen if config.epochs is None else max(1, round(config.epochs * spec.samples))
    return config.train.model_copy(update={"lr": rate, "seed": spec.seed, "samples_seen": seen})


def expand(config: StudyConfig, found: Supply) -> list[RunSpec]:
    """All runs in order: single sources, mixtures, scorers and filtered variants, ensembles.

    ConfigError for a run that the sources cannot fill, that is smaller than a batch, and for two runs of one name.
    """
    specs = [*_singles(config, found)]
    for mixes in config.mixtures:
        specs += _mixtures(config, found, mixes)
    for filters in config.filters:
        specs += _filtered(config, found, filters)
    for ensembles in config.ensembles:
        if not ensembles.like_mixtures:
            specs += _ensembles(config, found, ensembles)
    specs += ensembles_like(config, found, specs)
    by_id: dict[str, RunSpec] = {}
    for spec in specs:
        if by_id.setdefault(spec.id, spec) != spec:
            raise ConfigError(f"study: two different runs are called {spec.id}; give a mixture or ensemble a `name`")
    for spec in by_id.values():
        _check(config, found, spec, by_id)
    return list(by_id.values())


def rate_spec(config: StudyConfig, found: Supply) -> RunSpec:
    """The run on which learning rates are tried: the even mixture with the first seed."""
    counts = dict(zip(config.sources, apportion([1.0] * len(config.sources), found.unit), strict=True))
    return RunSpec(id="rate", kind="input_mix", counts=counts, seed=config.seeds[0])


def _singles(config: StudyConfig, found: Supply) -> Iterator[RunSpec]:
    for source, there in found.there.items():
        sizes = dict.fromkeys(samples_of(size, there) for size in config.sizes)
        for size in sorted(n for n in sizes if n <= there):
            for seed in config.seeds:
                yield _single(source, size, seed)


def _single(source: str, size: int, seed: int) -> RunSpec:
    return RunSpec(id=f"{source}-n{size}-s{seed}", kind="single", counts={source: size}, seed=seed)


def _mixtures(config: StudyConfig, found: Supply, mixes: Mixtures) -> Iterator[RunSpec]:
    for name, counts in _counts(config, found, mixes):
        for seed in config.seeds if mixes.seeds is None else mixes.seeds:
            yield mixture_spec(name, counts, seed)


def mixture_spec(name: str, counts: Mapping[str, int], seed: int) -> RunSpec:
    """The run of a mixture; of one source it has that source's name, for it may be one of its sizes."""
    kept = {source: count for source, count in counts.items() if count}
    if len(kept) == 1:
        return _single(*next(iter(kept.items())), seed)
    return RunSpec(id=f"{name}-n{sum(kept.values())}-s{seed}", kind="input_mix", counts=kept, seed=seed)


def _counts(config: StudyConfig, found: Supply, mixes: Mixtures) -> Iterator[tuple[str, dict[str, int]]]:
    """Name and samples of each source of each mixture of a kind."""
    if mixes.parts is not None:
        counts = {source: samples_of(amount, found.unit) for source, amount in mixes.parts.items()}
        yield mixes.name or "-".join(f"{source}{count}" for source, count in counts.items()), counts
        return
    sources = mixes.sources or config.sources
    for amount in mixes.total:
        total = samples_of(amount, found.unit)
        for name, weights in _weights(config, mixes, sources):
            yield name, dict(zip(weights, apportion(list(weights.values()), total), strict=True))


def _weights(config: StudyConfig, mixes: Mixtures, sources: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and weight of each source of the mixtures of a kind, whatever their totals."""
    if mixes.weights is not None:
        yield str(mixes.name), dict(mixes.weights)
    elif mixes.ratios:
        first, second = sources
        for share in mixes.ratios:
            name = f"{first}{100 * share:g}-{second}{100 - 100 * share:g}"
            yield _named(mixes, name), {first: share, second: 1 - share}
    elif mixes.leave_one_out:
        for out in sources:
            yield _named(mixes, f"without-{out}"), {name: 1.0 for name in sources if name != out}
    elif mixes.alone:
        for name in sources:
            yield name, {name: 1.0}
    elif mixes.dirichlet:
        rng = np.random.default_rng(mixes.seed)
        for number, drawn in enumerate(rng.dirichlet([mixes.alpha] * len(sources), mixes.dirichlet)):
            # To thousandths, as they are written down; a source below that is left out.
            weights = {source: round(share, 3) for source, share in zip(sources, drawn.tolist(), strict=True)}
            name = _named(mixes, f"dirichlet{mixes.seed}.{number:02d}")
            yield name, {source: share for source, share in weights.items() if share}
    else:
        even = "even" if set(sources) == set(config.sources) else "-".join(sources)
        yield mixes.name or even, dict.fromkeys(sources, 1.0)


def _named(mixes: Mixtures, name: str) -> str:
    return name if mixes.name is None else f"{mixes.name}-{name}"


def _filtered(config: StudyConfig, found: Supply, filters: Filters) -> Iterator[RunSpec]:
    """A run for each scorer, and the run that trains the scorer on the first half."""
    first, second = found.halves[filters.source]
    kept = max(1, round(filters.fraction * second))
    for seed in config.seeds if filters.seeds is None else filters.seeds:
        own = f"{filters.source}-half1-n{first}-s{seed}"
        if SELF in filters.scorers:
            yield RunSpec(id=own, kind="filtered", counts={filters.source: first}, seed=seed, half=0)
        full = {name: _single(name, _full(config, found, name), seed).id for name in found.there}
        others = [run for name, run in full.items() if name != filters.source]
        scorers = {SELF: [own], RANDOM: [], BEST: others, **{name: [run] for name, run in full.items()}}
        for who in filters.scorers:
            for swapped in filters.swapped:
                swap = f"-swap{100 * swapped:g}" if swapped else ""
                yield RunSpec(
                    id=f"{filters.source}-half2-by-{who}-top{100 * filters.fraction:g}{swap}-s{seed}",
                    kind="filtered", counts={filters.source: kept}, seed=seed, half=1,
                    choice=Choice(scorers=scorers[who], fraction=filters.fraction, swapped=swapped, pool=second),
                )  # fmt: skip


def _full(config: StudyConfig, found: Supply, source: str) -> int:
    """The largest of the study's sizes that a source has."""
    there = found.there[source]
    return max((n for size in config.sizes if (n := samples_of(size, there)) <= there), default=there)


def ensembles_like(config: StudyConfig, found: Supply, specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Ensembles with the sources and weights of each mixture among some runs, as `like_mixtures` asks for."""
    mixtures = {spec.id.rpartition("-n")[0]: spec.counts for spec in specs if spec.kind == "input_mix"}
    return [
        spec
        for one in config.ensembles
        if one.like_mixtures
        for name, counts in mixtures.items()
        for spec in _ensembles(config, found, Ensembles(
            name=f"{one.name}-{name}", sources=list(counts), weights=[float(n) for n in counts.values()],
            size=one.size, seeds=one.seeds,
        ))
    ]  # fmt: skip


def _ensembles(config: StudyConfig, found: Supply, one: Ensembles) -> Iterator[RunSpec]:
    sources = one.sources or config.sources
    weights = one.weights or [1.0] * len(sources)
    if len(weights) != len(sources):
        raise ConfigError(f"study: ensemble {one.name}: {len(weights)} weights for {len(sources)} sources")
    counts = {source: samples_of(one.size, found.there[source]) for source in sources}
    for seed in config.seeds if one.seeds is None else one.seeds:
        members = [_single(source, count, seed).id for source, count in counts.items()]
        yield RunSpec(
            id=f"ensemble-{one.name}-n{sum(counts.values())}-s{seed}", kind="output_mix", counts=counts, seed=seed,
            members=members, weights=list(weights),
        )  # fmt: skip


def _check(config: StudyConfig, found: Supply, spec: RunSpec, by_id: Mapping[str, RunSpec]) -> None:
    needed = [*spec.members, *(spec.choice.scorers if spec.choice else [])]
    if missing := [name for name in needed if name not in by_id]:
        raise ConfigError(f"study: {spec.id} needs the run {missing[0]}, which no size and seed of the study gives")
    if not spec.trains:
        return
    for source, count in spec.counts.items():
        if count > found.there[source]:
            raise ConfigError(f"study: {spec.id} asks for {count} of {source}, which has {found.there[source]}")
    if spec.samples < config.train.batch:
        raise ConfigError(
            f"study: {spec.id} has {spec.samples} samples, less than a batch of {config.train.batch}; lower "
            "`train.batch`, or take larger sizes"
        )
