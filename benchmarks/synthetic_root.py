"""A root of made-up shards and sidecars in the real schema, of any size, from a seed."""

from __future__ import annotations

import binascii
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.fingerprint import KEY
from pipelines.store.models import ModelInfo, write_model
from pipelines.store.root import Root
from pipelines.store.schema import SHARD, SIGNALS, Schema, features, verdicts

SOURCES = ("cc12m", "laion", "redcaps", "shutterstock", "wit", "yfcc")
MODEL, RUN = "l14", "run"
ROWS = 10_000
_WORDS = np.array(
    [
        "a",
        "of",
        "the",
        "in",
        "on",
        "with",
        "photo",
        "picture",
        "old",
        "red",
        "small",
        "new",
        "dog",
        "cat",
        "house",
        "street",
        "tree",
        "man",
        "woman",
    ]
)
_REASONS = np.array(["ok", "http_404", "timeout", "dns", "decode"])


def make_root(root: Root, rows: int, seed: int = 0) -> int:
    """Shards of ROWS rows for all six sources in turn, a model's scores, verdicts and signals; how many shards."""
    shards = -(-rows // ROWS)
    info = ModelInfo(model="ViT-L-14", pretrained="openai", precision="bf16", dim=2)
    write_model(root, MODEL, info)
    root.write_json({}, "verdicts", RUN, "dedupe.json")
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        pool.starmap(write_shard, [(root, number, seed) for number in range(shards)], chunksize=8)
    return shards


def write_shard(root: Root, number: int, seed: int) -> None:
    """One shard's parquet and its three sidecars."""
    rng = np.random.default_rng([seed, number])
    source, place = SOURCES[number % len(SOURCES)], f"{number // len(SOURCES):05d}"
    rows = np.arange(ROWS)
    ids = rng.integers(0, 2**64, (ROWS, 2), np.uint64)
    uid = _hex(ids.astype(">u8").tobytes(), 32)
    reason = np.where(rng.random(ROWS) < 0.25, _REASONS[rng.integers(1, len(_REASONS), ROWS)], "ok")
    is_there = reason == "ok"
    status = np.where(is_there, "success", np.where(reason == "decode", "failed_to_resize", "failed_to_download"))
    words = _WORDS[rng.integers(0, len(_WORDS), (ROWS, 8))]
    caption = pc.binary_join_element_wise(
        *(pa.array(words[:, i]) for i in range(8)), pa.array(rows).cast("string"), " "
    )
    host = pa.array([f"http://host{h}.example/" for h in rng.integers(0, 5000, ROWS)])
    size = np.where(is_there, rng.integers(4_000, 40_000, ROWS), 0)
    side = rng.integers(200, 3000, (ROWS, 2)).astype(np.int32)
    missing = pa.array(~is_there)
    columns = {
        "caption": caption, "url": pc.binary_join_element_wise(host, uid, ".jpg", ""),
        "key": pc.binary_join_element_wise(place, pc.utf8_lpad(pa.array(rows).cast("string"), 4, "0"), ""),
        "status": status, "width": _null(256, missing), "height": _null(256, missing),
        "original_width": _null(side[:, 0], missing), "original_height": _null(side[:, 1], missing),
        "exif": _null("{}", missing), "sha256": _null(_hex(rng.bytes(32 * ROWS), 64), missing),
        "uid": uid, "uid_lo": ids[:, 1], "source": _all(source), "captions": _lists(caption),
        "caption_recipe": _all("caption"), "reason": reason, "attempt": np.zeros(ROWS, np.int32),
        "mime": _null("image/jpeg", missing), "phash": _null(rng.integers(0, 2**64, ROWS, np.uint64), missing),
        "pixel_hash": _null(_hex(rng.bytes(16 * ROWS), 32), missing), "frames": _null(1, missing),
        "original_bytes": _null(rng.integers(3_000, 900_000, ROWS), missing),
        "entropy": _null(rng.normal(6.5, 0.8, ROWS).astype(np.float32), missing),
        "contrast": _null(rng.uniform(0.01, 0.4, ROWS).astype(np.float32), missing),
        "file": _all("dump.tsv"), "line": number * ROWS + rows, "shard": _all(place),
        "offset": _null(np.cumsum(size), missing), "size": _null(size, missing),
    }  # fmt: skip
    _write(root, SHARD, columns, ROWS, "shards", source, place)
    there = uid.filter(pa.array(is_there))
    count = len(there)
    score = rng.normal(0.24, 0.05, count).astype(np.float32)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * count, np.float16)), 2)
    scores = {"uid": there, "clip_score": score, "image_embedding": vector, "text_embedding": vector}
    _write(root, features(2), scores, count, "features", MODEL, source, place)
    is_copy, is_held = rng.random(count) < 0.04, rng.random(count) < 0.001
    survivor = pa.array(np.where(is_copy, np.roll(there.to_numpy(zero_copy_only=False), 1), None), pa.string())
    verdict = {
        "uid": there, "kind": _kinds(is_copy, "near"), "duplicate_of": survivor, "group": survivor,
        "distance": _null(0.02, pa.array(~is_copy)), "eval_set": _kinds(is_held, "imagenet"),
        "eval_kind": _kinds(is_held, "near"), "eval_in_imagenet": _kinds(is_held, "near"),
    }  # fmt: skip
    _write(root, verdicts(["imagenet"]), verdict, count, "verdicts", RUN, source, place)
    signal = {
        "uid": there, "caption_words": np.full(count, 9, np.int32), "caption_chars": np.full(count, 40, np.int32),
        "language": np.where(rng.random(count) < 0.8, "en", "de"),
        "language_score": rng.uniform(0.3, 1, count).astype(np.float32),
        "caption_repetition": rng.uniform(0, 0.5, count).astype(np.float32),
        "caption_boilerplate": np.zeros(count, bool),
    }  # fmt: skip
    _write(root, SIGNALS, signal, count, "signals", RUN, source, place)


def _hex(data: bytes, width: int) -> pa.Array:
    """Bytes as strings of `width` hex digits."""
    text = binascii.hexlify(data)
    offsets = np.arange(0, len(text) + 1, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))


def _all(value: str) -> pa.Array:
    return pa.repeat(pa.scalar(value), ROWS)


def _null(values: Any, missing: pa.Array) -> pa.Array:
    """Values, or one value for all, null where a row has none."""
    found = values if isinstance(values, pa.Array | np.ndarray) else pa.repeat(pa.scalar(values), len(missing))
    return pc.if_else(missing, None, pa.array(found))


def _kinds(where: np.ndarray[Any, np.dtype[np.bool_]], value: str) -> pa.Array:
    return _null(value, pa.array(~where))


def _lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)


def _write(root: Root, schema: Schema, columns: dict[str, Any], rows: int, *place: str) -> None:
    arrays = [
        pa.array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in schema.arrow
    ]
    name: Sequence[str] = (*place[:-1], f"{place[-1]}.parquet")
    root.write_table(pa.Table.from_arrays(arrays, schema=schema.arrow), *name, metadata={KEY: "/".join(place)})
