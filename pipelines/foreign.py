"""Shards that img2dataset has finished in our folder: they are taken as they are, and not downloaded again."""

from __future__ import annotations

import contextlib
from typing import Any

from filters.errors import ShardError
from filters.pixels import DecodeError
from filters.stored import Stored, facts
from pipelines.adopted.rows import listed_failure
from pipelines.adopted.tars import Member, samples
from pipelines.sandbox import Crashed, Sandbox
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import Places, Sample, fail, write_rows

_THEIRS = frozenset({"key", "url", "status", "error_message"})
_RECORDED = ("width", "height", "original_width", "original_height", "exif", "sha256")


def is_foreign(root: Root, shard: ShardId) -> bool:
    """Whether img2dataset has finished this shard: it has its tar, its counts, and a parquet that is not ours."""
    folder = ("shards", shard.source)
    name = f"{shard.number}.parquet"
    if not all(root.exists(*folder, f"{shard.number}{end}") for end in (".parquet", ".tar", "_stats.json")):
        return False
    if KEY in root.parquet_metadata(*folder, name):
        return False
    try:
        root.read_table(*folder, name, columns=sorted(_THEIRS))
    except ShardError:
        return False
    return True


def take_over(root: Root, shard: ShardId, rows: list[Sample], max_pixels: int, mark: str) -> dict[str, int]:
    """Put our rows in the place of img2dataset's parquet, each with what that and the tar say of its URL.

    `rows` are those of our slice; one that img2dataset lost gets the reason `missing`. The tar stays as it is.
    Returns the counts by status. ShardError where the shard is of other rows than ours.
    """
    theirs = root.read_table("shards", shard.source, f"{shard.number}.parquet").to_pylist()
    records = {(record["key"], record["url"]): record for record in theirs}
    if not records.keys() <= {(row.row["key"], row.row["url"]) for row in rows}:
        raise ShardError(
            f"{shard}: img2dataset made a shard of this name from other rows; move it away, or choose another --root"
        )
    damage: list[str] = []
    found = samples(root.local("shards", shard.source, f"{shard.number}.tar"), damage)
    pictures = {sample.key: sample.picture for sample in found if sample.picture}
    with contextlib.closing(Sandbox(facts)) as sandbox:
        for sample in (row for row in rows if row.row["reason"] == "ok"):
            record = records.get((sample.row["key"], sample.row["url"]))
            _fill(sample.row, record, pictures.get(sample.row["key"]), sandbox, max_pixels)
    places: Places = [(None, None)] * len(rows)
    for index, sample in enumerate(rows):
        picture = pictures.get(sample.row["key"])
        if picture and sample.row["reason"] == "ok":
            places[index] = (picture.offset, len(picture.data))
    return write_rows(root, shard, rows, places, mark)


def _fill(
    row: dict[str, Any],
    record: dict[str, Any] | None,
    picture: Member | None,
    sandbox: Sandbox[Stored],
    max_pixels: int,
) -> None:
    failure = listed_failure(record or {})
    if failure:
        row.update(reason=failure[1], error_message=failure[2])
    elif record is None or picture is None:
        fail(row, "missing")
    else:
        row.update({name: record.get(name) for name in _RECORDED})
        try:
            seen = sandbox.call_sync(picture.data, max_pixels)
        except DecodeError as error:
            fail(row, error.reason)
        except Crashed:
            fail(row, "crash")
        else:
            row.update(mime=seen.mime, phash=seen.phash, pixel_hash=seen.pixel_hash)
            row.update(entropy=seen.entropy, contrast=seen.contrast)
