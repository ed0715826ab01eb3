"""Stages that write one table beside each shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyarrow as pa

from filters.errors import ShardError
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, say
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root, ShardId

Signal = Callable[[pa.Table], pa.Table]


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
) -> Account:
    """Write one sidecar a shard: load its table, apply the signal, publish; shards already done are skipped."""
    account = Account(out.job)
    todo = [shard for shard in shards if not out.is_done(shard)]
    account.shards_skipped = len(shards) - len(todo)
    say(f"{out.job}: {len(todo)} shards to do, {account.shards_skipped} done before")
    for shard, result in map_shards(todo, _SidecarWork(make, out), cpus=cpus, gpus=gpus, local=local):
        record(account, shard, result, len(todo))
    return account


class Sidecar:
    """Where a stage puts its table for a shard, what it reads, and how a finished one is recognised."""

    def __init__(self, job: str, root: Root, folder: Sequence[str], stage: str, load: Loader) -> None:
        self.job, self.root, self.folder, self.stage, self.load = job, root, tuple(folder), stage, load

    def mark(self, shard: ShardId) -> str:
        """Fingerprint of one sidecar: the stage's settings and the shard it was made from."""
        made_from = self.root.parquet_metadata("shards", shard.source, f"{shard.number}.parquet").get(KEY)
        return fingerprint(self.stage, made_from)

    def is_done(self, shard: ShardId) -> bool:
        """Whether the sidecar is there and made from the shard as it is now."""
        metadata = self.root.parquet_metadata(*self.folder, shard.source, f"{shard.number}.parquet")
        return metadata.get(KEY) == self.mark(shard)

    def write(self, shard: ShardId, table: pa.Table) -> None:
        """Publish the sidecar of one shard."""
        name = f"{shard.number}.parquet"
        self.root.write_table(table, *self.folder, shard.source, name, metadata={KEY: self.mark(shard)})


class _SidecarWork:
    """Picklable: makes the function that does one shard of a sidecar stage."""

    def __init__(self, make: Callable[[], Signal], out: Sidecar) -> None:
        self.make, self.out = make, out

    def __call__(self) -> Work:
        apply = self.make()

        def work(shard: ShardId) -> dict[str, Any]:
            table = self.out.load(self.out.root, shard)
            result = apply(table)
            if result.num_rows != table.num_rows:
                raise ShardError(f"{shard}: {result.num_rows} rows out for {table.num_rows} in; this is a defect")
            self.out.write(shard, result)
            return {"rows": table.num_rows, "counts": {"done": result.num_rows}}

        return work
