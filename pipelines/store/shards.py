"""The shard format: a USTAR file in img2dataset's webdataset layout, a parquet row for each input row, and counts.

The parquet is written last: a shard whose parquet exists is complete.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from filters.errors import ShardError
from pipelines.store.fingerprint import KEY
from pipelines.store.reasons import REASONS, status_of
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD

HEADER = tarfile.BLOCKSIZE  # bytes before a member's own
FILLER = "__removed__"
# Offset and size of each sample's picture in the tar; None for samples without one.
Places = list[tuple[int | None, int | None]]


@dataclass(slots=True)
class Sample:
    """One input row on its way into a shard: its columns and, where it succeeded, the picture to store.

    `redirected` says that a server was asked and sent us on.
    """

    row: dict[str, Any]
    image: bytes | None = None
    redirected: bool = False


def key_of(shard: ShardId, index: int, samples_per_shard: int) -> str:
    """img2dataset's key: the shard's number and the row's place in it, as one zero-padded number."""
    places = math.ceil(math.log10(samples_per_shard)) if samples_per_shard > 1 else 1
    return str(int(shard.number) * 10**places + index).zfill(places + len(shard.number))


def write_shard(
    root: Root, shard: ShardId, samples: list[Sample], extension: str, mark: str, timing: dict[str, float]
) -> dict[str, int]:
    """Publish one shard; returns its counts by status. `timing` goes to `_stats.json` only."""
    tar, places = _pack(samples, extension)
    table = _table(shard, samples, places)
    # An earlier parquet goes first: its offsets do not fit the new tar.
    root.remove("shards", shard.source, f"{shard.number}.parquet")
    root.write_bytes(tar, "shards", shard.source, f"{shard.number}.tar")
    counts = Counter(table["status"].to_pylist())
    root.write_json(stats(table, counts, timing), "shards", shard.source, f"{shard.number}_stats.json")
    write_parquet(root, shard, table, {KEY: mark})
    return dict(counts)


def write_rows(root: Root, shard: ShardId, samples: list[Sample], places: Places, mark: str) -> dict[str, int]:
    """Publish the rows of a shard whose tar is there already, with the offset and size of each sample's picture."""
    table = _table(shard, samples, places)
    write_parquet(root, shard, table, {KEY: mark})
    return dict(Counter(table["status"].to_pylist()))


def _table(shard: ShardId, samples: list[Sample], places: Places) -> pa.Table:
    for sample, (offset, size) in zip(samples, places, strict=True):
        status = status_of(sample.row["reason"], redirected=sample.redirected)
        sample.row.update(status=str(status), shard=shard.number, offset=offset, size=size)
    columns = {name: [sample.row.get(name) for sample in samples] for name in SHARD.names}
    return pa.table({name: pa.array(columns[name], SHARD.arrow.field(name).type) for name in SHARD.names})


def write_parquet(root: Root, shard: ShardId, table: pa.Table, marks: dict[str, str]) -> None:
    """Publish a shard's parquet, which makes the shard complete; `marks` go to its metadata."""
    own = {key.decode(): value.decode() for key, value in SHARD.arrow.metadata.items()}
    root.write_table(SHARD.conform(table), "shards", shard.source, f"{shard.number}.parquet", metadata=own | marks)


def fail(row: dict[str, Any], reason: str, message: str | None = None) -> None:
    """Let a row say why it has no picture, in img2dataset's words unless there are better ones."""
    row.update(reason=reason, error_message=message or REASONS[reason][1])


def written(root: Root, shards: Sequence[ShardId]) -> list[tuple[str | None, bool]]:
    """The fingerprint of each shard, None where there is none, and whether its tar is there too."""
    found = root.parquet_metadatas([("shards", s.source, f"{s.number}.parquet") for s in shards])
    tars = {source: set(root.names("shards", source, suffix=".tar")) for source in {s.source for s in shards}}
    return [
        (metadata.get(KEY), f"{s.number}.tar" in tars[s.source]) for s, metadata in zip(shards, found, strict=True)
    ]


def leftovers(root: Root, source: str, keep: set[str]) -> list[str]:
    """Numbers of a source's shards, whole or not, that are not in `keep`."""
    endings = (".parquet", ".tar", "_stats.json")
    numbers = {name.removesuffix(e) for e in endings for name in root.names("shards", source, suffix=e)}
    return sorted(numbers - keep)


def read_images(root: Root, table: pa.Table) -> list[bytes]:
    """The stored pictures of rows of one or more shards (columns source, shard, offset, size), in row order."""
    rows = table.select(["source", "shard", "offset", "size"]).to_pylist()
    images: list[bytes] = [b""] * len(rows)
    by_tar: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        by_tar.setdefault((row["source"], row["shard"]), []).append(index)
    for (source, number), indices in by_tar.items():
        ranges = [(rows[i]["offset"], rows[i]["size"]) for i in indices]
        for index, data in zip(indices, root.read_ranges(ranges, "shards", source, f"{number}.tar"), strict=True):
            images[index] = data
    return images


def load_successes(root: Root, shard: ShardId, columns: list[str]) -> pa.Table:
    """The named columns of a shard's rows with status success."""
    table = root.read_table("shards", shard.source, f"{shard.number}.parquet", columns=[*columns, "reason"])
    return table.filter(pa.compute.equal(table["reason"], "ok")).select(columns)


def _pack(samples: list[Sample], extension: str) -> tuple[bytes, Places]:
    """The tar's bytes, and where each sample's picture lies in it."""
    buffer = io.BytesIO()
    places: Places = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if sample.image is None:
                places.append((None, None))
                continue
            key = sample.row["key"]
            places.append((tar.offset + HEADER, len(sample.image)))
            add_member(tar, f"{key}.{extension}", sample.image)
            add_member(tar, f"{key}.json", json.dumps(_member(sample.row), indent=4, sort_keys=False).encode())
            add_member(tar, f"{key}.txt", (sample.row["caption"] or "").encode())
    return buffer.getvalue(), places


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append one file as all our tars hold it: read-only and without a time, so that equal files are equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o444, 0
    tar.addfile(info, io.BytesIO(data))


def blanked(tar: bytes, keys: Collection[str], name: str) -> bytes | None:
    """The tar with every file of the samples `keys` overwritten; None where there is none of them.

    It keeps its size and its other files their offsets, which manifests and catalogs hold: each file gives way to one
    of zeros by a name that no reader takes for a sample, without an extension, and with the underscores that
    webdataset passes over. ShardError, with the tar's `name`, where it cannot be read.
    """
    out = bytearray(tar)
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as files:
            places = [(m.offset, m.offset_data, m.size) for m in files if m.name.split(".", 1)[0] in keys]
    except tarfile.TarError as error:
        raise ShardError(
            f"{name}: cannot be read ({error}); delete its parquet and download the shard again"
        ) from error
    for start, data, size in places:
        # Blocks of headers before the member's own, as PAX has them, go with it.
        end = data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        filler = tarfile.TarInfo(FILLER)
        filler.size, filler.mode = end - start - tarfile.BLOCKSIZE, 0o444
        out[start:end] = filler.tobuf(tarfile.USTAR_FORMAT) + bytes(filler.size)
    return bytes(out) if places else None


def _member(row: dict[str, Any]) -> dict[str, Any]:
    """What a sample's json member holds: img2dataset's fields and the identity."""
    names = ("caption", "url", "key", "error_message", "width", "height", "original_width", "original_height")
    fields = {name: row.get(name) for name in names}
    return {**fields, "status": "success", "exif": row.get("exif"), "sha256": row["sha256"], "uid": row["uid"]}


def stats(table: pa.Table, counts: Counter[str], timing: dict[str, float]) -> dict[str, Any]:
    """img2dataset's `_stats.json`; `skipped` rows count in `count` only."""
    errors = Counter(m for m in table["error_message"].to_pylist() if m)
    return {
        "count": table.num_rows,
        "successes": counts["success"],
        "failed_to_download": counts["failed_to_download"],
        "failed_to_resize": counts["failed_to_resize"],
        "skipped": counts["skipped"],
        **timing,
        "status_dict": {"success": counts["success"], **dict(sorted(errors.items()))},
    }
