"""A data root with a mixture, as the jobs before `materialize` leave it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store.root import Root, ShardId
from pipelines.store.schema import MANIFEST
from pipelines.store.shards import Sample, key_of, write_shard
from tests.pipelines.adoptable import image
from tests.pipelines.pictured import uid_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "jpg"}
PER_SHARD = 10


def format_of(number: int) -> str:
    """The format in which a source's picture of this number is stored."""
    return FORMATS[number % len(FORMATS)]


def add_source(root: Root, source: str, samples: int) -> list[dict[str, Any]]:
    """Write a source's shards of ten; the rows that a manifest may have of it."""
    rows = []
    for start in range(0, samples, PER_SHARD):
        shard = ShardId(source, f"{start // PER_SHARD:05d}")
        given = []
        for number in range(start, min(start + PER_SHARD, samples)):
            uid = uid_of(f"{source} {number}")
            row = {
                "uid": uid, "uid_lo": int(uid[16:], 16), "source": source, "sha256": "0" * 64, "reason": "ok",
                "caption": f"{source} ünd {number}", "url": f"http://pictures.test/{number}", "attempt": 0,
                "key": key_of(shard, number - start, PER_SHARD),
                "license": None if number % 5 == 0 else f"CC-{number % 2}",
            }  # fmt: skip
            given.append(Sample(row, image(number, format_of(number), (16, 12))))
        write_shard(root, shard, given, "jpg", "mark", {})
        rows += root.read_table("shards", source, f"{shard.number}.parquet").select(_OF_SHARD).to_pylist()
    return rows


_OF_SHARD = ["uid", "source", "shard", "offset", "size", "caption"]


def add_mixture(root: Root, name: str, uses: Sequence[Mapping[str, Any]], group: int = 7) -> None:
    """Publish a mixture of these rows of MANIFEST, `group` of them a row group."""
    table = MANIFEST.conform(pa.Table.from_pylist([dict(use) for use in uses]).select(MANIFEST.names))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=group)
    pairs = [(int(use["uid"][:16], 16), int(use["uid"][16:], 16)) for use in uses]
    ids = io.BytesIO()
    np.save(ids, np.sort(np.array(pairs, np.dtype("u8,u8")), order=("f0", "f1")))
    root.write_bytes(ids.getvalue(), "mixes", name, "uids.npy")
    root.write_json({"digest": "d" * 64}, "mixes", name, "mix.lock.json")
    root.write_bytes(buffer.getvalue(), "mixes", name, "manifest.parquet")


def mixture(folder: Path, sources: Mapping[str, tuple[int, int]], name: str = "even") -> tuple[Root, pa.Table]:
    """A root with a mixture of sources, each with so many samples and uses, in one shuffled order; its manifest."""
    root = Root(str(folder))
    uses = []
    for source, (samples, wanted) in sources.items():
        rows = add_source(root, source, samples)
        uses += [{**rows[i % samples], "repeat": i // samples} for i in range(wanted)]
    order = np.random.default_rng(0).permutation(len(uses))
    add_mixture(root, name, [uses[i] for i in order])
    return root, root.read_table("mixes", name, "manifest.parquet")


def members(path: Path) -> list[tuple[str, bytes]]:
    """Names and bytes of a tar's files, in their order."""
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def files_of(root: Root, *parts: str) -> dict[str, bytes]:
    """The files under a folder of a root by their paths in it."""
    folder = root.local(*parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def json_of(root: Root, *parts: str) -> Any:
    return json.loads(root.read_bytes(*parts))
