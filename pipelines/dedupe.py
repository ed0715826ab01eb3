"""Shards to verdict sidecars: which pictures are the same, and which ones an evaluation set holds.

headwater dedupe --root data --tasks eval
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from evaluation.tasks import Task, load_task
from filters.duplicates import NearParams, Pictures, verdicts
from filters.errors import InputError, ShardError
from filters.near import THUMB, thumbnail
from filters.pixels import DecodeError, decode
from filters.stored import Recipe, store
from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION, VERDICTS
from pipelines.store.shards import load_successes, read_images

_COLUMNS = [
    "uid", "source", "url", "sha256", "pixel_hash", "phash", "original_width", "original_height", "shard", "offset",
    "size",
]  # fmt: skip
_MAX_PIXELS = 50_000_000
_BLOCK = 256

Thumbnails = npt.NDArray[np.uint8]


class DedupeConfig(JobConfig):
    """What counts as a duplicate, who survives, and which evaluation sets must stay unseen."""

    tasks: str | None = Field(None, description="folder of evaluation sets under the root; none if not given")
    priority: list[str] = Field([], description="sources whose sample survives first; alphabetical after these")
    hamming_radius: int = Field(NearParams().hamming_radius, ge=0, le=64, description="bits of phash for candidates")
    tangent_radius: float = Field(
        NearParams().tangent_radius, ge=0, le=1, description="coarse distance for candidates"
    )
    max_distance: float = Field(
        NearParams().max_distance, ge=0, le=1, description="verified distance of near duplicates"
    )
    placeholder_urls: int = Field(
        50, ge=1, description="different URLs that may give the same bytes before these count as an error page"
    )
    threads: int = Field(2, ge=1, description="threads that decode pictures")


def run(config: DedupeConfig) -> dict[str, Any]:
    """Give every downloaded picture its verdict; nothing is deleted."""
    root, account = Root(config.root), Account("dedupe")
    shards = root.shards("shards")
    if not shards:
        raise InputError(f"{config.root}/shards: nothing downloaded; run `headwater download` first")
    name, mark = _name(config), _mark(root, shards, config)
    if all(_found(root, name, shard) == mark for shard in shards):
        account.shards_skipped = len(shards)
        say("dedupe: verdicts are up to date")
        return {**account.summary(), "verdicts": name}
    parts = [load_successes(root, shard, _COLUMNS) for shard in shards]
    table = pa.concat_tables(parts)
    say(f"dedupe: {table.num_rows} pictures; making thumbnails")
    pictures = Pictures(table, _stored_thumbnails(root, table, config.threads).__getitem__)
    result = verdicts(
        pictures,
        priority=config.priority,
        evaluation=_evaluation(root, config),
        params=_params(config),
        placeholder_urls=config.placeholder_urls,
    )
    start = 0
    for shard, part in zip(shards, parts, strict=True):
        rows = VERDICTS.conform(result.slice(start, part.num_rows))
        start += part.num_rows
        root.write_table(rows, "verdicts", name, shard.source, f"{shard.number}.parquet", metadata={KEY: mark})
    account.shards_done = len(shards)
    account.add(table.num_rows, Counter(kind or "unique" for kind in result["kind"].to_pylist()))
    account.extra = {"verdicts": name, "eval_overlaps": _by_set(result)}
    account.check(config.max_failed_fraction)
    overlaps = ", ".join(f"{n} {name}" for name, n in account.extra["eval_overlaps"].items()) or "none"
    say(f"dedupe: {account.text()}; in evaluation sets: {overlaps}")
    return account.summary()


def plan(config: DedupeConfig) -> dict[str, Any]:
    """What a dedupe run would read."""
    root = Root(config.root)
    return {"shards": len(root.shards("shards")), "tasks": root.names(config.tasks) if config.tasks else []}


def _evaluation(root: Root, config: DedupeConfig) -> Pictures | None:
    """All pictures of all evaluation sets, with the same facts as downloaded ones."""
    if config.tasks is None:
        return None
    names = root.names(config.tasks)
    if not names:
        raise InputError(f"{config.root}/{config.tasks}: no evaluation sets here; check --tasks")
    tasks = [load_task(root.local(config.tasks, name)) for name in names]
    say(f"dedupe: {sum(len(task.images) for task in tasks)} evaluation pictures in {len(tasks)} sets")
    with ThreadPoolExecutor(config.threads) as pool:
        facts = [fact for task in tasks for fact in pool.map(_facts, task.images)]
    items = [item for task in tasks for item in _items(task)]
    table = pa.Table.from_pylist(
        [{**item, **fact} for item, (fact, _) in zip(items, facts, strict=True)], _EVALUATION
    )
    return Pictures(table, np.stack([thumb for _, thumb in facts]).__getitem__)


_EVALUATION = pa.schema([
    ("eval_set", pa.string()), ("eval_item", pa.string()), ("sha256", pa.string()), ("pixel_hash", pa.string()),
    ("phash", pa.uint64()), ("original_width", pa.int32()), ("original_height", pa.int32()),
])  # fmt: skip


def _items(task: Task) -> list[dict[str, str]]:
    return [
        {"eval_set": task.name, "eval_item": f"{key} ({task.classnames[label]})"}
        for key, label in zip(task.keys, task.labels.tolist(), strict=True)
    ]


def _facts(data: bytes) -> tuple[dict[str, Any], Thumbnails]:
    """The facts about an evaluation picture and its thumbnail, as a download by default makes them."""
    stored = store(data, Recipe())
    names = ("sha256", "pixel_hash", "phash", "original_width", "original_height")
    small = decode(stored.image, max_pixels=_MAX_PIXELS).rgb
    return {name: getattr(stored, name) for name in names}, thumbnail(small)


def _stored_thumbnails(root: Root, table: pa.Table, threads: int) -> Thumbnails:
    """Thumbnails uint8 [N, 64, 64, 3] of the stored pictures, in row order."""
    out = np.empty((table.num_rows, THUMB, THUMB, 3), np.uint8)

    def fill(start: int) -> None:
        images = read_images(root, table.slice(start, _BLOCK))
        for index, data in enumerate(images, start):
            try:
                out[index] = thumbnail(decode(data, max_pixels=_MAX_PIXELS).rgb)
            except DecodeError as error:
                where = "/".join(table[name][index].as_py() for name in ("source", "shard", "uid"))
                raise ShardError(
                    f"{where}: the stored picture is damaged ({error}); download its shard again"
                ) from error

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, table.num_rows, _BLOCK)))
    return out


def _params(config: DedupeConfig) -> NearParams:
    return dataclasses.replace(
        NearParams(),
        hamming_radius=config.hamming_radius,
        tangent_radius=config.tangent_radius,
        max_distance=config.max_distance,
    )


def _by_set(result: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(name for name in result["eval_set"].to_pylist() if name).items()))


def _name(config: DedupeConfig) -> str:
    """Fingerprint of the settings: the name of the verdicts' folder."""
    settings = config.model_dump(include={"priority", "tasks", "placeholder_urls"})
    return fingerprint(SCHEMA_VERSION, dataclasses.asdict(_params(config)), settings)


def _mark(root: Root, shards: Sequence[ShardId], config: DedupeConfig) -> str:
    """Fingerprint of the inputs: a verdict depends on every shard and on every evaluation set."""
    made_from = [(str(s), root.parquet_metadata("shards", s.source, f"{s.number}.parquet").get(KEY)) for s in shards]
    sets = []
    for name in root.names(config.tasks) if config.tasks else []:
        files = sorted(root.local(config.tasks or "", name).rglob("*.tar"))
        sets.append((name, [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]))
    return fingerprint(_name(config), made_from, sets)


def _found(root: Root, name: str, shard: ShardId) -> str | None:
    return root.parquet_metadata("verdicts", name, shard.source, f"{shard.number}.parquet").get(KEY)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater dedupe`."""
    return job_main("dedupe", DedupeConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
