"""Stages that write one table beside each shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from filters.errors import ShardError
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, say
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root, ShardId

Signal = Callable[[pa.Table], pa.Table]

# Metadata of a signal's table: why rows of it are null, as JSON by uid.
UNUSABLE = b"headwater.unusable"
_NAMED = 3


class Loader(Protocol):
    """Reads the table that a stage's signal gets for one shard."""

    def __call__(self, root: Root, shard: ShardId) -> pa.Table:
        """The table of one shard."""
        ...


def run_stage(
    shards: Sequence[ShardId],
    make: Callable[[], Signal],
    out: Sidecar,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    local: bool = False,
    ahead: bool = False,
) -> Account:
    """Write one sidecar a shard: load its table, apply the signal, publish; shards already done are skipped.

    With `ahead` a worker loads one shard more while it works on another; a signal that has a `begin` (a table in, a
    function out that gives its result) begins with that one's table too.

    Rows that the signal's table names in its metadata UNUSABLE are counted as unusable, and said.
    """
    account = Account(out.job)
    todo = out.undone(shards)
    account.shards_skipped = len(shards) - len(todo)
    say(f"{out.job}: {len(todo)} shards to do, {account.shards_skipped} done before")
    for shard, result in map_shards(todo, _SidecarWork(make, out), cpus=cpus, gpus=gpus, local=local, ahead=ahead):
        record(account, shard, result, len(todo))
        if unusable := result.get("unusable"):
            say(f"{out.job}: {shard}: {_unusable_text(unusable, result['rows'])}")
    return account


def _unusable_text(unusable: Mapping[str, str], rows: int) -> str:
    named = "; ".join(f"uid {uid}: {reason}" for uid, reason in list(unusable.items())[:_NAMED])
    return f"{len(unusable)} of {rows} rows unusable, left null: {named}{'; …' * (len(unusable) > _NAMED)}"


class Sidecar:
    """Where a stage puts its table for a shard, what it reads, and how a finished one is recognised.

    `reads` are the folders of other sidecars that `load` reads beside the shard.
    """

    def __init__(
        self,
        job: str,
        root: Root,
        folder: Sequence[str],
        stage: str,
        load: Loader,
        reads: Sequence[Sequence[str]] = (),
    ) -> None:
        self.job, self.root, self.folder, self.stage, self.load = job, root, tuple(folder), stage, load
        self.reads = [("shards",), *map(tuple, reads)]

    def mark(self, shard: ShardId) -> str:
        """Fingerprint of one sidecar: the stage's settings, the shard and the other sidecars it was made from."""
        return self._marks([shard])[0]

    def undone(self, shards: Sequence[ShardId]) -> list[ShardId]:
        """Those whose sidecar is not there, or not made from the shard and what lies beside it as they are now."""
        there = self._found(self.folder, shards)
        wanted = zip(shards, there, self._marks(shards), strict=True)
        return [shard for shard, metadata, mark in wanted if not self.is_made(metadata, mark)]

    def is_made(self, metadata: Mapping[str, str], mark: str) -> bool:
        """Whether a sidecar with this metadata is the one that is to be there."""
        return metadata.get(KEY) == mark

    def _marks(self, shards: Sequence[ShardId]) -> list[str]:
        found = zip(*(self._found(folder, shards) for folder in self.reads), strict=True)
        return [fingerprint(self.stage, *(metadata.get(KEY) for metadata in each)) for each in found]

    def _found(self, folder: Sequence[str], shards: Sequence[ShardId]) -> list[dict[str, str]]:
        return self.root.parquet_metadatas([(*folder, s.source, f"{s.number}.parquet") for s in shards])

    def write(self, shard: ShardId, table: pa.Table, mark: str) -> None:
        """Publish the sidecar of one shard; `mark` is of what was there when `table` was loaded."""
        self.root.write_table(table, *self.folder, shard.source, f"{shard.number}.parquet", metadata={KEY: mark})


class _SidecarWork:
    """Picklable: makes the function that does one shard of a sidecar stage."""

    def __init__(self, make: Callable[[], Signal], out: Sidecar) -> None:
        self.make, self.out = make, out

    def __call__(self) -> Work:
        return _ShardWork(self.make(), self.out)


class _Begun(NamedTuple):
    """A shard that was read: its mark, its table, and what gives the signal's table."""

    mark: str
    table: pa.Table
    finish: Callable[[], pa.Table]


class _ShardWork:
    """Does one shard of a sidecar stage; `prepare` reads one in a thread beside."""

    def __init__(self, apply: Signal, out: Sidecar) -> None:
        self.apply, self.out = apply, out
        self.reader = ThreadPoolExecutor(1)
        self.prepared: dict[ShardId, Future[_Begun]] = {}

    def prepare(self, shard: ShardId) -> None:
        """Start to read a shard, if that was not done already."""
        if shard not in self.prepared:
            self.prepared[shard] = self.reader.submit(self._begin, shard)

    def close(self) -> None:
        """Read no more."""
        self.reader.shutdown(cancel_futures=True)

    def __call__(self, shard: ShardId) -> dict[str, Any]:
        begun = self.prepared.pop(shard).result() if shard in self.prepared else self._begin(shard)
        result, rows = begun.finish(), begun.table.num_rows
        if result.num_rows != rows:
            raise ShardError(f"{shard}: {result.num_rows} rows out for {rows} in; this is a defect")
        self.out.write(shard, result, begun.mark)
        unusable = json.loads((result.schema.metadata or {}).get(UNUSABLE, b"{}"))
        counts = {"done": rows - len(unusable)}
        if unusable:
            counts["unusable"] = len(unusable)
        return {"rows": rows, "counts": counts, "unusable": unusable}

    def _begin(self, shard: ShardId) -> _Begun:
        # First: what is downloaded or scored anew meanwhile makes the sidecar one of before.
        mark = self.out.mark(shard)
        table = self.out.load(self.out.root, shard)
        begin = getattr(self.apply, "begin", None)
        return _Begun(mark, table, begin(table) if begin else partial(self.apply, table))
