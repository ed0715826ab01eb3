"""What a source's shards are made from: the slices of its ingest, and those that retries add to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filters.errors import InputError
from pipelines.store.fingerprint import FIRST, INGEST, KEY, SHARDS
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import leftovers


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one future shard, as one parquet file under `metadata` or `retries`."""

    folder: Literal["metadata", "retries"]
    shard: ShardId

    def __str__(self) -> str:
        return str(self.shard)

    @property
    def path(self) -> tuple[str, str, str]:
        """Where its file lies under the root."""
        return self.folder, self.shard.source, f"{self.shard.number}.parquet"


def all_slices(root: Root, sources: Sequence[str]) -> list[Slice]:
    """The slices of all or of the named sources; InputError where they do not fit together or to the shards there."""
    ingested, retried = root.shards("metadata"), root.shards("retries")
    missing = set(sources) - {shard.source for shard in (*ingested, *retried)}
    if missing or not (ingested or retried):
        names = ", ".join(sorted(missing)) or "any source"
        raise InputError(f"{root.url}/metadata: nothing ingested for {names}; run `headwater ingest` first")
    wanted = sources or sorted({shard.source for shard in (*ingested, *retried)})
    return [piece for source in sorted(wanted) for piece in slices_of(root, source)]


def slices_of(root: Root, source: str) -> list[Slice]:
    """The slices of one source, none for one that was adopted; InputError as for `all_slices`."""
    names = root.names("metadata", source, suffix=".parquet")
    ingested = [ShardId(source, name.removesuffix(".parquet")) for name in names]
    mark = _check_whole(root, ingested) if ingested else None
    retried = retry_slices(root, source)
    if any(found.get(INGEST, "") != (mark or "") for found in root.parquet_metadatas([s.path for s in retried])):
        raise InputError(
            f"{root.url}/retries/{source}: made for another ingest; move them and their shards away, or choose "
            "another --root"
        )
    # Adopted tars are local links; a root elsewhere has no such path here.
    if any(Path(root.path("shards", source, f"{shard.number}.tar")).is_symlink() for shard in ingested):
        raise InputError(
            f"{root.url}/shards/{source}: holds adopted tars, which a download would replace; ingest under another "
            "--source, or choose another --root"
        )
    slices = [Slice("metadata", shard) for shard in ingested] + retried
    left = leftovers(root, source, {s.shard.number for s in slices}) if ingested else []
    if left:
        raise InputError(
            f"{root.url}/shards/{source}: {len(left)} shards, from {left[0]}, are not of the present ingest and "
            "would be counted with it; move them away, or choose another --root"
        )
    return slices


def retry_slices(root: Root, source: str) -> list[Slice]:
    """The slices that retries have planned for a source, without those of a plan that was cut short.

    The slices of one plan are written from the last to the first, and each names the first.
    """
    names = root.names("retries", source, suffix=".parquet")
    slices = [Slice("retries", ShardId(source, name.removesuffix(".parquet"))) for name in names]
    # A broken slice is kept: it fails by itself.
    marks = root.parquet_metadatas([piece.path for piece in slices])
    firsts = [found.get(FIRST, piece.shard.number) for piece, found in zip(slices, marks, strict=True)]
    return [piece for piece, first in zip(slices, firsts, strict=True) if f"{first}.parquet" in names]


def _check_whole(root: Root, shards: Sequence[ShardId]) -> str | None:
    """The fingerprint of one source's ingest; InputError where its slices are not of one finished ingest.

    A broken slice fails by itself.
    """
    found = root.parquet_metadatas([("metadata", s.source, f"{s.number}.parquet") for s in shards])
    made = {(marks.get(KEY), marks.get(SHARDS)) for marks in found if marks}
    if made and (len(made) > 1 or next(iter(made))[1] != str(len(shards))):
        source = shards[0].source
        raise InputError(f"{root.url}/metadata/{source}: its ingest was not finished; run `headwater ingest` again")
    return next(iter(made))[0] if made else None
