"""What keeps a sample out of a mixture: its rules in order, as SQL over `samples`, and their thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from filters.errors import ConfigError, InputError
from pipelines.expression import bind
from pipelines.mixture import MixConfig, MixSource
from pipelines.store.catalog import explain_error
from pipelines.store.presets import literal, quoted

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """What a top fraction comes to: the lowest score that stays (None where nothing has a score), of how many."""

    fraction: float
    scored: int
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Rules:
    """A mixture whose sources and conditions are known to fit a catalog: captions as SQL and cuts, by source."""

    mix: MixConfig
    captions: Mapping[str, str]
    cuts: Mapping[str, Cut]

    def of(self, source: MixSource) -> list[tuple[str, str]]:
        """A source's rules in order: the name of each in the attrition table, and its condition."""
        mix = self.mix
        rules = [("success", "status = 'success'"), ("has_caption", f"{self.captions[source.source]} IS NOT NULL")]
        if mix.exclude_duplicates:
            rules.append(("not_duplicate", "duplicate_of IS NULL AND kind IS DISTINCT FROM 'placeholder'"))
        if mix.exclude_eval_overlap:
            rules.append(("not_in_evaluation", "eval_set IS NULL"))
        # On lines of their own, so that a comment at the end of a condition ends there.
        rules += [("where", f"\n{where}\n") for where in (mix.where,) if where is not None]
        rules += [("source_where", f"\n{where}\n") for where in (source.where,) if where is not None]
        if source.source in self.cuts:
            threshold = self.cuts[source.source].threshold
            least = "false" if threshold is None else f"{quoted(mix.top_score)}::DOUBLE >= {double(threshold)}"
            rules.append(("top_global" if mix.top_scope == "global" else "top_in_source", least))
        return rules

    @property
    def conditions(self) -> dict[str, str]:
        """The rules of all sources in order, as conditions over every row; what the sources share is there once."""
        labels = ["success", "has_caption", "not_duplicate", "not_in_evaluation", "where", "source_where"]
        labels += ["top_in_source", "top_global"]
        found = [dict(self.of(source)) for source in self.mix.sources]
        by_label = {label: [rules.get(label) for rules in found] for label in labels}
        return {label: f"({self._each(texts)})::BOOLEAN" for label, texts in by_label.items() if any(texts)}

    @property
    def scope(self) -> str:
        """The condition that a row is of one of the sources."""
        return f"source IN ({', '.join(literal(source.source) for source in self.mix.sources)})"

    @property
    def part(self) -> str:
        """The position of a row's source among the mixture's."""
        return self.by_source(str(i) for i in range(len(self.mix.sources)))

    @property
    def caption(self) -> str:
        """A row's caption."""
        return self._each([self.captions[source.source] for source in self.mix.sources])

    def by_source(self, values: Iterable[str]) -> str:
        """The one of `values`, given in the order of the sources, that is for a row's source."""
        cases = zip(self.mix.sources, values, strict=True)
        whens = " ".join(f"WHEN source = {literal(source.source)} THEN ({value})" for source, value in cases)
        return f"CASE {whens} END"

    def _each(self, texts: Sequence[str | None]) -> str:
        """One text that all sources share, or the one for a row's source; a source without one lets all pass."""
        if len(set(texts)) == 1 and texts[0] is not None:
            return texts[0]
        return self.by_source("true" if text is None else text for text in texts)


def find_rules(con: duckdb.DuckDBPyConnection, mix: MixConfig, cuts: Mapping[str, Cut] | None = None) -> Rules:
    """The rules of a mixture in a catalog, with the thresholds that its top fractions come to, or those given.

    Raises InputError for an unknown source, and ConfigError in one line for whatever is wrong with a condition.
    """
    _check_sources(con, mix)
    types = {str(name): str(kind) for name, kind, *_ in con.execute("DESCRIBE samples").fetchall()}
    for source, where in [(None, mix.where), *((s.source, s.where) for s in mix.sources)]:
        if where is not None:
            bind(con, where, "BOOLEAN", f"mixture {mix.name}: `where`{f' of source {source}' if source else ''}")
    captions = {}
    for part in mix.sources:
        # A column may have any name; what is none is an expression.
        text = quoted(part.caption) if part.caption in types else part.caption
        captions[part.source] = bind(con, text, "VARCHAR", f"mixture {mix.name}: `caption` of source {part.source}")
    rules = Rules(mix, captions, {})
    if cuts is None and _fractions(mix):
        _check_score(mix, types)
        cuts = _find_cuts(con, rules)
    return Rules(mix, rules.captions, cuts or {})


def ask(con: duckdb.DuckDBPyConnection, query: str, mix: MixConfig) -> pa.Table:
    """The answer to a query over a mixture's rules; ConfigError in one line for what DuckDB does not accept."""
    try:
        return con.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"mixture {mix.name}: {explain_error(error, con)}") from error


def double(number: float) -> str:
    """The number as SQL, to its last bit: without the quotes it would be a decimal first."""
    return f"'{number!r}'::DOUBLE"


def _fractions(mix: MixConfig) -> dict[str, float]:
    """The top fraction of each source that has one."""
    fractions = {source.source: source.top_fraction or mix.top_fraction for source in mix.sources}
    return {name: fraction for name, fraction in fractions.items() if fraction is not None}


def _find_cuts(con: duckdb.DuckDBPyConnection, rules: Rules) -> dict[str, Cut]:
    """The cut of each source that has a top fraction; one and the same for all where the scope is global."""
    mix, fractions = rules.mix, _fractions(rules.mix)
    if mix.top_scope == "global":
        cut = _cut(con, rules, mix.sources, next(iter(fractions.values())))
        return dict.fromkeys(fractions, cut)
    return {s.source: _cut(con, rules, [s], fractions[s.source]) for s in mix.sources if s.source in fractions}


def _cut(con: duckdb.DuckDBPyConnection, rules: Rules, sources: Sequence[MixSource], fraction: float) -> Cut:
    """The score at position int(n × fraction) from the top, counted from 0, of the `n` candidates that have a score.

    That is DataComp's rule, whose ties stay; a fraction of 1 takes the last one.
    """
    score = quoted(rules.mix.top_score)
    pools = [
        f"SELECT {score}::DOUBLE AS x FROM samples WHERE source = {literal(source.source)} AND {score} IS NOT NULL "
        f"AND {' AND '.join(f'({condition})' for _, condition in rules.of(source))}"
        for source in sources
    ]
    position = f"greatest(0, least(floor(count(*) * {double(fraction)})::BIGINT, count(*) - 1))"
    query = f"""WITH pool AS MATERIALIZED ({" UNION ALL ".join(pools)})
        SELECT count(*), (SELECT x FROM pool ORDER BY x DESC LIMIT 1 OFFSET (SELECT {position} FROM pool))
        FROM pool"""
    [scored], [threshold] = (column.to_pylist() for column in ask(con, query, rules.mix).columns)
    return Cut(fraction, scored, threshold)


def _check_sources(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> None:
    known = [
        str(name) for (name,) in con.execute("SELECT DISTINCT source::VARCHAR FROM samples ORDER BY 1").fetchall()
    ]
    for source in mix.sources:
        if source.source not in known:
            there = ", ".join(known)
            raise InputError(f"mixture {mix.name}: source {source.source!r} is not in the catalog; there is {there}")


def _check_score(mix: MixConfig, types: Mapping[str, str]) -> None:
    """ConfigError where `top_score` is no column of numbers."""
    kind = types.get(mix.top_score, "no column of `samples`")
    if kind.split("(")[0] not in _NUMBERS:
        scores = ", ".join(name for name, kind in types.items() if kind in ("FLOAT", "DOUBLE"))
        raise ConfigError(f"mixture {mix.name}: `top_score` {mix.top_score!r} is {kind}; one of {scores} can be it")
