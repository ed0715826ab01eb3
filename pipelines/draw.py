"""Drawing a mixture from a catalog: a survey that counts, then the rows in the mixture's own order.

The same seed gives the same samples on any machine and with any number of threads; a smaller total is a subset of a
larger one, because each source is cut from the front of one fixed order. Only the mixture itself is ever sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.errors import ConfigError, InputError
from filters.sampling import salt
from pipelines.manifest import row_groups
from pipelines.mixture import MixConfig, shares
from pipelines.rules import Rules, ask, find_rules
from pipelines.store.catalog import explain_error
from pipelines.store.presets import literal
from pipelines.store.schema import MANIFEST

# Where a source's order is cut is found in two steps: samples are counted by the first bits of their keys, then
# those with the one beginning in which the cut falls are looked at.
_BITS = 12
_SHIFT = 64 - _BITS


@dataclass(frozen=True, slots=True)
class Part:
    """What a source has for a mixture: how many samples each rule left, and what is drawn of them.

    `buckets` counts the samples that all rules left by the first bits of their keys.
    """

    source: str
    asked: int
    steps: list[tuple[str, int]]
    limit: int | None
    buckets: npt.NDArray[np.int64]

    @property
    def there(self) -> int:
        """Samples that passed all rules."""
        return self.steps[-1][1]

    @property
    def got(self) -> int:
        """Rows of the mixture: as many as were asked, or as there can be."""
        most = self.there * self.limit if self.limit is not None else self.asked if self.there else 0
        return min(self.asked, most)

    @property
    def uses(self) -> tuple[int, int]:
        """How often each sample is used, and how many of the first are used once more."""
        return divmod(self.got, self.there) if self.there else (0, 0)


@dataclass(frozen=True, slots=True)
class Survey:
    """What all sources have for a mixture, by its rules."""

    rules: Rules
    parts: list[Part]

    @property
    def samples(self) -> int:
        """Rows of the mixture."""
        return sum(part.got for part in self.parts)

    @property
    def attrition(self) -> list[dict[str, Any]]:
        """For each source what was asked and got, and as `steps` how many samples each rule left, in their order."""
        return [
            {"source": p.source, "asked": p.asked, "steps": [list(step) for step in p.steps], "got": p.got}
            for p in self.parts
        ]

    def check(self) -> None:
        """InputError with all shortages, unless the mixture says that it may be cut short."""
        mix = self.rules.mix
        short = [f"{p.source}: {p.asked} asked, {p.there} there" for p in self.parts if p.got < p.asked]
        if short and mix.on_shortage != "truncate":
            more = (
                "raise `max_repeats` (null for no limit)"
                if mix.on_shortage == "repeat"
                else "set `on_shortage: repeat` with `max_repeats` above 1 to use samples more than once"
            )
            raise InputError(
                f"mixture {mix.name}: not enough samples ({'; '.join(short)}); lower `total`, widen `where`, {more}, "
                "or set `on_shortage: truncate`, which changes the shares"
            )
        if not self.samples:
            raise InputError(f"mixture {mix.name}: no source has a single sample for it; widen `where`")


def survey(con: duckdb.DuckDBPyConnection, rules: Rules) -> Survey:
    """Count in one pass over the catalog what each rule leaves of each source."""
    mix, conditions = rules.mix, rules.conditions
    tried = " ".join(f"WHEN {rule} IS NOT TRUE THEN {i}" for i, rule in enumerate(conditions.values()))
    key = f"CASE WHEN passed = {len(conditions)} THEN ({_key(mix)} >> {_SHIFT})::INTEGER END"
    found = ask(con, f"""SELECT part, passed, {key} AS bucket, count(*)::BIGINT AS n
        FROM (SELECT {rules.part} AS part, CASE {tried} ELSE {len(conditions)} END AS passed, uid_lo
              FROM samples WHERE {rules.scope})
        GROUP BY ALL""", mix)  # fmt: skip
    part, passed, n = (found[name].to_numpy() for name in ("part", "passed", "n"))
    bucket = found["bucket"].fill_null(-1).to_numpy()
    parts = []
    for i, (source, asked) in enumerate(zip(mix.sources, shares(mix), strict=True)):
        own = {label for label, _ in rules.of(source)}
        mine, limit = part == i, source.max_repeats if mix.on_shortage == "repeat" else 1
        steps = [("records", int(n[mine].sum()))]
        steps += [(label, int(n[mine & (passed > at)].sum())) for at, label in enumerate(conditions) if label in own]
        buckets = np.zeros(1 << _BITS, np.int64)
        drawn = mine & (bucket >= 0)
        buckets[bucket[drawn]] = n[drawn]
        parts.append(Part(source.source, asked, steps, limit, buckets))
    return Survey(rules, parts)


def draw(con: duckdb.DuckDBPyConnection, found: Survey) -> Iterator[pa.Table]:
    """The rows (schema MANIFEST) of a mixture in one global hash order, in row groups whose size never varies.

    Raises InputError with all shortages where samples lack.
    """
    found.check()
    rules, mix = found.rules, found.rules.mix
    uses = [
        f"{whole} + ({_up_to(edge)})::INTEGER"
        for (whole, _), edge in zip((p.uses for p in found.parts), _edges(con, found), strict=True)
    ]
    once = all(p.got <= p.there for p in found.parts)
    names = rules.by_source(literal(source.source) for source in mix.sources)
    order = f"sample_order(uid_lo::UHUGEINT + repeat::UHUGEINT, {salt('mix-order', mix.seed)}::UBIGINT)"
    query = f"""SELECT uid, source, shard, "offset", size, caption, repeat FROM (
            SELECT *, {"0" if once else "unnest(range(uses))"}::INTEGER AS repeat FROM (
                SELECT uid, uid_lo, {names} AS source, shard, "offset", size, caption,
                    {rules.by_source(uses)} AS uses
                FROM ({_kept(rules, 'shard, "offset", size')})) WHERE uses > 0)
        ORDER BY {order}, uid, repeat"""
    try:
        batches = con.sql(query).to_arrow_reader(1 << 16)
        yield from (MANIFEST.conform(group) for group in row_groups(batches))
    except (duckdb.Error, pa.ArrowInvalid) as error:
        message = explain_error(error, con) if isinstance(error, duckdb.Error) else str(error).splitlines()[0]
        raise ConfigError(f"mixture {mix.name}: {message}") from error


def build_mix(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> pa.Table:
    """The manifest (schema MANIFEST) of a mixture, in one global hash order.

    Raises ConfigError for a condition that is not one, InputError for an unknown source and with all shortages where
    samples lack.
    """
    return pa.concat_tables(draw(con, survey(con, find_rules(con, mix))))


def _key(mix: MixConfig) -> str:
    return f"sample_order(uid_lo, {salt('mix', mix.seed)}::UBIGINT)"


def _kept(rules: Rules, columns: str) -> str:
    """Query of what all rules leave of all sources, with the key that a sample is drawn by."""
    return f"""SELECT source, uid, uid_lo, {columns}, {rules.caption} AS caption, {_key(rules.mix)} AS key
        FROM samples WHERE {rules.scope} AND {" AND ".join(rules.conditions.values())}"""


def _edges(con: duckdb.DuckDBPyConnection, found: Survey) -> list[tuple[int, str] | None]:
    """For each source key and uid of the last of those that are used once more; None where there are none."""
    places: list[tuple[int, int] | None] = []
    for part in found.parts:
        rest = part.uses[1]
        before = np.cumsum(part.buckets)
        bucket = int(np.searchsorted(before, rest))
        places.append((bucket, rest - int(before[bucket] - part.buckets[bucket])) if rest else None)
    if not any(places):
        return [None] * len(places)
    rules = found.rules
    in_bucket = rules.by_source("false" if at is None else f"key >> {_SHIFT} = {at[0]}" for at in places)
    rows = ask(con, f"""SELECT {rules.part} AS part, key, uid FROM ({_kept(rules, "shard")}) WHERE {in_bucket}
        ORDER BY part, key, uid""", rules.mix)  # fmt: skip
    edges: list[tuple[int, str] | None] = []
    for i, at in enumerate(places):
        mine = np.flatnonzero(rows["part"].to_numpy() == i)
        edges.append(at and (rows["key"][mine[at[1] - 1]].as_py(), rows["uid"][mine[at[1] - 1]].as_py()))
    return edges


def _up_to(edge: tuple[int, str] | None) -> str:
    """The condition that a sample stands in its source's order at an edge or before it."""
    if edge is None:
        return "false"
    key, uid = edge
    return f"key < {key}::UBIGINT OR (key = {key}::UBIGINT AND uid <= {literal(uid)})"
