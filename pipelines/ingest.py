"""Raw metadata of one source to canonical rows: identity, captions, declared rules, a fair order, one slice a shard.

headwater ingest --root data --source laion --metadata dumps/laion
headwater ingest --root data --source laion --metadata dumps/laion --add
headwater ingest --root data --source coyo --reader table --metadata 'dumps/coyo/*.parquet'
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import fsspec
import pyarrow as pa
from pydantic import Field, StringConstraints

from filters.errors import ConfigError, InputError
from filters.sampling import salt
from pipelines.canonical import canonical
from pipelines.config import JobConfig
from pipelines.grow import forget, grow, grown_to, is_whole
from pipelines.identity import identified
from pipelines.identity import uid_of as uid_of
from pipelines.job import Account, job_main, say
from pipelines.shuffle import Shuffle
from pipelines.sources import SOURCES, Source
from pipelines.sources.files import chosen_files, named_files
from pipelines.sources.hashes import Hashes
from pipelines.sources.table import Columns, read_file
from pipelines.store import removals
from pipelines.store.fingerprint import KEY, SAMPLES_PER_SHARD, SHARDS, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SAY_ROWS = 1_000_000


class IngestConfig(JobConfig):
    """What to read, and how its rows become samples."""

    source: str = Field(description="name of the source, under which its rows are recorded")
    reader: str | None = Field(
        None, description=f"how its dump is read: {', '.join(sorted(SOURCES))}; the source's own name if not given"
    )
    metadata: str | list[str] = Field(
        description="folder of the source's dump, one of its files or a glob of them, local or an fsspec URL; or a "
        "list of such"
    )
    table: Columns = Field(Columns(), description="columns of the reader table: table.url, table.captions and so on")
    hashes: str | None = Field(
        None,
        description="file (or glob) of addresses and their SHA-256 or MD5, as CC12M's cc_hashes/cc12m.tsv.gz; held "
        "in memory, 40 bytes an address",
    )
    recipe: str | None = Field(None, description="caption recipe; the reader's default if not given")
    allowed_nsfw: list[str] | None = Field(
        None, description="list of declared NSFW tags to keep, [] for all; the reader's own rule if not given"
    )
    allowed_languages: list[str] | None = Field(
        None, description="list of declared languages to keep, [] for all; the reader's own rule if not given"
    )
    caption_blocklist: list[Annotated[str, StringConstraints(min_length=1)]] = Field(
        [], description="rows whose caption holds one of these texts, in capitals or not, are skipped"
    )
    add: bool = Field(
        False,
        description="keep what is ingested, and only add what the dump has more or other; what it has no more is "
        "withdrawn",
    )
    seed: int = Field(0, ge=0, description="seed of the order in which rows are dealt to shards")
    samples_per_shard: int = Field(1000, ge=1, description="input rows a shard")
    shard_digits: int = Field(5, ge=1, le=12, description="digits of a shard's number; DataComp uses 8")
    memory: int = Field(512, ge=1, description="MiB of rows held in memory; the rest waits in a temporary file")
    scratch: str | None = Field(
        None, description="local folder for the temporary file, about as large as the dump; the system's if not given"
    )


def run(config: IngestConfig) -> dict[str, Any]:
    """Turn one source's raw dump into canonical metadata, one parquet a future shard."""
    source, files = _inputs(config)
    root = Root(config.root)
    listed = chosen_files(config.hashes, ("*.tsv*",), "hashes") if config.hashes else []
    if root.names("adopted", source.name):
        raise InputError(f"{root.url}/adopted/{source.name}: was adopted; ingest under another --source")
    contents = [
        (name, _sha256(file), source.beside(file))
        for chosen in (files, listed)
        if chosen
        for name, file in named_files(chosen)
    ]
    mark = fingerprint(SCHEMA_VERSION, _settings(config), contents)
    account = Account("ingest")
    names = root.names("metadata", source.name, suffix=".parquet")
    grown = grown_to(root, source.name)
    if names and (grown == mark if grown else _is_done(root, source, names, mark)):
        account.shards_skipped = len(names)
        say(f"ingest: {source.name} is done")
        return {**account.summary(), "source": source.name}
    # Arrow's strings end at 2 GiB a column.
    gone = removals.uids(root)
    limit = min((config.memory << 20) // 4, 1 << 30)
    with Shuffle(source.name, salt("ingest", config.seed), limit=limit, scratch=config.scratch) as shuffle:
        rows = _fill(shuffle, source, files, Hashes(listed) if listed else None)
        if not rows:
            raise InputError(f"{config.metadata}: holds no records; is it the whole dump?")
        if config.add and is_whole(root, source.name):
            return _grow(root, config, source, mark, shuffle.tables(), account)
        account.shards_done = _shards(config, rows)
        written = {
            _publish(root, config, source, mark, number, part, account, gone)
            for number, part in enumerate(_slices(shuffle.tables(), config.samples_per_shard))
        }
    forget(root, source.name)
    # Slices of an earlier ingest with more shards, or with names of another length.
    for name in set(names) - written:
        for folder in _folders(source):
            root.remove(*folder, source.name, name)
    account.rows_in = rows
    account.check(config.max_failed_fraction)
    say(f"ingest: {source.name}: {rows:,} rows: {account.text()}")
    if not account.counts.get("ok"):
        reader = config.reader or config.source
        say(f"ingest: {source.name}: none of these rows can be downloaded; is the dump one for --reader {reader}?")
    return {**account.summary(), "source": source.name}


def plan(config: IngestConfig) -> dict[str, Any]:
    """What an ingest would read."""
    source, files = _inputs(config)
    return {
        "source": source.name,
        "recipe": config.recipe or source.default_recipe,
        "files": [name for name, _ in named_files(files)],
    }


def _grow(
    root: Root, config: IngestConfig, source: Source, mark: str, rows: Iterable[pa.Table], account: Account
) -> dict[str, Any]:
    """Add what the dump has more or other than what is ingested; the summary."""
    if source.folders:
        raise InputError(f"{source.name}: --add cannot take scores that a dump brings; ingest it anew, without --add")
    recipe = config.recipe or source.default_recipe
    tables = (canonical(table, source, recipe, config.caption_blocklist) for table in rows)
    grown = grow(root, source.name, tables, mark, config.max_failed_fraction, config.scratch)
    account.shards_done = grown.slices
    account.add(sum(grown.reasons.values()), dict(grown.reasons))
    account.extra = {name: getattr(grown, name) for name in ("added", "changed", "withdrawn", "unchanged")}
    say(f"ingest: {source.name}: " + ", ".join(f"{count:,} {name}" for name, count in account.extra.items()))
    return {**account.summary(), "source": source.name}


def _fill(shuffle: Shuffle, source: Source, files: Sequence[str], hashes: Hashes | None) -> int:
    """Read all files into the shuffle; the number of their rows."""
    rows = 0
    for raw in source.read(files):
        shuffle.add(identified(hashes.declare(raw) if hashes else raw, source.name))
        rows += len(raw)
        if rows // SAY_ROWS > (rows - len(raw)) // SAY_ROWS:
            say(f"ingest: {source.name}: {rows:,} rows read")
    return rows


def _slices(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of `tables` in tables of `size` rows and one of what is left."""
    rest: pa.Table | None = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        whole = len(rows) // size * size
        for start in range(0, whole, size):
            yield rows.slice(start, size).combine_chunks()
        rest = rows.slice(whole)
    if rest is not None and len(rest):
        yield rest.combine_chunks()


def _publish(
    root: Root,
    config: IngestConfig,
    source: Source,
    mark: str,
    number: int,
    rows: pa.Table,
    account: Account,
    gone: pa.Array,
) -> str:
    """Write one slice, and what belongs beside it first; its name. Uids that are `gone` are told as removed."""
    name = f"{number:0{config.shard_digits}d}.parquet"
    marks = {KEY: mark, SHARDS: str(account.shards_done), SAMPLES_PER_SHARD: str(config.samples_per_shard)}
    for folder, sidecar in source.sidecars(rows).items():
        root.write_table(
            removals.withheld(sidecar, gone), "features", folder, source.name, name, metadata={KEY: mark}
        )
    table = canonical(rows, source, config.recipe or source.default_recipe, config.caption_blocklist)
    table = removals.withheld(table, gone)
    root.write_table(table, "metadata", source.name, name, metadata=marks)
    account.add(0, Counter(table["reason"].to_pylist()))
    return name


def _shards(config: IngestConfig, rows: int) -> int:
    """How many slices `rows` make; ConfigError when their numbers need more digits."""
    shards = math.ceil(rows / config.samples_per_shard)
    if shards > 10**config.shard_digits:
        raise ConfigError(f"{shards} shards do not fit shard_digits={config.shard_digits}; raise it")
    return shards


def _inputs(config: IngestConfig) -> tuple[Source, list[str]]:
    reader = config.reader or config.source
    if reader not in SOURCES:
        field = "reader" if config.reader else "source"
        hint = "" if config.reader else "; or say with --reader how it is read"
        raise ConfigError(f"{field} {reader!r}: expected one of {', '.join(sorted(SOURCES))}{hint}")
    if not _NAME.fullmatch(config.source):
        raise ConfigError(f"source {config.source!r}: names a folder; use letters, digits, '-', '_' and '.'")
    known = SOURCES[reader]
    recipe = config.recipe or known.default_recipe
    if recipe not in known.recipes:
        raise ConfigError(f"recipe {recipe!r}: {reader} has {', '.join(known.recipes)}")
    changes: dict[str, Any] = {"name": config.source}
    if reader == "table":
        changes["read_file"] = partial(read_file, columns=config.table)
    for name in ("allowed_nsfw", "allowed_languages"):
        allowed = getattr(config, name)
        if allowed is not None:
            changes[name] = frozenset(allowed) or None
    return dataclasses.replace(known, **changes), chosen_files(config.metadata, known.patterns)


def _settings(config: IngestConfig) -> dict[str, Any]:
    """What changes the rows: not where they come from, nor how they are held on the way."""
    return config.model_dump(exclude={*JobConfig.model_fields, "metadata", "hashes", "memory", "scratch", "add"})


def _folders(source: Source) -> list[tuple[str, ...]]:
    """Where an ingest writes: the slices, and the feature sidecars that come from the dump."""
    return [("metadata",), *(("features", folder) for folder in source.folders)]


def _is_done(root: Root, source: Source, names: Sequence[str], mark: str) -> bool:
    marks = root.parquet_metadatas([(*folder, source.name, name) for folder in _folders(source) for name in names])
    return all(m.get(KEY) == mark for m in marks) and marks[0].get(SHARDS) == str(len(names))


def _sha256(file: str) -> str:
    with fsspec.open(file, "rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater ingest`."""
    return job_main("ingest", IngestConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
