"""Which pairs to attribute: samples of a data root by uid or by a condition, or a folder's pictures with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from filters.errors import ConfigError, InputError
from pipelines.expression import bind
from pipelines.store.catalog import connect, explain_error
from pipelines.store.presets import literal
from pipelines.store.root import Root
from pipelines.store.shards import read_images

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_COLUMNS = 'uid, source::VARCHAR AS source, shard::VARCHAR AS shard, "offset", size, caption'
_LEAST = 4  # characters of a uid


class Pair(NamedTuple):
    """A picture and its caption: `name` is the sample's uid or the file's name without its ending.

    The picture is the file `path`, or lies at `offset` in a shard's tar.
    """

    name: str
    title: str
    caption: str
    path: str | None = None
    source: str = ""
    shard: str = ""
    offset: int = 0
    size: int = 0


def find_pairs(root: Root, uids: Sequence[str], where: str | None, folder: str | None, limit: int) -> list[Pair]:
    """At most `limit` pairs, in the order of their names.

    ConfigError unless pairs are chosen in one way; InputError for uids, conditions and folders that give none.
    """
    if folder is not None:
        if uids or where is not None:
            raise ConfigError("--folder takes the place of a data root's samples; leave out --uids and --where")
        return _of_folder(Path(folder), limit)
    if not uids and where is None:
        raise ConfigError("which pairs? give --uids, --where with a condition over samples, or --folder")
    with connect(root) as con:
        conditions = [bind(con, where, "BOOLEAN", "where")] if where is not None else []
        if uids:
            named = _named(con, uids)
            conditions.append(f"uid IN ({', '.join(map(literal, named))})")
        rows = _asked(con, conditions, limit)
    if not rows:
        raise InputError(f"no downloaded pair with a caption holds {where!r}; try it with `headwater sql`")
    return [
        Pair(row["uid"], f"{row['source']}  {row['uid'][:8]}", row["caption"], None, row["source"], row["shard"],
             row["offset"], row["size"])
        for row in rows
    ]  # fmt: skip


def _asked(con: duckdb.DuckDBPyConnection, conditions: Sequence[str], limit: int) -> list[dict[str, Any]]:
    rule = " AND ".join(["status = 'success'", "caption IS NOT NULL", *conditions])
    try:
        answer = con.sql(f"SELECT {_COLUMNS} FROM samples WHERE {rule} ORDER BY uid LIMIT {limit}")
        return list(answer.to_arrow_table().to_pylist())
    except duckdb.Error as error:
        raise ConfigError(f"where: {explain_error(error, con)}") from error


def _named(con: duckdb.DuckDBPyConnection, uids: Sequence[str]) -> list[str]:
    """The whole uids; InputError for one that is not there, is not the only one, or has no pair."""
    found = []
    for uid in uids:
        if len(uid) < _LEAST:
            raise InputError(f"uid {uid!r} is too short; give its first characters, {_LEAST} or more")
        rows = con.execute(
            "SELECT uid, status::VARCHAR, reason::VARCHAR, caption FROM samples WHERE starts_with(uid, ?) LIMIT 2",
            [uid],
        ).fetchall()
        if len(rows) != 1:
            raise InputError(f"{'several samples begin' if rows else 'no sample begins'} with uid {uid!r}")
        [(whole, status, reason, caption)] = rows
        if status != "success" or caption is None:
            why = f"{status} ({reason})" if status != "success" else "no caption"
            raise InputError(f"uid {whole} is no pair of picture and caption: {why}")
        found.append(str(whole))
    return found


def _of_folder(folder: Path, limit: int) -> list[Pair]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one of pictures with their captions")
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS and p.is_file())
    if not pictures:
        raise InputError(f"{folder}: holds no pictures ({', '.join(_ENDINGS)})")
    found: dict[str, Pair] = {}
    for path in pictures[:limit]:
        text = path.with_suffix(".txt")
        if path.stem in found:
            raise InputError(f"{path}: another picture of this folder has the same name; rename one of them")
        if not text.is_file():
            raise InputError(f"{text}: no such file; the caption of {path.name} is expected there")
        try:
            caption = " ".join(text.read_text(encoding="utf-8").split())
        except UnicodeDecodeError as error:
            raise InputError(f"{text} is not UTF-8: {error.reason} at byte {error.start}") from error
        if not caption:
            raise InputError(f"{text}: is empty; write the caption of {path.name} there")
        found[path.stem] = Pair(path.stem, path.name, caption, str(path))
    return list(found.values())


def read_pictures(root: Root, pairs: Sequence[Pair]) -> list[bytes]:
    """The pairs' encoded pictures."""
    if pairs and pairs[0].path is not None:
        return [Path(str(pair.path)).read_bytes() for pair in pairs]
    names = ("source", "shard", "offset", "size")
    return read_images(root, pa.table({name: [getattr(pair, name) for pair in pairs] for name in names}))
