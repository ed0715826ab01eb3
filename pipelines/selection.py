"""Which samples `headwater remove` is to take down: by uid, by address or by age."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from filters.errors import ConfigError, InputError
from pipelines.config import JobConfig
from pipelines.store import removals
from pipelines.store.root import Root, ShardId

# Where rows lie.
ROWS = ("metadata", "retries", "adopted", "shards")
_UID = re.compile(r"[0-9a-f]{32}")
_DAY = 86_400.0

# Uids of a file of rows, by its folder and shard: those that a selector chooses.
Chooser = Callable[[str, ShardId], pa.ChunkedArray]


class Selection(JobConfig):
    """Which samples to remove, and why."""

    uid_file: str | None = Field(None, description="text file of uids, one a line")
    url_pattern: str | None = Field(None, description="regular expression (RE2) that is found in the address")
    older_than: float | None = Field(
        None, ge=0, description="days since the download of the shard; needs --source, and keeps what has no picture"
    )
    source: str | None = Field(None, description="remove only samples of this source")
    reason: str = Field("", description="why, for the record; needed to remove something")
    asked_by: str = Field("", description="who asked for it, for the record")
    compact: bool = Field(False, description="take the bytes out too: tars are rewritten, the catalog is built anew")


def places(root: Root) -> Iterator[tuple[str, ShardId]]:
    """Every file of rows."""
    for folder in ROWS:
        for shard in root.shards(folder):
            yield folder, shard


def select(root: Root, config: Selection) -> tuple[list[str], dict[str, int]]:
    """The uids to remove now, and how many are removed, were removed before, or are unknown.

    ConfigError for selectors that do not fit, InputError where none of the uids asked for is known.
    """
    choose, wanted = _chooser(root, config)
    if choose is None:
        return [], {}
    if not config.reason.strip():
        raise ConfigError('--reason: say why, for the record, as in --reason "takedown request 17"')
    chosen_from = [(folder, shard) for folder, shard in places(root) if config.source in (None, shard.source)]
    if not chosen_from:
        there = ", ".join(sorted({shard.source for _, shard in places(root)})) or "none"
        raise InputError(f"{root.url}: holds no rows of {config.source or 'any source'}; there is {there}")
    chosen = {uid for folder, shard in chosen_from for uid in choose(folder, shard).to_pylist()}
    before = set(removals.uids(root).to_pylist())
    found = sorted(chosen - before)
    # What a pattern finds of removed rows is nothing: their addresses are gone.
    known = (wanted & before) | chosen
    if wanted and not known:
        raise InputError(f"{config.uid_file}: none of its {len(wanted)} uids is under {root.url}")
    counts = {"removed": len(found), "removed_before": len(known) - len(found), "unknown": len(wanted - known)}
    return found, {name: count for name, count in counts.items() if count}


def _chooser(root: Root, config: Selection) -> tuple[Chooser | None, set[str]]:
    """The one selector that was given, and the uids that it names; None where there is none and none is needed."""
    given = [name for name in ("uid_file", "url_pattern", "older_than") if getattr(config, name) is not None]
    if len(given) > 1:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{flags}: give one of them at a time")
    if config.uid_file is not None:
        wanted = _read_uids(config.uid_file)
        listed = pa.array(sorted(wanted), pa.string())
        return lambda folder, shard: _uids_where(root, folder, shard, "uid", lambda u: pc.is_in(u, listed)), wanted
    if config.url_pattern is not None:
        pattern = _checked(config.url_pattern)
        matches = lambda urls: pc.match_substring_regex(urls, pattern)  # noqa: E731
        return lambda folder, shard: _uids_where(root, folder, shard, "url", matches), set()
    if config.older_than is not None:
        if config.source is None:
            raise ConfigError("--older-than: whose? give --source too")
        before = time.time() - config.older_than * _DAY
        return lambda folder, shard: _aged(root, folder, shard, before), set()
    if not config.compact and removals.digest(root) == removals.state(root).get("applied", ""):
        raise ConfigError("nothing to remove; give --uid-file, --url-pattern or --older-than, or --compact")
    return None, set()


def _read_uids(name: str) -> set[str]:
    """The uids of a text file (also from `headwater sql "SELECT uid …" --format csv`); InputError if it is none."""
    try:
        lines = [line.strip().strip('"') for line in Path(name).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read ({error})") from error
    found = {number: line for number, line in enumerate(lines, 1) if line and (number, line) != (1, "uid")}
    wrong = next((number for number, line in found.items() if not _UID.fullmatch(line)), None)
    if wrong is not None:
        raise InputError(f"{name}: line {wrong} is {found[wrong][:40]!r}, not a uid of 32 hex characters")
    if not found:
        raise InputError(f"{name}: holds no uids; write one a line")
    return set(found.values())


def _checked(pattern: str) -> str:
    """The pattern, ConfigError where it is none or finds everything."""
    try:
        everything = pc.match_substring_regex(pa.array([""]), pattern)[0].as_py()
    except pa.ArrowInvalid as error:
        text = str(error).removeprefix("Invalid regular expression: ")
        raise ConfigError(f"--url-pattern {pattern!r}: is no regular expression ({text})") from error
    if everything:
        raise ConfigError(
            f"--url-pattern {pattern!r}: is found in every address; name a part of those that are meant"
        )
    return pattern


def _uids_where(
    root: Root, folder: str, shard: ShardId, column: str, test: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> pa.ChunkedArray:
    names = list(dict.fromkeys(["uid", column]))
    table = root.read_table(folder, shard.source, f"{shard.number}.parquet", columns=names)
    return table.filter(test(table[column]))["uid"]


def _aged(root: Root, folder: str, shard: ShardId, before: float) -> pa.ChunkedArray:
    """The uids of a shard's pictures if its download ended before that time; shards of which nobody knows stay."""
    stats_file = (folder, shard.source, f"{shard.number}_stats.json")
    ended = root.read_json(*stats_file).get("end_time") if folder == "shards" and root.exists(*stats_file) else None
    if ended is None or float(ended) >= before:
        return pa.chunked_array([], pa.string())
    return _uids_where(root, folder, shard, "reason", lambda reasons: pc.equal(reasons, "ok"))
