"""Metadata to shards: fetch, decode, shrink, hash and pack, one shard a task.

headwater download --root data
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from filters.errors import InputError
from filters.pixels import DecodeError, decode, encode, phash, pixel_hash, resize_longest
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.fetch import FetchConfig, Fetched, fetch_all
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import KEY, SAMPLES_PER_SHARD, SHARDS, fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import METADATA, REASONS, SCHEMA_VERSION
from pipelines.store.shards import Sample, is_written, key_of, leftovers, write_shard


class DownloadConfig(JobConfig):
    """What to fetch, and how the pictures are stored."""

    sources: list[str] = Field([], description="sources to download; all that were ingested if empty")
    image_size: int = Field(256, ge=1, description="longest side of a stored picture in pixels; never enlarged")
    encode_format: Literal["jpg", "webp", "png"] = Field("jpg", description="format of the stored picture")
    encode_quality: int = Field(95, ge=1, le=100, description="quality of the stored picture")
    max_pixels: int = Field(50_000_000, ge=1, description="largest picture that is decoded")
    cpus: float = Field(
        0.5, gt=0, description="CPUs a shard: less than one, because a shard mostly waits for servers"
    )
    fetch: FetchConfig = Field(FetchConfig(), description="how to fetch")


def run(config: DownloadConfig) -> dict[str, Any]:
    """Download every ingested row into shards; shards that are there already are left alone."""
    root, account = Root(config.root), Account("download")
    shards = _shards(root, config)
    todo = [shard for shard in shards if not is_written(root, shard, _mark(root, shard, config))]
    account.shards_skipped = len(shards) - len(todo)
    say(f"download: {len(todo)} shards to do, {account.shards_skipped} done before")
    for shard, result in map_shards(todo, _Downloader(root, config), cpus=config.cpus, local=config.local):
        record(account, shard, result, len(todo))
    account.check(config.max_failed_fraction)
    account.check_rows(config.max_failed_fraction)
    return account.summary()


def plan(config: DownloadConfig) -> dict[str, Any]:
    """Which shards a download would make."""
    root = Root(config.root)
    shards = _shards(root, config)
    return {"shards": [str(s) for s in shards if not is_written(root, s, _mark(root, s, config))]}


class _Downloader:
    """Picklable: makes the function that downloads one shard."""

    def __init__(self, root: Root, config: DownloadConfig) -> None:
        self.root, self.config = root, config

    def __call__(self) -> Work:
        return self.download

    def download(self, shard: ShardId) -> dict[str, Any]:
        """One shard from its slice of metadata to its published files."""
        start = time.time()
        name = f"{shard.number}.parquet"
        rows = self.root.read_table("metadata", shard.source, name, columns=METADATA.names).to_pylist()
        per_shard = int(self.root.parquet_metadata("metadata", shard.source, name)[SAMPLES_PER_SHARD])
        samples = [
            Sample(
                {
                    **row,
                    "key": key_of(shard, i, per_shard),
                    "attempt": 0,
                    "error_message": REASONS[row["reason"]][1] or None,
                }
            )
            for i, row in enumerate(rows)
        ]
        asyncio.run(_fill([s for s in samples if s.row["reason"] == "ok"], self.config))
        timing = {"start_time": start, "end_time": time.time(), "duration": time.time() - start}
        mark = _mark(self.root, shard, self.config)
        counts = write_shard(self.root, shard, samples, self.config.encode_format, mark, timing)
        reasons = Counter(sample.row["reason"] for sample in samples)
        return {"rows": len(samples), "counts": counts, "reasons": dict(reasons)}


async def _fill(samples: list[Sample], config: DownloadConfig) -> None:
    """Fetch all samples, and turn each body into a picture in a thread while others are on their way."""

    async def take(index: int, fetched: Fetched) -> None:
        await asyncio.to_thread(_take, samples[index], fetched, config)

    await fetch_all([sample.row["url"] for sample in samples], config.fetch, take)


def _take(sample: Sample, fetched: Fetched, config: DownloadConfig) -> None:
    """Fill a sample from what was fetched: the picture, its facts, or the reason why there is none."""
    if fetched.reason != "ok":
        sample.row.update(reason=fetched.reason, error_message=fetched.message or REASONS[fetched.reason][1])
        return
    try:
        picture = decode(fetched.body, max_pixels=config.max_pixels)
    except DecodeError as error:
        sample.row.update(reason=error.reason, error_message=REASONS[error.reason][1])
        return
    small = resize_longest(picture.rgb, config.image_size)
    sample.image = encode(small, config.encode_format, config.encode_quality)
    sample.row.update(
        width=small.shape[1],
        height=small.shape[0],
        original_width=picture.rgb.shape[1],
        original_height=picture.rgb.shape[0],
        exif=picture.exif_json,
        sha256=hashlib.sha256(fetched.body).hexdigest(),
        mime=picture.mime,
        phash=phash(picture.rgb),
        pixel_hash=pixel_hash(picture.rgb),
    )


def _shards(root: Root, config: DownloadConfig) -> list[ShardId]:
    shards = root.shards("metadata")
    missing = set(config.sources) - {shard.source for shard in shards}
    if missing or not shards:
        names = ", ".join(sorted(missing)) or "any source"
        raise InputError(f"{root.url}/metadata: nothing ingested for {names}; run `headwater ingest` first")
    wanted = [s for s in shards if not config.sources or s.source in config.sources]
    for source in sorted({shard.source for shard in wanted}):
        mine = [shard for shard in wanted if shard.source == source]
        _check_whole(root, mine)
        left = leftovers(root, source, {shard.number for shard in mine})
        if left:
            raise InputError(
                f"{root.url}/shards/{source}: {len(left)} shards, from {left[0]}, are not of the present ingest and "
                "would be counted with it; move them away, or choose another --root"
            )
    return wanted


def _check_whole(root: Root, shards: Sequence[ShardId]) -> None:
    """InputError where the slices of one source are not of one finished ingest; a broken slice fails by itself."""
    found = [root.parquet_metadata("metadata", s.source, f"{s.number}.parquet") for s in shards]
    made = {(marks.get(KEY), marks.get(SHARDS)) for marks in found if marks}
    if made and (len(made) > 1 or next(iter(made))[1] != str(len(shards))):
        source = shards[0].source
        raise InputError(f"{root.url}/metadata/{source}: its ingest was not finished; run `headwater ingest` again")


def _mark(root: Root, shard: ShardId, config: DownloadConfig) -> str:
    """Fingerprint of a shard: its rows and how pictures are stored; not how fast or from which address."""
    metadata = root.parquet_metadata("metadata", shard.source, f"{shard.number}.parquet")
    stored = config.model_dump(include={"image_size", "encode_format", "encode_quality", "max_pixels"})
    return fingerprint(SCHEMA_VERSION, metadata.get(KEY), shard.number, stored)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater download`."""
    return job_main("download", DownloadConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
