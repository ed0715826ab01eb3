"""Raw metadata of one source to canonical rows: identity, captions, declared rules, a fair order, one slice a shard.

headwater ingest --root data --source laion --metadata dumps/laion
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from filters.errors import ConfigError
from filters.sampling import salt, sample_order
from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.sources import SOURCES, Source
from pipelines.sources.files import find_files, named_files
from pipelines.store.fingerprint import KEY, SAMPLES_PER_SHARD, SHARDS, fingerprint
from pipelines.store.root import Root, filesystem
from pipelines.store.schema import METADATA, SCHEMA_VERSION


class IngestConfig(JobConfig):
    """What to read, and how its rows become samples."""

    source: str = Field(description="name of the source: " + ", ".join(sorted(SOURCES)))
    metadata: str = Field(description="folder of the source's dump (or its fsspec URL), or one of its files")
    recipe: str | None = Field(None, description="caption recipe; the source's default if not given")
    seed: int = Field(0, ge=0, description="seed of the order in which rows are dealt to shards")
    samples_per_shard: int = Field(1000, ge=1, description="input rows a shard")
    shard_digits: int = Field(5, ge=1, le=12, description="digits of a shard's number; DataComp uses 8")


def run(config: IngestConfig) -> dict[str, Any]:
    """Turn one source's raw dump into canonical metadata, one parquet a future shard."""
    source, files = _inputs(config)
    root = Root(config.root)
    mark = fingerprint(
        SCHEMA_VERSION, _settings(config), [(name, _sha256(file)) for name, file in named_files(files)]
    )
    account = Account("ingest")
    names = root.names("metadata", source.name, suffix=".parquet")
    if names and _is_done(root, source.name, names, mark):
        account.shards_skipped = len(names)
        say(f"ingest: {source.name} is done")
        return {**account.summary(), "source": source.name}
    table = canonical(pa.concat_tables(source.read(files)), source, _recipe(config, source))
    order = np.argsort(sample_order(table["uid_lo"].to_numpy(), salt("ingest", config.seed)), kind="stable")
    table = table.take(pa.array(order))
    shards = math.ceil(table.num_rows / config.samples_per_shard)
    if shards > 10**config.shard_digits:
        raise ConfigError(f"{shards} shards do not fit shard_digits={config.shard_digits}; raise it")
    for number in range(shards):
        part = table.slice(number * config.samples_per_shard, config.samples_per_shard)
        marks = {
            KEY: mark,
            SHARDS: str(shards),
            SAMPLES_PER_SHARD: str(config.samples_per_shard),
        }
        root.write_table(part, "metadata", source.name, f"{number:0{config.shard_digits}d}.parquet", metadata=marks)
    # Slices of an earlier ingest with more shards, or with names of another length.
    for name in set(names) - {f"{number:0{config.shard_digits}d}.parquet" for number in range(shards)}:
        root.remove("metadata", source.name, name)
    account.shards_done = shards
    account.add(table.num_rows, Counter(table["reason"].to_pylist()))
    account.check(config.max_failed_fraction)
    say(f"ingest: {source.name}: {table.num_rows} rows: {account.text()}")
    return {**account.summary(), "source": source.name}


def plan(config: IngestConfig) -> dict[str, Any]:
    """What an ingest would read."""
    source, files = _inputs(config)
    return {
        "source": source.name,
        "recipe": _recipe(config, source),
        "files": [name for name, _ in named_files(files)],
    }


def canonical(raw: pa.Table, source: Source, recipe: str) -> pa.Table:
    """Rows of schema METADATA for rows of schema RAW: same rows, same order, each with uid, captions and reason."""
    captions = source.captions(raw, recipe)
    columns = raw.select(["native_id", "url", "file", "line"]).to_pydict()
    fields = raw["caption_raw"].to_pylist()
    uids, first_of = _identities(source.name, columns, fields)
    reasons = [
        "duplicate_row" if duplicate else reason
        for duplicate, reason in zip(first_of, _reasons(raw, source, captions), strict=True)
    ]
    table = pa.table(
        {
            "uid": pa.array(uids, pa.string()),
            "uid_lo": pa.array([int(uid[16:], 16) for uid in uids], pa.uint64()),
            "source": pa.array([source.name] * raw.num_rows, pa.string()),
            "caption": pc.list_element(_padded(captions), 0),
            "captions": captions,
            "caption_recipe": pa.array([recipe] * raw.num_rows, pa.string()),
            "reason": pa.array(reasons, pa.string()),
            "duplicate_row_of": pa.array(first_of, pa.string()),
            **{name: raw[name] for name in raw.column_names if name != "reason"},
        }
    )
    return METADATA.conform(table.select(METADATA.names))


def uid_of(source: str, native_id: str, url: str, fields: Iterable[str]) -> str:
    """Identity of a sample: the first 128 bits of SHA-256 over its parts as read, as 32 hex characters."""
    text = "\x1f".join([source, native_id, url, *fields])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _identities(
    source: str, columns: dict[str, list[Any]], fields: list[list[tuple[str, str]] | None]
) -> tuple[list[str], list[str | None]]:
    """The uid of each row and, for a row that repeats an earlier one, the uid of the earlier."""
    seen: set[str] = set()
    uids: list[str] = []
    first_of: list[str | None] = []
    rows = zip(columns["native_id"], columns["url"], columns["file"], columns["line"], fields, strict=True)
    for native_id, url, file, line, raw in rows:
        uid = uid_of(source, native_id or "", url or "", (text or "" for _, text in raw or ()))
        repeated = uid in seen
        first_of.append(uid if repeated else None)
        if repeated:
            uid = uid_of(source, file, str(line), ())
        seen.add(uid)
        uids.append(uid)
    return uids, first_of


def _reasons(raw: pa.Table, source: Source, captions: pa.ChunkedArray) -> list[str]:
    """The first rule that puts each row out, or `ok`; rules look only at what the source declares."""
    nsfw, language = raw["nsfw_declared"].to_pylist(), raw["language_declared"].to_pylist()
    has_caption = pc.greater(pc.fill_null(pc.list_value_length(captions), 0), 0).to_pylist()
    reasons = []
    for index, (reason, url) in enumerate(zip(raw["reason"].to_pylist(), raw["url"].to_pylist(), strict=True)):
        if reason != "ok":
            reasons.append(reason)
        elif not is_fetchable(url):
            reasons.append("bad_url")
        elif source.allowed_nsfw is not None and nsfw[index] not in source.allowed_nsfw:
            reasons.append("nsfw_declared")
        elif source.allowed_languages is not None and language[index] not in source.allowed_languages:
            reasons.append("language_declared")
        else:
            reasons.append("ok" if has_caption[index] else "no_caption")
    return reasons


def is_fetchable(url: str | None) -> bool:
    """Whether the URL is http or https, names a host, and carries no user name or password."""
    try:
        parts = urlsplit(url or "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _padded(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of at least one element, so that the first can be taken; null where there is no caption."""
    is_empty = pc.equal(pc.fill_null(pc.list_value_length(captions), 0), 0)
    return pc.if_else(is_empty, pa.scalar([None], pa.list_(pa.string())), captions)


def _inputs(config: IngestConfig) -> tuple[Source, list[str]]:
    if config.source not in SOURCES:
        raise ConfigError(f"source {config.source!r}: expected one of {', '.join(sorted(SOURCES))}")
    source = SOURCES[config.source]
    fs, path = filesystem(config.metadata, "metadata")
    return source, [config.metadata] if fs.isfile(path) else find_files(config.metadata, source.patterns)


def _recipe(config: IngestConfig, source: Source) -> str:
    recipe = config.recipe or source.default_recipe
    if recipe not in source.recipes:
        raise ConfigError(f"recipe {recipe!r}: {source.name} has {', '.join(source.recipes)}")
    return recipe


def _settings(config: IngestConfig) -> dict[str, Any]:
    return config.model_dump(include={"source", "recipe", "seed", "samples_per_shard", "shard_digits"})


def _is_done(root: Root, source: str, names: Sequence[str], mark: str) -> bool:
    marks = [root.parquet_metadata("metadata", source, name) for name in names]
    return all(m.get(KEY) == mark and m.get(SHARDS) == str(len(names)) for m in marks)


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
