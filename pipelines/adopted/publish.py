"""Staged sidecars to published shards: repeated samples marked, the tar linked, every offset checked by hash."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import ShardError
from filters.published import published
from pipelines.adopted.stage import DAMAGE, FOLDER, Tar
from pipelines.identity import uid_of
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.reasons import REASONS, status_of
from pipelines.store.root import Root, beside
from pipelines.store.schema import SHARD
from pipelines.store.shards import stats, write_parquet

_CHECKED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Ready:
    """A staged tar, and the places in it of samples that stand earlier in it or in another tar."""

    tar: Tar
    repeats: tuple[int, ...]

    def __str__(self) -> str:
        return str(self.tar)

    def mark(self, staged: str) -> str:
        """Fingerprint of the published shard."""
        return fingerprint(staged, self.repeats)


def publish(root: Root, max_pixels: int, ready: Ready) -> dict[str, Any]:
    """Link the tar, check that each offset leads to the bytes that were read, write the parquet last."""
    tar = ready.tar
    place, name = ("shards", tar.shard.source), f"{tar.shard.number}.parquet"
    staged = root.read_table(FOLDER, tar.shard.source, name)
    metadata = root.parquet_metadata(FOLDER, tar.shard.source, name)
    if metadata.get(KEY) != tar.mark(max_pixels):
        raise ShardError(f"{tar.path}: has changed since it was read; run the same command again")
    table = _without_repeats(staged.select(SHARD.names), ready.repeats)
    root.remove(*place, name)
    link(root, tar)
    verify(root, tar, staged)
    counts = Counter(table["status"].to_pylist())
    root.write_json(stats(table, counts, {}), *place, f"{tar.shard.number}_stats.json")
    write_parquet(root, tar.shard, table, {KEY: ready.mark(metadata[KEY]), DAMAGE: metadata[DAMAGE]})
    return {"rows": table.num_rows, "counts": dict(counts), "pictures": _pictures(table)}


def is_published(root: Root, ready: Ready, staged: str) -> bool:
    """Whether the shard is there, made from the sidecar with the mark `staged`, and leads to its tar."""
    shard = ready.tar.shard
    metadata = root.parquet_metadata("shards", shard.source, f"{shard.number}.parquet")
    place = root.local("shards", shard.source, f"{shard.number}.tar")
    return metadata.get(KEY) == ready.mark(staged) and place.is_symlink() and str(place.readlink()) == ready.tar.path


def link(root: Root, tar: Tar) -> None:
    """Let the shard's tar lead to the user's, in one step."""
    place = root.local("shards", tar.shard.source, f"{tar.shard.number}.tar")
    with published(place, beside(place)) as temporary:
        temporary.symlink_to(tar.path)


def verify(root: Root, tar: Tar, staged: pa.Table) -> None:
    """ShardError unless the bytes at each row's offset, read through the root, are those that the tar was read as."""
    stored = staged.filter(pc.is_valid(staged["offset"])).select(["key", "offset", "size", "stored_sha256"])
    for start in range(0, stored.num_rows, _CHECKED_AT_ONCE):
        rows = stored.slice(start, _CHECKED_AT_ONCE).to_pylist()
        ranges = [(row["offset"], row["size"]) for row in rows]
        found = root.read_ranges(ranges, "shards", tar.shard.source, f"{tar.shard.number}.tar")
        for row, data in zip(rows, found, strict=True):
            if hashlib.sha256(data).hexdigest() != row["stored_sha256"]:
                # Its size and time may be those of before, so that it would not be read again.
                root.remove(FOLDER, tar.shard.source, f"{tar.shard.number}.parquet")
                raise ShardError(
                    f"{tar.path}: the bytes of {row['key']} are not those read before; run the same command again"
                )


def _without_repeats(table: pa.Table, repeats: tuple[int, ...]) -> pa.Table:
    """The rows at the places `repeats` as duplicate_row, each with a uid of its own and pointing at the first."""
    if not repeats:
        return table
    rows = table.to_pylist()
    for index in repeats:
        row = rows[index]
        uid = uid_of(row["source"], row["file"], str(row["line"]), ())
        row.update(duplicate_row_of=row["uid"], uid=uid, uid_lo=int(uid[16:], 16))
        row.update(reason="duplicate_row", status=str(status_of("duplicate_row")))
        row["error_message"] = REASONS["duplicate_row"][1]
    return pa.Table.from_pylist(rows, SHARD.arrow)


def _pictures(table: pa.Table) -> dict[str, int]:
    """How many pictures of the tar can be used and how many cannot; downloads that failed long ago are neither."""
    there = table.filter(pc.or_(pc.is_valid(table["offset"]), pc.equal(table["reason"], "missing")))
    failed = pc.sum(pc.starts_with(there["status"], "failed")).as_py() or 0
    return {"usable": there.num_rows - failed, "failed": failed}
