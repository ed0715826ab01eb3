"""Metadata to shards: fetch, decode, shrink, hash and pack, one shard a task.

headwater download --root data
headwater download --root data --retry timeout,http_429
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import pyarrow.compute as pc
from pydantic import Field, field_validator

from filters.errors import InputError, ShardError
from filters.pixels import DecodeError, EncodeError
from filters.resize import ResizeMode
from filters.stored import Recipe, Stored, store
from pipelines.config import JobConfig
from pipelines.engine import map_shards, record
from pipelines.failures import Failures
from pipelines.foreign import is_foreign, take_over
from pipelines.job import Account, job_main, say
from pipelines.progress import QUIET, Watch
from pipelines.ray_session import start_ray
from pipelines.retry import Policy, check_reasons, downloaded, failed_rows, plan_retry
from pipelines.sandbox import Crashed, Sandbox
from pipelines.slices import Slice, all_slices, slices_of
from pipelines.store.fingerprint import KEY, SAMPLES_PER_SHARD, fingerprint
from pipelines.store.reasons import REASONS
from pipelines.store.root import Root
from pipelines.store.schema import METADATA, RETRY, SCHEMA_VERSION
from pipelines.store.shards import Sample, fail, key_of, write_shard, written
from pipelines.web.cluster import cluster_limits
from pipelines.web.config import FetchConfig
from pipelines.web.fetch import Fetched, Fetcher
from pipelines.web.hosts import Limits, Watched, local_limits
from pipelines.web.selftest import check

_HASH = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")


class DownloadConfig(JobConfig):
    """What to fetch, and how the pictures are stored."""

    sources: list[str] = Field([], description="list of sources to download; all if empty")
    retry: list[str] = Field(
        [], description="fetch only rows that failed for these reasons, such as timeout,http_429, into new shards"
    )
    retry_attempts: int | None = Field(
        None, ge=1, description="attempts after which a retry leaves a row alone, the first counted; no limit if null"
    )
    retry_wait: float = Field(0, ge=0, description="hours after an attempt during which a retry leaves a row alone")
    overwrite: bool = Field(False, description="make shards anew that were made with other settings or rows")
    image_size: int = Field(256, ge=1, description="size of a stored picture in pixels; never enlarged")
    resize_mode: ResizeMode = Field("keep_ratio_largest", description="img2dataset's way to reach the size")
    encode_format: Literal["jpg", "webp", "png"] = Field("jpg", description="format of the stored picture")
    encode_quality: int = Field(95, ge=1, le=100, description="quality of the stored picture")
    exact_decode: bool = Field(False, description="decode every JPEG whole, also where a smaller one would do")
    skip_reencode: bool = Field(False, description="keep the downloaded bytes where they are right already")
    min_image_size: int = Field(0, ge=0, description="shortest side of a picture that is kept")
    max_aspect_ratio: float | None = Field(None, ge=1, description="longest side over shortest; no limit if null")
    max_pixels: int = Field(50_000_000, ge=1, description="largest picture that is decoded")
    placeholder_hashes: tuple[str, ...] = Field(
        Recipe().placeholder_hashes, description="known error pages, as `sha256:` or `md5:` and hex"
    )
    verify_hash: bool = Field(True, description="compare with the hash that the dump names, where it names one")
    self_test: int = Field(10_000, ge=0, description="rows from which on DNS and proxy are tested first")
    processes: int = Field(2, ge=1, description="processes a worker that decode and encode")
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    lanes: int = Field(4, ge=1, description="shards a worker has under way at once, since the last few URLs are slow")
    fetch: FetchConfig = Field(FetchConfig(), description="how to fetch: fetch.contact, fetch.limit.rate and so on")

    @field_validator("retry", mode="before")
    @classmethod
    def _separate(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("placeholder_hashes")
    @classmethod
    def _hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [known for known in hashes if not _HASH.fullmatch(known.lower())]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no hash, which is `sha256:` and 64 or `md5:` and 32 hex digits")
        return tuple(known.lower() for known in hashes)

    def recipe(self) -> Recipe:
        """How a picture is stored."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Recipe)}
        return Recipe(**{**fields, "max_aspect_ratio": self.max_aspect_ratio or math.inf})

    def policy(self) -> Policy:
        """Which failed rows a retry takes."""
        return Policy(self.retry, self.retry_attempts, self.retry_wait)


def run(config: DownloadConfig) -> dict[str, Any]:
    """Download every ingested row into shards; shards that are there already are left alone."""
    root, account, failures = Root(config.root), Account("download"), Failures()
    todo, account.shards_skipped = _due(root, config)
    say(f"download: {len(todo)} shards to do, {account.shards_skipped} done before")
    _self_test(root, todo, config)
    taken, received = _download(root, config, todo, account, failures) if todo else (0, 0)
    account.extra = {"failures": failures.summary(), "taken_from_img2dataset": taken, "picture_bytes": received}
    if taken:
        say(f"download: {taken} shards were finished by img2dataset and were taken as they are")
    for line in failures.lines():
        say(f"download: {line}")
    account.check(config.max_failed_fraction)
    if not config.retry:  # rows that failed before may well fail again
        account.check_rows(config.max_failed_fraction)
    return account.summary()


def _download(
    root: Root, config: DownloadConfig, todo: Sequence[Slice], account: Account, failures: Failures
) -> tuple[int, int]:
    """Make the shards; how many of them img2dataset had finished, and the bytes of the pictures that came."""
    if not config.local:
        start_ray()
    limits = local_limits(config.fetch) if config.local else cluster_limits(config.fetch)
    make, taken, received = partial(_Worker, root, config, limits), 0, 0
    with Watch(partial(_waiting, limits), QUIET) as watch:
        for piece, result in map_shards(todo, make, cpus=config.cpus, local=config.local, lanes=config.lanes):
            watch.heard()
            record(account, piece, result, len(todo))
            failures.add(result.get("failures", {}))
            taken += result.get("taken", 0)
            received += result.get("bytes", 0)
    return taken, received


def _waiting(limits: Watched) -> str:
    """A line on what the shards under way wait for; empty if there is nothing to say."""
    waiting = limits.waiting()
    text = waiting.text() if waiting else ""
    return f"download: {text}" if text else ""


def plan(config: DownloadConfig) -> dict[str, Any]:
    """Which shards a download would make, or how many rows of each source a retry would try again."""
    root = Root(config.root)
    if not config.retry:
        return {"shards": [str(piece) for piece in _due(root, config)[0]]}
    sources = _retried_sources(root, config)
    found = [_look(root, slices_of(root, source), config) for source in sources]
    return {
        "shards": [str(piece) for places in found for piece in _unfinished(places)],
        "rows": {s: sum(rows.num_rows for rows in failed_rows(root, s, config.policy())) for s in sources},
    }


class _Place(NamedTuple):
    """A slice, the fingerprint of the shard at its place (None where there is none), whether that is whole, and the
    fingerprints that it may have."""

    piece: Slice
    found: str | None
    is_whole: bool
    marks: tuple[str, str]

    @property
    def is_done(self) -> bool:
        """Whether the shard is there, as the settings want it."""
        return self.is_whole and self.found in self.marks


def _due(root: Root, config: DownloadConfig) -> tuple[list[Slice], int]:
    """The slices to make shards of, and how many are shards already."""
    if config.retry:
        return _retries(root, config), 0
    places = _look(root, all_slices(root, config.sources), config)
    if not config.overwrite:
        _check_settings(root, places)
    todo = _undone(places)
    return todo, len(places) - len(todo)


def _retries(root: Root, config: DownloadConfig) -> list[Slice]:
    """The slices of the retry to do: those of one that was not finished, if there is one, else of a new one."""
    sources, left = _retried_sources(root, config), []
    for source in sources:
        places = _look(root, slices_of(root, source), config)
        _check_settings(root, places)
        left += _unfinished(places)
    if left:
        say(f"download: {len(left)} shards of an earlier retry come first; run the command again for another")
        return left
    return [piece for source in sources for piece in plan_retry(root, source, config.policy())]


def _retried_sources(root: Root, config: DownloadConfig) -> Sequence[str]:
    """The sources whose rows may be tried again, adopted ones too."""
    check_reasons(config.retry)
    return downloaded(root, config.sources)


def _look(root: Root, slices: Sequence[Slice], config: DownloadConfig) -> list[_Place]:
    """What is at the place of each slice: every file is asked once, though there may be a hundred thousand."""
    there, marks = written(root, [piece.shard for piece in slices]), _marks(root, slices, config)
    return [_Place(piece, *shard, mark) for piece, shard, mark in zip(slices, there, marks, strict=True)]


def _undone(places: Iterable[_Place]) -> list[Slice]:
    return [place.piece for place in places if not place.is_done]


def _unfinished(places: Iterable[_Place]) -> list[Slice]:
    """The slices of retries that are not shards yet."""
    return [piece for piece in _undone(places) if piece.folder == "retries"]


def _check_settings(root: Root, places: Iterable[_Place]) -> None:
    """InputError where shards were made of other rows or with other settings: made anew, they would lose every
    picture that has gone from the web since."""
    other = [place.piece for place in places if place.found not in (None, *place.marks)]
    if other:
        raise InputError(
            f"{root.url}/shards/{other[0]}: was made with other settings or from other rows ({len(other)} such "
            "shards); give the same settings, choose another --root, or make them anew with --overwrite"
        )


def _self_test(root: Root, todo: Sequence[Slice], config: DownloadConfig) -> None:
    """Before a large job, a word on DNS and proxy: what is wrong there would fail every row."""
    found = root.parquet_metadatas([piece.path for piece in todo])
    rows = sum(int(metadata.get(SAMPLES_PER_SHARD, 0)) for metadata in found)
    if rows < config.self_test:
        return
    # Rows were dealt to the slices in random order, so a few of them show the hosts of all.
    urls = {url for piece in todo[:: max(1, len(todo) // 4)] for url in _urls(root, piece)}
    for line in check(sorted({urlsplit(url).hostname or "" for url in urls}), config.fetch):
        say(f"download: {line}")


def _urls(root: Root, piece: Slice) -> list[str]:
    try:
        table = root.read_table(*piece.path, columns=["url", "reason"])
    except ShardError:
        return []  # a broken slice fails by itself, later
    urls: list[str] = table.filter(pc.equal(table["reason"], "ok"))["url"].to_pylist()
    return urls


class _Worker:
    """Downloads one shard a call, several calls at once: while one waits for slow servers, the others go on.

    All of them share one event loop, in a thread of its own, and the processes that decode.
    """

    def __init__(self, root: Root, config: DownloadConfig, limits: Limits) -> None:
        self.root, self.config, self.recipe = root, config, config.recipe()
        self.fetcher = Fetcher(config.fetch, limits)
        self.sandbox: Sandbox[Stored] = Sandbox(store, config.processes)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def __call__(self, piece: Slice) -> dict[str, Any]:
        """One shard from its slice of metadata to its published files."""
        start = time.time()
        samples = _samples(self.root, piece)
        [(mark, taken_mark)] = _marks(self.root, [piece], self.config)
        taken = is_foreign(self.root, piece.shard)
        if taken:
            counts = take_over(self.root, piece.shard, samples, self.config.max_pixels, taken_mark)
        else:
            self._run(self._fill([sample for sample in samples if sample.row["reason"] == "ok"]))
            timing = {"start_time": start, "end_time": time.time(), "duration": time.time() - start}
            counts = write_shard(self.root, piece.shard, samples, self.config.encode_format, mark, timing)
        failures = Failures()
        failures.count(sample.row for sample in samples)
        received = 0 if taken else sum(sample.row.get("original_bytes") or 0 for sample in samples)
        return {
            "rows": len(samples), "counts": counts, "failures": failures.counts(), "taken": int(taken),
            "bytes": received,
        }  # fmt: skip

    def close(self) -> None:
        """End what is under way, the connections and the processes."""
        self._run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.sandbox.close()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _end(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self.fetcher.close()

    async def _fill(self, samples: list[Sample]) -> None:
        """Fetch all samples, and turn each body into a picture in another process while others are on their way."""

        async def take(index: int, fetched: Fetched) -> None:
            await self._take(samples[index], fetched)

        await self.fetcher.fetch_all([sample.row["url"].strip() for sample in samples], take)

    async def _take(self, sample: Sample, fetched: Fetched) -> None:
        """Fill a sample from what was fetched: the picture, its facts, or the reason why there is none."""
        sample.redirected = fetched.redirected
        if fetched.reason != "ok":
            fail(sample.row, fetched.reason, fetched.message)
            return
        declared = sample.row["hash_declared"] if self.config.verify_hash else None
        try:
            stored = await self.sandbox.call(fetched.body, self.recipe, declared)
        except EncodeError as error:
            fail(sample.row, error.reason, f"{REASONS[error.reason][1]}: {error}")
        except DecodeError as error:
            fail(sample.row, error.reason)
        except Crashed as error:
            fail(sample.row, "crash", f"{REASONS['crash'][1]}: {error}")
        else:
            sample.image = stored.image
            sample.row.update({name: getattr(stored, name) for name in _FACTS})


# The facts about a picture go to the shard's columns of the same names.
_FACTS = tuple(field.name for field in dataclasses.fields(Stored) if field.name != "image")


def _samples(root: Root, piece: Slice) -> list[Sample]:
    schema = METADATA if piece.folder == "metadata" else RETRY
    rows = root.read_table(*piece.path, columns=schema.names).to_pylist()
    per_shard = int(root.parquet_metadata(*piece.path)[SAMPLES_PER_SHARD])
    return [
        Sample(
            {
                "attempt": 0,
                **row,
                "key": key_of(piece.shard, i, per_shard),
                "error_message": REASONS[row["reason"]][1] or None,
            }
        )
        for i, row in enumerate(rows)
    ]


def _marks(root: Root, slices: Sequence[Slice], config: DownloadConfig) -> list[tuple[str, str]]:
    """Of each shard its fingerprint (its rows, what is refused and how pictures are stored; not how fast or from
    where), and that of one that img2dataset made: its rows alone, since its pictures stay as they are."""
    refused = config.fetch.model_dump(
        include={"robots", "opt_out", "tdm", "max_redirects", "max_bytes", "placeholder_urls"}
    )
    recipe = dataclasses.asdict(config.recipe())
    rows = [metadata.get(KEY) for metadata in root.parquet_metadatas([piece.path for piece in slices])]
    places = [(SCHEMA_VERSION, mark, piece.shard.number) for mark, piece in zip(rows, slices, strict=True)]
    return [(fingerprint(*place, recipe, refused, config.verify_hash), fingerprint(*place)) for place in places]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater download`."""
    return job_main("download", DownloadConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
