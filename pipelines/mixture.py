"""A mixture: a query with weights. Pure SQL over the catalog, drawn in hash order.

The same seed gives the same samples on any machine and with any number of threads; a smaller total is a subset of a
larger one, because each source is cut from the front of one fixed order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from filters.errors import ConfigError, InputError
from filters.sampling import salt, sample_order
from pipelines.store.catalog import explain_error
from pipelines.store.schema import MANIFEST


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
        None, gt=0, le=1, description="keep this share of what is left, by clip_score, inside the source"
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


def shares(mix: MixConfig) -> list[int]:
    """Samples asked of each source: weights by largest remainder, ties to the source listed first."""
    weights = np.array([source.weight for source in mix.sources])
    exact = weights / weights.sum() * mix.total
    counts = np.floor(exact).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: mix.total - counts.sum()]] += 1
    return [int(count) for count in counts]


def build_mix(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> pa.Table:
    """The manifest (schema MANIFEST) of a mixture, in one global hash order.

    Raises ConfigError for a condition that is not one, InputError for an unknown source and with all shortages
    where samples lack.
    """
    _check_sources(con, mix)
    asked = shares(mix)
    candidates = [_candidates(con, mix, source) for source in mix.sources]
    uses = [
        _uses(table.num_rows, count, mix, source)
        for table, count, source in zip(candidates, asked, mix.sources, strict=True)
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
    parts = [_take(table, use) for table, use in zip(candidates, uses, strict=True)]
    return _shuffled(pa.concat_tables(parts), mix.seed)


def attrition(con: duckdb.DuckDBPyConnection, mix: MixConfig, manifest: pa.Table) -> list[dict[str, Any]]:
    """For each source what was asked and got, and as `steps` how many samples each rule left, in their order."""
    taken = Counter(manifest["source"].to_pylist())
    rows = []
    for source, asked in zip(mix.sources, shares(mix), strict=True):
        steps = _steps(con, source, _conditions(mix, source))
        if source.top_fraction is not None:
            steps.append(["top_fraction", _candidates(con, mix, source).num_rows])
        got = taken[source.source]
        rows.append({"source": source.source, "asked": asked, "steps": steps, "got": got})
    return rows


def _steps(con: duckdb.DuckDBPyConnection, source: MixSource, rules: list[tuple[str, str]]) -> list[list[Any]]:
    """The records of a source, then what each of the rules left, in one pass over its samples."""
    counts = ["count(*) AS n0"]
    for depth in range(1, len(rules) + 1):
        condition = " AND ".join(f"({text})" for _, text in rules[:depth])
        counts.append(f"count(*) FILTER ({condition}) AS n{depth}")
    found = _ask(con, f"SELECT {', '.join(counts)} FROM samples WHERE source = $source", source.source)
    labels = ["records", *(label for label, _ in rules)]
    return [[label, column[0].as_py()] for label, column in zip(labels, found.columns, strict=True)]


def content_digest(manifest: pa.Table) -> str:
    """SHA-256 over the rows' identity, repetition and caption: independent of file format and library versions."""
    digest = hashlib.sha256()
    for row in zip(*(manifest[name].to_pylist() for name in ("uid", "repeat", "source", "caption")), strict=True):
        digest.update("\x1f".join(map(str, row)).encode() + b"\n")
    return digest.hexdigest()


def uid_pairs(uids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.void]]:
    """DataComp's subset format: sorted (high, low) halves of each uid, repeats as duplicates."""
    pairs = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return np.sort(np.array(pairs, dtype=np.dtype("u8,u8")), order=("f0", "f1"))


def _check_sources(con: duckdb.DuckDBPyConnection, mix: MixConfig) -> None:
    known = [
        str(name) for (name,) in con.execute("SELECT DISTINCT source::VARCHAR FROM samples ORDER BY 1").fetchall()
    ]
    for source in mix.sources:
        if source.source not in known:
            there = ", ".join(known)
            raise InputError(f"mixture {mix.name}: source {source.source!r} is not in the catalog; there is {there}")


def _caption(source: MixSource) -> str:
    return '"' + source.caption.replace('"', '""') + '"'


def _conditions(mix: MixConfig, source: MixSource) -> list[tuple[str, str]]:
    """The rules in order, each with the name it has in the attrition table."""
    rules = [("success", "status = 'success'"), ("has_caption", f"{_caption(source)} IS NOT NULL")]
    if mix.exclude_duplicates:
        rules.append(("not_duplicate", "duplicate_of IS NULL AND kind IS DISTINCT FROM 'placeholder'"))
    if mix.exclude_eval_overlap:
        rules.append(("not_in_evaluation", "eval_set IS NULL"))
    rules += [("where", condition) for condition in (mix.where,) if condition]
    rules += [("source_where", condition) for condition in (source.where,) if condition]
    return rules


def _candidates(con: duckdb.DuckDBPyConnection, mix: MixConfig, source: MixSource) -> pa.Table:
    """What a source offers, in its drawing order: uid, source, shard, offset, size, caption."""
    condition = " AND ".join(f"({text})" for _, text in _conditions(mix, source))
    top = ""
    if source.top_fraction is not None:
        # DataComp's rule: the threshold is the score at position int(n × fraction) from the top, and ties stay.
        # n counts samples with a score: with the others, the position could lie behind the last score.
        condition += " AND clip_score IS NOT NULL"
        top = f"""QUALIFY clip_score >= list_extract(list(clip_score ORDER BY clip_score DESC) OVER (),
            least(floor(count(*) OVER () * {source.top_fraction}::DOUBLE)::BIGINT, count(*) OVER () - 1) + 1)"""
    return _ask(
        con,
        f"""SELECT uid, source::VARCHAR AS source, shard, "offset", size, {_caption(source)}::VARCHAR AS caption
            FROM samples WHERE source = $source AND {condition} {top}
            ORDER BY sample_order(uid_lo, {salt("mix", mix.seed)}::UBIGINT), uid""",
        source.source,
    )


def _ask(con: duckdb.DuckDBPyConnection, query: str, source: str) -> pa.Table:
    """One read-only query about one source; ConfigError in one line for whatever DuckDB does not accept."""
    try:
        statements = con.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError("`where` must be one condition over the columns of `samples`")
        return con.sql(query, params={"source": source}).to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"source {source}: {explain_error(error, con)}") from error


def _uses(there: int, asked: int, mix: MixConfig, source: MixSource) -> list[int]:
    """How often each candidate is used, from the front: whole passes first, then the front once more."""
    repeats = source.max_repeats if mix.on_shortage == "repeat" else 1
    got = min(asked, there * repeats)
    return [index % there for index in range(got)] if there else []


def _take(candidates: pa.Table, uses: list[int]) -> pa.Table:
    index = pa.array(uses, pa.int64())
    repeat = pa.array([i // max(1, candidates.num_rows) for i in range(len(uses))], pa.int32())
    return MANIFEST.conform(candidates.take(index).append_column("repeat", repeat).select(MANIFEST.names))


def _shuffled(manifest: pa.Table, seed: int) -> pa.Table:
    """The rows of all sources in one order, a function of uid, repetition and seed."""
    uids = manifest["uid"].to_pylist()
    low = np.array([int(uid[16:], 16) for uid in uids], dtype=np.uint64)
    with np.errstate(over="ignore"):
        low = low + manifest["repeat"].to_numpy().astype(np.uint64)
    keys = sample_order(low, salt("mix-order", seed))
    return manifest.take(pa.array(np.lexsort((np.array(uids), keys))))
