"""One tar to its staged sidecar: a row for each of its samples and for each other row of the parquet beside it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from filters.errors import ShardError
from filters.pixels import DecodeError
from filters.stored import Stored, facts
from pipelines.adopted.rows import listed_failure, row_of
from pipelines.adopted.tars import Member, samples
from pipelines.sandbox import Crashed, Sandbox
from pipelines.store import removals
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.reasons import REASONS, status_of
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, STAGED

FOLDER = "adopted"
DAMAGE = "headwater.damage"  # key of a parquet's metadata: what of the tar could not be read, as a JSON list
_DAMAGE_LINES = 20
_IN_FLIGHT = 4  # pictures that are handed over before the first of them is back

# The rows of the parquet beside a tar, by key.
Listed = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar of the user's: where it lies, its name below the adopted folder, and the shard that it becomes."""

    shard: ShardId
    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.shard} ({self.name})"

    @property
    def listing(self) -> Path:
        """The parquet that img2dataset writes beside it."""
        return Path(self.path).with_suffix(".parquet")

    def mark(self, max_pixels: int) -> str:
        """Fingerprint of what its staged sidecar is made from."""
        files = [_size_and_time(path) for path in (Path(self.path), self.listing)]
        return fingerprint(SCHEMA_VERSION, str(self.shard), self.name, files, max_pixels)


class Stager:
    """Stages one tar a call; the process that decodes lives from one tar to the next."""

    def __init__(self, root: Root, max_pixels: int) -> None:
        self.root, self.max_pixels = root, max_pixels
        self._sandbox: Sandbox[Stored] = Sandbox(facts)
        self._runner = asyncio.Runner()

    def __call__(self, tar: Tar) -> dict[str, Any]:
        """Read the tar and publish its staged sidecar."""
        mark = tar.mark(self.max_pixels)
        damage: list[str] = []
        listed = _listed(tar.listing, damage)
        rows = self._runner.run(self._rows(tar, listed, damage))
        for record in itertools.chain.from_iterable(listed.values()):
            rows.append(_row(tar, len(rows), str(record["key"]), record))
            _without_picture(rows[-1], record)
        if damage and not rows:
            raise ShardError(f"{tar.path}: holds nothing that can be read ({damage[0]})")
        columns = {name: [row.get(name) for row in rows] for name in STAGED.names}
        table = pa.table({name: pa.array(columns[name], STAGED.arrow.field(name).type) for name in STAGED.names})
        table = removals.withheld(table, removals.uids(self.root))
        metadata = {KEY: mark, DAMAGE: json.dumps(_shortened(damage))}
        self.root.write_table(table, FOLDER, tar.shard.source, f"{tar.shard.number}.parquet", metadata=metadata)
        return {"rows": len(rows), "counts": dict(Counter(table["status"].to_pylist()))}

    def close(self) -> None:
        """End the process that decodes."""
        self._sandbox.close()
        self._runner.close()

    async def _rows(self, tar: Tar, listed: Listed, damage: list[str]) -> list[dict[str, Any]]:
        """A row for each sample of the tar; takes the parquet's row of each out of `listed`."""
        rows: list[dict[str, Any]] = []
        waiting: deque[asyncio.Task[None]] = deque()
        for sample in samples(Path(tar.path), damage):
            record = sample.record
            if listed.get(sample.key):
                beside = listed[sample.key].pop(0)
                record = beside | {name: value for name, value in record.items() if beside.get(name) is None}
            rows.append(_row(tar, len(rows), sample.key, record, sample.text))
            if sample.picture is None:
                _without_picture(rows[-1], record)
                continue
            waiting.append(asyncio.create_task(self._look(rows[-1], sample.picture)))
            if len(waiting) >= _IN_FLIGHT:
                await waiting.popleft()
        await asyncio.gather(*waiting)
        return rows

    async def _look(self, row: dict[str, Any], picture: Member) -> None:
        """Fill a row with its picture's place and facts, or with the reason why it is none."""
        digest = hashlib.sha256(picture.data).hexdigest()
        is_original = row["sha256"] in (None, digest)
        row.update(offset=picture.offset, size=len(picture.data), stored_sha256=digest)
        # Without a record of the downloaded bytes, the stored ones are the oldest that are known.
        row["sha256"] = row["sha256"] or digest
        try:
            found = await self._sandbox.call(picture.data, self.max_pixels)
        except DecodeError as error:
            _set_reason(row, error.reason)
        except Crashed as error:
            _set_reason(row, "crash", str(error))
        else:
            row.update(width=found.width, height=found.height, mime=found.mime)
            row.update(phash=found.phash, pixel_hash=found.pixel_hash, exif=row["exif"] or found.exif)
            row.update(entropy=found.entropy, contrast=found.contrast)
            if is_original:
                row.update(frames=found.frames, original_bytes=found.original_bytes)
            row["original_width"] = row["original_width"] or found.width
            row["original_height"] = row["original_height"] or found.height
            _set_reason(row, "no_caption" if row["caption"] is None else "ok")


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _listed(path: Path, damage: list[str]) -> Listed:
    """The rows of the parquet beside a tar; none without one. Columns of bytes (pictures) are not read."""
    if not path.exists():
        return {}
    try:
        with pq.ParquetFile(path) as file:
            names = [field.name for field in file.schema_arrow if not pa.types.is_binary(field.type)]
            rows = file.read(columns=names).to_pylist() if "key" in names else []
    except (OSError, pa.ArrowException) as error:
        damage.append(f"{path.name}: cannot be read ({error}); its rows are left out")
        return {}
    if "key" not in names:
        damage.append(f"{path.name}: has no column `key`; its rows are left out")
    listed: Listed = {}
    for row in rows:
        listed.setdefault(str(row["key"]), []).append(row)
    return listed


def _row(tar: Tar, line: int, key: str, record: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    return row_of(tar.shard.source, tar.name, line, key, record, text) | {"shard": tar.shard.number}


def _without_picture(row: dict[str, Any], record: dict[str, Any]) -> None:
    """What became of a sample whose download failed, or whose picture ought to be in the tar and is not."""
    failure = listed_failure(record)
    if failure is None:
        _set_reason(row, "missing")
    else:
        row.update(zip(("status", "reason", "error_message"), failure, strict=True))


def _set_reason(row: dict[str, Any], reason: str, message: str | None = None) -> None:
    row.update(status=str(status_of(reason)), reason=reason, error_message=message or REASONS[reason][1] or None)


def _shortened(damage: list[str]) -> list[str]:
    more = len(damage) - _DAMAGE_LINES
    return [*damage[:_DAMAGE_LINES], *([f"and {more} more"] if more > 0 else [])]
