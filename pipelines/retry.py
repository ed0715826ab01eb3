"""Rows to fetch once more: those whose latest attempt failed for one of some reasons, as slices of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import ConfigError, InputError
from pipelines.slices import Slice, retry_slices
from pipelines.store.fingerprint import FIRST, INGEST, KEY, SAMPLES_PER_SHARD, fingerprint
from pipelines.store.reasons import REASONS, Status
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import RETRY, SHARD

# The server has answered: to ask again would be to press it.
ANSWERED = frozenset({"http_404", "http_410", "opt_out", "tdm_reserved", "robots"})
RETRYABLE = tuple(
    reason
    for reason, (status, _, _) in REASONS.items()
    if reason == "private_address"
    or (status not in (Status.SUCCESS, Status.SKIPPED) and reason not in ANSWERED)
)  # fmt: skip
_MIN_PER_SHARD = 1000


class Policy(NamedTuple):
    """Which failed rows are tried again: those that failed for one of `reasons`, were tried fewer than `attempts`
    times (no limit if None), and last at least `wait` hours ago."""

    reasons: Sequence[str]
    attempts: int | None = None
    wait: float = 0.0


def downloaded(root: Root, sources: Sequence[str]) -> Sequence[str]:
    """The named sources, all that there are if none is named; InputError where there is nothing of one."""
    there = root.names("shards")
    missing = sorted(set(sources) - set(there))
    if missing or not there:
        raise InputError(f"{root.url}/shards: nothing downloaded for {', '.join(missing) or 'any source'}")
    return sources or there


def check_reasons(reasons: Sequence[str]) -> None:
    """ConfigError for a reason that no retry can have."""
    for reason in reasons:
        if reason in ANSWERED:
            raise ConfigError(f"--retry {reason}: that is the server's answer, and it is not asked again")
        if reason not in RETRYABLE:
            raise ConfigError(f"--retry {reason}: expected one of {', '.join(RETRYABLE)}")


def plan_retry(root: Root, source: str, policy: Policy) -> list[Slice]:
    """Write the slices (schema RETRY) of a source's rows that are to be tried again.

    A source that has no such rows gets no slices. Rows keep the order of the shards that they are in now. ConfigError
    where the numbers no longer fit their digits.
    """
    return add_slices(root, source, [rows for rows in failed_rows(root, source, policy) if rows.num_rows])


def add_slices(root: Root, source: str, parts: Sequence[pa.Table]) -> list[Slice]:
    """Write rows (schema RETRY) as slices whose numbers go on after the source's last shard; none for no rows.

    ConfigError where the numbers no longer fit their digits.
    """
    _clear(root, source)
    if not parts:
        return []
    table = pa.concat_tables(parts)
    first, digits, per_shard, ingest = _place(root, source)
    starts = range(0, table.num_rows, per_shard)
    if first + len(starts) > 10**digits:
        raise ConfigError(f"{source}: no numbers of {digits} digits are left for {len(starts)} more shards")
    numbers = [f"{first + i:0{digits}d}" for i in range(len(starts))]
    marks = {INGEST: ingest, SAMPLES_PER_SHARD: str(per_shard), FIRST: numbers[0]}
    slices = [Slice("retries", ShardId(source, number)) for number in numbers]
    # The first is written last: without it the others are the rest of a plan that was cut short.
    for piece, start in reversed(list(zip(slices, starts, strict=True))):
        part = table.slice(start, per_shard)
        key = fingerprint(ingest, part["uid"].to_pylist(), part["attempt"].to_pylist())
        root.write_table(part, *piece.path, metadata={**marks, KEY: key})
    return slices


def _clear(root: Root, source: str) -> None:
    """Take away the slices of a plan that was cut short."""
    whole = {piece.path[-1] for piece in retry_slices(root, source)}
    for name in set(root.names("retries", source, suffix=".parquet")) - whole:
        root.remove("retries", source, name)


def failed_rows(root: Root, source: str, policy: Policy) -> Iterator[pa.Table]:
    """For each shard its rows to be tried again, as tables of schema RETRY; adopted rows may have no address."""
    wanted = pa.array(policy.reasons, pa.string())
    for table in latest_attempts(root, source, SHARD.names):
        chosen = pc.and_(pc.is_in(table["reason"], wanted), pc.is_valid(table["url"]))
        if policy.attempts is not None:
            chosen = pc.and_(chosen, pc.less(table["attempt"], policy.attempts - 1))
        rows = table.filter(chosen)
        if rows.num_rows and policy.wait and _hours_since(root, source, rows["shard"][0].as_py()) < policy.wait:
            rows = rows.slice(0, 0)
        columns: dict[str, Any] = {name: rows[name] for name in rows.column_names}
        columns["reason"] = pa.array(["ok"] * rows.num_rows, pa.string())
        columns["attempt"] = pc.add(rows["attempt"], pa.scalar(1, pa.int32()))
        yield RETRY.conform(pa.table({name: columns[name] for name in RETRY.names}))


def _hours_since(root: Root, source: str, number: str) -> float:
    """Hours since a shard was finished; without end for one of which that is not known."""
    stats = ("shards", source, f"{number}_stats.json")
    ended = root.read_json(*stats).get("end_time") if root.exists(*stats) else None
    return float("inf") if ended is None else (time.time() - ended) / 3600


def latest_attempts(root: Root, source: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of each of a source's shards that no later attempt has replaced; `columns` and uid and attempt."""
    latest = retried_uids(root, source)
    names = list(dict.fromkeys([*columns, "uid", "attempt"]))
    for name in root.names("shards", source, suffix=".parquet"):
        table = root.read_table("shards", source, name, columns=names)
        pairs = zip(table["uid"].to_pylist(), table["attempt"].to_pylist(), strict=True)
        yield table.filter(pa.array([attempt >= latest.get(uid, 0) for uid, attempt in pairs], pa.bool_()))


def retried_uids(root: Root, source: str) -> dict[str, int]:
    """By uid the latest attempt of a source's rows that stand in further shards: retried, added or withdrawn."""
    latest: dict[str, int] = {}
    for shard in (piece.shard for piece in retry_slices(root, source)):
        if root.exists("shards", source, f"{shard.number}.parquet"):
            table = root.read_table("shards", source, f"{shard.number}.parquet", columns=["uid", "attempt"])
            for uid, attempt in zip(*(table[name].to_pylist() for name in ("uid", "attempt")), strict=True):
                latest[uid] = max(attempt, latest.get(uid, 0))
    return latest


def _place(root: Root, source: str) -> tuple[int, int, int, str]:
    """The number of the next shard of a source, its digits, the rows a shard, and the fingerprint of the ingest."""
    ingested = root.names("metadata", source, suffix=".parquet")
    marks = root.parquet_metadata("metadata", source, ingested[0]) if ingested else {}
    folders = ("metadata", "shards", "retries")
    names = {name for folder in folders for name in root.names(folder, source, suffix=".parquet")}
    numbers = [name.removesuffix(".parquet") for name in names]
    per_shard = int(marks.get(SAMPLES_PER_SHARD, 0)) or _rows_of_largest(root, source)
    return 1 + max(map(int, numbers)), len(max(numbers)), per_shard, marks.get(KEY, "")


def _rows_of_largest(root: Root, source: str) -> int:
    """For adopted tars, whose keys are numbers as large as their rows: a power of ten that holds every shard."""
    names = root.names("shards", source, suffix=".parquet")
    most: int = max(root.read_table("shards", source, name, columns=["attempt"]).num_rows for name in names)
    return max(_MIN_PER_SHARD, int(10 ** len(str(most - 1))))
