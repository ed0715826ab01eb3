"""A mixture: a query with weights. Pure SQL over the catalog, drawn in hash order.

The same seed gives the same samples on any machine and with any number of threads; a smaller total is a subset of a
larger one, because each source is cut from the front of one fixed order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from filters.errors import ConfigError, InputError
from filters.sampling import salt
from pipelines.manifest import positions, repeated, shuffled
from pipelines.store.catalog import explain_error
from pipelines.store.presets import literal, quoted


def _one_condition(text: str | None) -> str | None:
    """Refuse what is not one SQL expression: inside braces, a stray bracket or comment does not parse."""
    if text is not None:
        try:
            statements = duckdb.extract_statements(f"SELECT {{'condition': {text}}}")
        except duckdb.Error as error:
            raise ValueError(f"not one SQL condition: {text!r}") from error
        if len(statements) != 1:
            raise ValueError(f"not one SQL condition: {text!r}")
    return text


Condition = Annotated[str | None, AfterValidator(_one_condition)]


class MixSource(BaseModel):
    """One source's part in a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="name of the source")
    weight: float = Field(1.0, gt=0, le=1e9, description="share of the samples, relative to the other sources")
    where: Condition = Field(None, description="SQL condition over `samples`, for this source")
    top_fraction: float | None = Field(
        None, gt=0, le=1, description="keep this share of what is left, the best by `top_score`; else the mixture's"
    )
    caption: str = Field("caption", description="column that holds the caption to train on")
    max_repeats: int = Field(1, ge=1, description="times one sample may be used where the mixture repeats")


class MixConfig(BaseModel):
    """A mixture as one page of YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the mixture and of its folder")
    seed: int = Field(0, ge=0, description="seed of the order in which samples are drawn")
    total: int = Field(ge=1, description="samples in the mixture")
    where: Condition = Field(None, description="SQL condition over `samples`, for all sources")
    top_fraction: float | None = Field(
        None, gt=0, le=1, description="the same for every source that names none of its own"
    )
    top_scope: Literal["source", "global"] = Field(
        "source",
        description="whether `top_fraction` is of each source, or of all together: one threshold, which changes "
        "what share of the samples that are left is of which source",
    )
    top_score: str = Field("clip_score", description="the score column that `top_fraction` goes by")
    exclude_duplicates: bool = Field(True, description="leave out duplicates of others, and placeholders")
    exclude_eval_overlap: bool = Field(True, description="leave out samples that an evaluation set holds")
    on_shortage: Literal["error", "repeat", "truncate"] = Field("error", description="what to do when samples lack")
    sources: list[MixSource] = Field(min_length=1, description="the sources and their weights")

    @field_validator("sources")
    @classmethod
    def _once_each(cls, sources: list[MixSource]) -> list[MixSource]:
        names = [source.source for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"source {', '.join(repeated)} is listed twice; give each source once")
        return sources

    @field_validator("top_scope")
    @classmethod
    def _of_something(cls, scope: str, info: ValidationInfo) -> str:
        if scope == "global" and info.data.get("top_fraction") is None:
            raise ValueError("a global threshold needs the mixture's `top_fraction`")
        return scope

    @field_validator("sources")
    @classmethod
    def _one_threshold(cls, sources: list[MixSource], info: ValidationInfo) -> list[MixSource]:
        if info.data.get("top_scope") == "global" and any(source.top_fraction is not None for source in sources):
            raise ValueError(
                "with `top_scope: global` there is one `top_fraction`, the mixture's; take out the others"
            )
        return sources


def shares(mix: MixConfig) -> list[int]:
    """Samples asked of each source: weights by largest remainder, ties to the source listed first."""
    weights = np.array([source.weight for source in mix.sources])
    exact = weights / weights.sum() * mix.total
    counts = np.floor(exact).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: mix.total - counts.sum()]] += 1
    return [int(count) for count in counts]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a top fraction comes to: the lowest score that stays (None where nothing has a score), of how many."""

    fraction: float
    scored: int
    threshold: float | None


def find_cuts(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> dict[str, Cut]:
    """The cut of each source that has a top fraction; one and the same for all where the scope is global."""
    if mix.top_scope == "global" and mix.top_fraction is not None:
        cut = _cut(con, mix, mix.sources, mix.top_fraction)
        return {source.source: cut for source in mix.sources}
    fractions = {source.source: source.top_fraction or mix.top_fraction for source in mix.sources}
    return {s.source: _cut(con, mix, [s], fraction) for s in mix.sources if (fraction := fractions[s.source])}


def build_mix(con: duckdb.DuckDBPyConnection, mix: MixConfig, cuts: Mapping[str, Cut] | None = None) -> pa.Table:
    """The manifest (schema MANIFEST) of a mixture, in one global hash order.

    `cuts` are those that `find_cuts` has found, if it was asked before. Raises ConfigError for a condition that is
    not one, InputError for an unknown source and with all shortages where samples lack.
    """
    _check_sources(con, mix)
    cuts = find_cuts(con, mix) if cuts is None else cuts
    asked = shares(mix)
    candidates = [_candidates(con, mix, source, cuts) for source in mix.sources]
    repeats = [source.max_repeats if mix.on_shortage == "repeat" else 1 for source in mix.sources]
    uses = [
        positions(table.num_rows, count, limit)
        for table, count, limit in zip(candidates, asked, repeats, strict=True)
    ]
    short = [
        f"{source.source}: {count} asked, {table.num_rows} there"
        for source, table, count, use in zip(mix.sources, candidates, asked, uses, strict=True)
        if len(use) < count
    ]
    if short and mix.on_shortage != "truncate":
        raise InputError(
            f"mixture {mix.name}: not enough samples ({'; '.join(short)}); lower `total`, widen `where`, raise "
            "`max_repeats` with `on_shortage: repeat`, or set `on_shortage: truncate`"
        )
    if not any(uses):
        raise InputError(f"mixture {mix.name}: no source has a single sample for it; widen `where`")
    parts = [repeated(table, use) for table, use in zip(candidates, uses, strict=True)]
    return shuffled(pa.concat_tables(parts), mix.seed)


def attrition(
    con: duckdb.DuckDBPyConnection, mix: MixConfig, manifest: pa.Table, cuts: Mapping[str, Cut] | None = None
) -> list[dict[str, Any]]:
    """For each source what was asked and got, and as `steps` how many samples each rule left, in their order."""
    taken = Counter(manifest["source"].to_pylist())
    cuts = find_cuts(con, mix) if cuts is None else cuts
    return [
        {"source": s.source, "asked": asked, "steps": _steps(con, s, _rules(mix, s, cuts)), "got": taken[s.source]}
        for s, asked in zip(mix.sources, shares(mix), strict=True)
    ]


def _cut(con: duckdb.DuckDBPyConnection, mix: MixConfig, sources: Sequence[MixSource], fraction: float) -> Cut:
    """The score at position int(n × fraction) from the top, counted from 0, of the `n` candidates that have a score.

    That is DataComp's rule, whose ties stay; a fraction of 1 takes the last one.
    """
    score = quoted(mix.top_score)
    pools = [
        f"SELECT {score}::DOUBLE AS x FROM samples WHERE source = {literal(source.source)} AND {score} IS NOT NULL "
        f"AND {_all(_rules(mix, source, {}))}"
        for source in sources
    ]
    position = f"greatest(0, least(floor(count(*) * {_double(fraction)})::BIGINT, count(*) - 1))"
    query = f"""WITH pool AS MATERIALIZED ({" UNION ALL ".join(pools)})
        SELECT count(*), (SELECT x FROM pool ORDER BY x DESC LIMIT 1 OFFSET (SELECT {position} FROM pool))
        FROM pool"""
    [scored], [threshold] = (c.to_pylist() for c in _ask(con, query, ", ".join(s.source for s in sources)).columns)
    return Cut(fraction, scored, threshold)


def _steps(con: duckdb.DuckDBPyConnection, source: MixSource, rules: list[tuple[str, str]]) -> list[list[Any]]:
    """The records of a source, then what each of the rules left, in one pass that tries each rule once."""
    tried = " ".join(f"WHEN ({rule})::BOOLEAN IS NOT TRUE THEN {i}" for i, (_, rule) in enumerate(rules))
    counts = ", ".join(f"count(*) FILTER (passed >= {i}) AS n{i}" for i in range(len(rules) + 1))
    query = f"""SELECT {counts} FROM (SELECT CASE {tried} ELSE {len(rules)} END AS passed
        FROM samples WHERE source = {literal(source.source)})"""
    found = _ask(con, query, source.source)
    labels = ["records", *(label for label, _ in rules)]
    return [[label, column[0].as_py()] for label, column in zip(labels, found.columns, strict=True)]


def _check_sources(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> None:
    known = [
        str(name) for (name,) in con.execute("SELECT DISTINCT source::VARCHAR FROM samples ORDER BY 1").fetchall()
    ]
    for source in mix.sources:
        if source.source not in known:
            there = ", ".join(known)
            raise InputError(f"mixture {mix.name}: source {source.source!r} is not in the catalog; there is {there}")


def _rules(mix: MixConfig, source: MixSource, cuts: Mapping[str, Cut]) -> list[tuple[str, str]]:
    """The rules in order, each with the name it has in the attrition table."""
    rules = [("success", "status = 'success'"), ("has_caption", f"{quoted(source.caption)} IS NOT NULL")]
    if mix.exclude_duplicates:
        rules.append(("not_duplicate", "duplicate_of IS NULL AND kind IS DISTINCT FROM 'placeholder'"))
    if mix.exclude_eval_overlap:
        rules.append(("not_in_evaluation", "eval_set IS NULL"))
    rules += [("where", condition) for condition in (mix.where,) if condition]
    rules += [("source_where", condition) for condition in (source.where,) if condition]
    if source.source in cuts:
        threshold = cuts[source.source].threshold
        least = "false" if threshold is None else f"{quoted(mix.top_score)}::DOUBLE >= {_double(threshold)}"
        rules.append(("top_global" if mix.top_scope == "global" else "top_in_source", least))
    return rules


def _all(rules: Sequence[tuple[str, str]]) -> str:
    return " AND ".join(f"({condition})" for _, condition in rules)


def _double(number: float) -> str:
    """The number as SQL, to its last bit: without the quotes it would be a decimal first."""
    return f"'{number!r}'::DOUBLE"


def _candidates(
    con: duckdb.DuckDBPyConnection, mix: MixConfig, source: MixSource, cuts: Mapping[str, Cut]
) -> pa.Table:
    """What a source offers, in its drawing order: uid, source, shard, offset, size, caption."""
    caption = quoted(source.caption)
    query = f"""SELECT uid, source::VARCHAR AS source, shard, "offset", size, {caption}::VARCHAR AS caption
        FROM samples WHERE source = {literal(source.source)} AND {_all(_rules(mix, source, cuts))}
        ORDER BY sample_order(uid_lo, {salt("mix", mix.seed)}::UBIGINT), uid"""
    return _ask(con, query, source.source)


def _ask(con: duckdb.DuckDBPyConnection, query: str, sources: str) -> pa.Table:
    """One read-only query; ConfigError in one line, naming the sources, for whatever DuckDB does not accept."""
    try:
        statements = con.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError("`where` must be one condition over the columns of `samples`")
        return con.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"source {sources}: {explain_error(error, con)}") from error
