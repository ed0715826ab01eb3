"""Evaluation sets as pictures to compare with: their hashes, thumbnails and embeddings.

A picture that is not square is there in each view that a shard may store of it (`filters.views`), since the mode of
a shard may be unknown. eval_looks/<version>/<set>/00000.parquet holds a thousand pictures; set.json, written last,
says what they were made from.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.pictures import eval_files, eval_pictures, eval_sets
from filters.errors import ConfigError, InputError, ShardError
from filters.groups import Indices
from filters.near import THUMB, thumbnail
from filters.near_pairs import Pictures, Vectors
from filters.pixels import RGB, DecodeError, decode, phash
from filters.stored import Recipe, store
from filters.views import is_square, square_views
from pipelines.dedupes.compact import from_hex, numbers
from pipelines.dedupes.facts import unit_vectors
from pipelines.dedupes.looks import MAX_PIXELS, key_of, squeezed
from pipelines.job import say
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.mirror import inputs
from pipelines.store.root import Root
from pipelines.store.schema import Column, Schema, eval_column

PICTURE = THUMB * THUMB * 3
_RECIPE = Recipe(placeholder_hashes=())
VERSION = fingerprint("eval_looks", 2, THUMB, asdict(_RECIPE))
_PART = 1000
WHOLE = "whole"

EVAL_LOOKS = Schema(
    "eval_looks",
    (
        Column("item", pa.string(), "name of the evaluation picture in its set"),
        Column("view", pa.string(), "whole, or the resize mode that stores the picture so: center_crop or border"),
        Column("sha256", pa.string(), "SHA-256 of its bytes, hex; null but for the whole"),
        Column("pixel_hash", pa.string(), "128-bit hash of size and decoded RGB pixels, hex; null but for the whole"),
        Column("phash", pa.uint64(), "64-bit DCT perceptual hash of the view"),
        Column("aspect", pa.float64(), "width/height of the view"),
        Column("original_width", pa.int32(), "width in pixels"),
        Column("original_height", pa.int32(), "height in pixels"),
        Column("key", pa.uint64(), "hash of the view as a download would store it, and of the picture's size"),
        Column("thumb", pa.binary(PICTURE), "the view squeezed to 64 × 64 pixels, RGB"),
    ),
)


def set_columns(root: Root, tasks: str | None) -> dict[str, str]:
    """The verdict column of each evaluation set in the folder `tasks`; ConfigError where two have the same."""
    columns = {name: eval_column(name) for name in eval_sets(inputs(root, tasks))} if tasks else {}
    for name, column in columns.items():
        if twins := [other for other, same in columns.items() if same == column and other != name]:
            raise ConfigError(f"{tasks}: the sets {name} and {twins[0]} would both be {column}; rename one")
    return columns


def set_marks(root: Root, tasks: str, names: list[str]) -> dict[str, str]:
    """Fingerprint of the files of each set: their names, lengths and times, since to read them takes long."""
    marks = {}
    for name in names:
        folder = inputs(root, tasks, name)
        files = [*eval_files(folder), *(p for p in sorted(folder.glob("*.txt")))]
        stats = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        marks[name] = fingerprint(VERSION, stats)
    return marks


def load_evaluation(
    root: Root, tasks: str, marks: dict[str, str], embedded: tuple[str, int] | None, threads: int
) -> tuple[Pictures, list[str]]:
    """All pictures of the sets in `marks`, with the facts that downloaded ones have, and embeddings where these are.

    The names are those of the sets whose embeddings are asked for and not there.

    `embedded` is the fingerprint of the features and the width of their embeddings, None where none are asked for.
    InputError for a set whose pictures cannot be read, or whose embeddings are not those of its pictures.
    """
    parts: list[pa.Table] = []
    looks: list[RGB] = []
    for name, mark in marks.items():
        for number in range(_make(root, tasks, name, mark, threads)):
            table = root.read_table("eval_looks", VERSION, name, _file(number))
            thumbs = numbers(table["thumb"], PICTURE).reshape(-1, THUMB, THUMB, 3)
            looks.append(squeezed(thumbs))
            parts.append(_facts(table, name, number))
    table = pa.concat_tables(parts)
    say(f"dedupe: {pa.compute.sum(table['whole']).as_py() or 0} evaluation pictures in {len(marks)} sets")
    vectors, rows, missing = _embeddings(root, embedded, list(marks), table)
    return Pictures(table, np.concatenate(looks).__getitem__, vectors, rows), missing


def thumbs(root: Root, name: str, number: int, rows: list[int]) -> RGB:
    """Thumbnails uint8 [n, 64, 64, 3] of `rows` of part `number` of the set `name`."""
    column = root.read_table("eval_looks", VERSION, name, _file(number), columns=["thumb"])["thumb"]
    return numbers(column, PICTURE)[rows].reshape(-1, THUMB, THUMB, 3)


def _file(number: int) -> str:
    return f"{number:05d}.parquet"


def _make(root: Root, tasks: str, name: str, mark: str, threads: int) -> int:
    """Write what is missing of a set's looks; returns how many parts it has."""
    folder = ("eval_looks", VERSION, name)
    if root.exists(*folder, "set.json"):
        made = root.read_json(*folder, "set.json")
        if made.get("mark") == mark:
            return int(made["parts"])
        # What is begun now is no longer what it says, even if this run is killed and the set put back.
        root.remove(*folder, "set.json")
    say(f"dedupe: looking at the pictures of the evaluation set {name}")
    pictures, parts = eval_pictures(inputs(root, tasks, name)), 0
    with ThreadPoolExecutor(threads) as pool:
        while part := list(islice(pictures, _PART)):
            # What a killed run has done.
            if root.parquet_metadata(*folder, _file(parts)).get(KEY) != mark:
                rows = [row for rows in pool.map(partial(_rows, f"{tasks}/{name}"), part) for row in rows]
                table = EVAL_LOOKS.conform(pa.Table.from_pylist(rows, EVAL_LOOKS.arrow))
                root.write_table(table, *folder, _file(parts), metadata={KEY: mark})
            parts += 1
    root.write_json({"mark": mark, "parts": parts}, *folder, "set.json")
    return parts


def _rows(where: str, picture: tuple[str, bytes]) -> list[dict[str, Any]]:
    """The views of an evaluation picture, the whole first, with the facts that a download by default finds."""
    item, data = picture
    try:
        stored = store(data, _RECIPE)
        small = decode(stored.image, max_pixels=MAX_PIXELS).rgb
        width, height = stored.original_width, stored.original_height
        # Most of a long picture's pixels are lost where all of it is shrunk: its middle is taken from the whole.
        large = small if is_square((height, width)) else decode(data, max_pixels=MAX_PIXELS).rgb
    except DecodeError as error:
        raise InputError(f"{where}: {item}: {error}; replace the picture or take it out") from error
    about = {"item": item, "original_width": width, "original_height": height}
    whole = {
        "view": WHOLE,
        "sha256": stored.sha256,
        "pixel_hash": stored.pixel_hash,
        "phash": stored.phash,
        "aspect": width / height,
        "key": key_of(stored.image, width, height),
        "thumb": thumbnail(small).tobytes(),
    }
    rows = [about | whole]
    for view, rgb in square_views(large, small).items():
        thumb = thumbnail(rgb).tobytes()
        key = key_of(thumb, width, height)
        rows.append({**about, "view": view, "phash": phash(rgb), "aspect": 1.0, "key": key, "thumb": thumb})
    return rows


def _facts(table: pa.Table, name: str, number: int) -> pa.Table:
    """The columns of one part that are held in memory, and where its thumbnails are."""
    columns = {c: from_hex(table[c], f"eval_looks/{VERSION}/{name}") for c in ("sha256", "pixel_hash")}
    for column in ("phash", "aspect", "original_width", "original_height", "key"):
        columns[column] = table[column].combine_chunks()
    columns["whole"] = pa.compute.equal(table["view"], WHOLE).combine_chunks()
    columns["eval_set"] = pa.repeat(pa.scalar(name), len(table))
    columns["eval_item"] = table["item"].combine_chunks()
    columns["part"] = pa.repeat(pa.scalar(number, pa.int64()), len(table))
    columns["place"] = pa.array(np.arange(len(table)))
    return pa.table(columns)


def _embeddings(
    root: Root, wanted: tuple[str, int] | None, names: list[str], table: pa.Table
) -> tuple[Vectors | None, Indices | None, list[str]]:
    """Embeddings of the sets that have them, float16 [M, D], the rows (whole pictures) they are of; other sets."""
    if wanted is None:
        return None, None, []
    features, width = wanted
    found, rows, missing = [], [], []
    for name in names:
        own = np.flatnonzero(np.array(pa.compute.and_(pa.compute.equal(table["eval_set"], name), table["whole"])))
        parts = ("eval_features", features, f"{name}.parquet")
        if not root.exists(*parts):
            say(f"dedupe: no embeddings of the evaluation set {name}: only its bytes and pixels are compared; "
                "`headwater score --tasks` makes them")  # fmt: skip
            missing.append(name)
            continue
        embedded = root.read_table(*parts)
        if not embedded["item"].combine_chunks().equals(table["eval_item"].take(own).combine_chunks()):
            raise InputError(f"{root.path(*parts)}: is not of the pictures of {name}; run `headwater score` again")
        try:
            found.append(unit_vectors(embedded, width, "/".join(parts)).astype(np.float16))
        except ShardError as error:
            raise InputError(str(error)) from error
        rows.append(own)
    if not found:
        return None, None, missing
    return np.concatenate(found), np.concatenate(rows), missing
