"""What is known of all downloaded pictures, as compact columns: about 100 bytes a picture in memory.

Looks, signatures of captions and embeddings (0.8, 0.5 and 1 kB a picture) lie in temporary files that are mapped; the
search for semantic duplicates holds the embeddings that it compares in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from filters.caption_groups import PERMUTATIONS, Signatures
from filters.errors import InputError, ShardError
from filters.near_pairs import Vectors
from filters.pixels import RGB
from filters.vectors import vectors
from pipelines.dedupes.compact import from_hex, numbers, spacious
from pipelines.dedupes.looks import LOOK, LOOKS, MINHASH, SIDE, VERSION
from pipelines.retry import retried_uids
from pipelines.store.embeddings import embedding_width, read_embeddings
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import load_successes

_COLUMNS = [
    "uid", "source", "url", "sha256", "pixel_hash", "phash", "original_width", "original_height", "shard", "offset",
    "size", "attempt",
]  # fmt: skip
_SEEN = ["uid", "key", "aspect", "phash", "damage"]
_READERS = 8
_LENGTH = 0.01  # of an embedding that is rounded to half precision, away from 1


@dataclass(frozen=True, slots=True)
class Facts:
    """Pictures of all shards, in order of shard and row; those of shard s are rows start[s] to start[s + 1].

    `table` has uid, sha256 and pixel_hash as 16 bytes, source and shard as dictionaries, url as a number, and as they
    are phash, original_width, original_height, offset, size, `key` and `aspect` (see `looks`), `readable` (whether
    the stored picture can be decoded), and `score` if there are features. `damage` says why others cannot.
    `replaced` has, by the place of a shard, the uids of pictures that a later attempt replaced: they are no rows.
    `looks` uint8 [N, 16, 16, 3], `captions` uint32 [N, 128], `vectors` float16 [N, D] or None.
    """

    table: pa.Table
    start: npt.NDArray[np.int64]
    looks: RGB
    captions: Signatures
    vectors: Vectors | None
    damage: tuple[str, ...] = ()
    replaced: dict[int, pa.ChunkedArray] = field(default_factory=dict)


def load_facts(root: Root, shards: Sequence[ShardId], features: str | None, *, embed: bool) -> Facts:
    """The facts of all pictures of `shards` that no later attempt replaced; embeddings of `features` where `embed`.

    ShardError for a sidecar that does not fit its shard, is missing, has another width or holds NaN, naming it.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        later = {source: retried_uids(root, source) for source in {shard.source for shard in shards}}
        tables = list(pool.map(lambda shard: _rows(root, shard, features, later[shard.source]), shards))
        start = np.cumsum([0, *(table.num_rows for table in tables)])
        size = int(start[-1])
        table = pa.concat_tables(tables).unify_dictionaries()
        found = Facts(
            table,
            start,
            spacious((size, SIDE, SIDE, 3), np.uint8),
            spacious((size, PERMUTATIONS), np.uint32),
            spacious((size, embedding_width(root, features)), np.float16) if embed and features else None,
        )
        seen = list(pool.map(lambda number: _fill(root, shards[number], found, number), range(len(shards))))
        if found.vectors is not None:
            list(
                pool.map(
                    lambda n: _embed(root, shards[n], features or "", found, n, later[shards[n].source]),
                    range(len(shards)),
                )
            )
    looks = pa.concat_tables([LOOKS.arrow.empty_table().select(_SEEN), *seen]).combine_chunks()
    place = table.column_names.index("phash")
    table = table.set_column(place, "phash", pc.coalesce(looks["phash"], table["phash"]))
    columns = {"key": looks["key"], "aspect": looks["aspect"], "readable": looks["damage"].is_null()}
    for name, column in columns.items():
        table = table.append_column(name, column)
    damage = _damage(shards, start, looks)
    return Facts(table, start, found.looks, found.captions, found.vectors, damage, found.replaced)


def _damage(shards: Sequence[ShardId], start: npt.NDArray[np.int64], looks: pa.Table) -> tuple[str, ...]:
    """Where the pictures are that cannot be decoded, and why, each in one line."""
    rows = np.flatnonzero(np.array(looks["damage"].is_valid(), np.bool_))
    found = looks.select(["uid", "damage"]).take(pa.array(rows)).to_pylist()
    numbers = np.searchsorted(start, rows, "right") - 1
    return tuple(
        f"{shards[number]}: uid {row['uid']}: {row['damage']}"
        for number, row in zip(numbers.tolist(), found, strict=True)
    )


def _latest(root: Root, shard: ShardId, columns: list[str], later: Mapping[str, int]) -> pa.Table:
    """The named columns of a shard's pictures, without those that a `later` attempt, by uid, has replaced."""
    table = load_successes(root, shard, columns)
    if not later:
        return table
    pairs = zip(table["uid"].to_pylist(), table["attempt"].to_pylist(), strict=True)
    return table.filter(pa.array([attempt >= later.get(uid, 0) for uid, attempt in pairs], pa.bool_()))


def _rows(root: Root, shard: ShardId, features: str | None, later: Mapping[str, int]) -> pa.Table:
    """The facts of one shard's pictures."""
    table = _latest(root, shard, _COLUMNS, later)
    where = root.path("shards", shard.source, f"{shard.number}.parquet")
    columns = {name: from_hex(table[name], f"{where}: {name}") for name in ("uid", "sha256", "pixel_hash")}
    for name in ("source", "shard"):
        columns[name] = table[name].combine_chunks().dictionary_encode()
    for name in ("phash", "original_width", "original_height", "offset", "size"):
        columns[name] = table[name].combine_chunks()
    urls = table["url"].cast(pa.binary()).fill_null(b"")
    columns["url"] = pa.array(map(xxhash.xxh3_64_intdigest, urls.to_pylist()), pa.uint64())
    if features is not None:
        columns["score"] = _scores(root, features, shard, table)
    return pa.table(columns)


def _scores(root: Root, features: str, shard: ShardId, table: pa.Table) -> pa.Array:
    """The scores of rows, null where a picture has none; a retry has those of its first attempt.

    ShardError where a row has no features: a survivor must not change because a file is missing.
    """
    if not table.num_rows:
        return pa.nulls(0, pa.float32())
    folder, name = ("features", features, shard.source), f"{shard.number}.parquet"
    names = [name] if root.exists(*folder, name) else []
    if not names and not pc.any(pc.equal(table["attempt"], 0)).as_py():
        names = root.names(*folder, suffix=".parquet")
    parts = [root.read_table(*folder, name, columns=["uid", "clip_score"]) for name in names]
    if not parts:
        raise ShardError(f"{root.path(*folder, name)}: not there; run `headwater score` with its model first")
    known = pa.concat_tables([part.filter(pc.is_in(part["uid"], table["uid"])) for part in parts]).combine_chunks()
    places = pc.index_in(table["uid"], known["uid"])
    if places.null_count:
        raise ShardError(
            f"{root.path(*folder, name)}: lacks {places.null_count} of the shard's {table.num_rows} pictures; delete "
            "it and run `headwater score` again"
        )
    score = known["clip_score"].take(places).combine_chunks()
    # A score that is no number decides nothing.
    return pc.if_else(pc.is_finite(score), score, None).cast(pa.float32())


def _fill(root: Root, shard: ShardId, facts: Facts, number: int) -> pa.Table:
    """Put the looks of one shard where they belong; returns the columns of them that the table gets."""
    rows = slice(int(facts.start[number]), int(facts.start[number + 1]))
    parts = ("looks", VERSION, shard.source, f"{shard.number}.parquet")
    table = root.read_table(*parts)
    own = facts.table["uid"].slice(rows.start, rows.stop - rows.start).combine_chunks()
    uids = from_hex(table["uid"], root.path(*parts))
    if len(uids) > len(own):
        # What a later attempt has replaced has a look too.
        kept = pc.is_in(uids, own)
        facts.replaced[number] = table["uid"].filter(pc.invert(kept))
        table, uids = table.filter(kept), uids.filter(kept)
    if not uids.equals(own):
        raise ShardError(f"{root.path(*parts)}: was made from another version of its shard; delete it and run again")
    facts.looks[rows] = numbers(table["look"], LOOK).reshape(-1, SIDE, SIDE, 3)
    facts.captions[rows] = numbers(table["minhash"], MINHASH).view("<u4")
    return table.select(_SEEN)


def _embed(root: Root, shard: ShardId, features: str, facts: Facts, number: int, later: Mapping[str, int]) -> None:
    """Put the embeddings of one shard where they belong."""
    assert facts.vectors is not None
    rows = slice(int(facts.start[number]), int(facts.start[number + 1]))
    table = _latest(root, shard, ["uid", "attempt"], later)
    table = table.append_column("image_embedding", read_embeddings(root, features, shard, table))
    facts.vectors[rows] = unit_vectors(table, facts.vectors.shape[1], f"features/{features}/{shard}")


def unit_vectors(table: pa.Table, width: int, where: str) -> npt.NDArray[np.float32]:
    """The column image_embedding float32 [N, `width`], zeros where null; ShardError for a length other than 1."""
    try:
        found, present = vectors(table, width)
    except InputError as error:
        raise ShardError(f"{where}: {error}; delete it and run `headwater score` again") from error
    length = np.linalg.norm(found, axis=1)
    if bad := int((np.abs(length - 1) > _LENGTH).sum()):
        raise ShardError(
            f"{where}: image_embedding: {bad} of {len(table)} rows have a length other than 1; delete it and run "
            "`headwater score` again"
        )
    filled = np.zeros((len(table), width), np.float32)
    filled[present] = found
    return filled
