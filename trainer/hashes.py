"""Whether the bytes of a picture are those that were stored: as far as anybody wrote that down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import InputError, ShardError
from filters.sampling import sample_order
from trainer.rows import Places, Rows
from trainer.scratch import made
from trainer.sorting import new_map, read_map, row_type, runs, write_sorted

HEADER = 512  # bytes of a tar's header, right before the picture
_DIGEST = np.dtype("V32")
_UNKNOWN = bytes(32)
# `sha256` is of the bytes that were downloaded. They are the stored ones of a picture that kept its length and its
# size in pixels; one that was encoded anew keeps both by rare chance only, and would then be taken for a wrong one.
_AS_IT_CAME = (("size", "original_bytes"), ("width", "original_width"), ("height", "original_height"))
_COLUMNS = ["offset", "sha256", *(name for pair in _AS_IT_CAME for name in pair)]


class Hashes:
    """The SHA-256 of those rows' pictures whose stored bytes are the downloaded ones; `known` are so many.

    Of a picture that was encoded anew no hash of the stored bytes was ever recorded: of these, and of all others,
    the tar's header before the picture is compared, which tells a shard that was made anew or overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.known: int = json.loads((folder / "about.json").read_text(encoding="utf-8"))["known"]
        self._digests = read_map(folder / "sha256", _DIGEST)

    @staticmethod
    def with_header(places: Places) -> Places:
        """The places of pictures with their headers."""
        wider = places.copy()
        wider["offset"] -= HEADER
        wider["size"] += HEADER
        return wider

    def check(self, row: int, data: bytes) -> bytes:
        """The picture in `data`, which is a header and a picture; InputError where they are not those of the row."""
        header, picture = data[:HEADER], data[HEADER:]
        if _size_in(header) != len(picture):
            raise InputError("hash check: the tar's header is not of this picture; build the mixture again")
        expected = self._digests[row].tobytes()
        if expected not in (_UNKNOWN, hashlib.sha256(picture).digest()):
            raise InputError("hash check: the SHA-256 is not the recorded one; download the shard again")
        return picture


def open_hashes(rows: Rows, root: str | Path) -> Hashes:
    """The hashes of a mixture's rows, from the parquet beside each of its shards; read once and kept beside `rows`.

    Raises ShardError for a shard whose parquet cannot be read, or does not know the pictures of the mixture.
    """
    path = rows.folder / "hashes"
    return Hashes(made(path, lambda folder: _write(folder, rows, root), lambda folder: _is_whole(folder, len(rows))))


def _is_whole(folder: Path, count: int) -> bool:
    files = folder / "about.json", folder / "sha256"
    return all(file.is_file() for file in files) and files[1].stat().st_size == count * _DIGEST.itemsize


def _write(folder: Path, rows: Rows, root: str | Path) -> None:
    """One pass over the shards: rows are sorted by shard, so that each parquet is read once."""
    folder.mkdir()
    file_of, offset_of = rows.places["file"], rows.places["offset"]
    system, base = fsspec.core.url_to_fs(str(root))
    aside = folder / "by_file"
    write_sorted(aside, len(rows), lambda start, stop: sample_order(file_of[start:stop].astype(np.uint64), 0))
    digests, known = new_map(folder / "sha256", _DIGEST, len(rows)), 0
    for part, firsts in runs(read_map(aside, row_type(len(rows))), lambda numbers: file_of[numbers]):
        for mine in np.split(part, firsts[1:]):
            path = f"{base}/{rows.files[file_of[mine[0]]].removesuffix('.tar')}.parquet"
            offsets, hashes = _recorded(system, path)
            found = np.searchsorted(offsets, offset_of[mine])
            if not np.array_equal(offsets[np.minimum(found, len(offsets) - 1)], offset_of[mine]):
                raise ShardError(f"{path} is not of the shard that the mixture was built from; rebuild the mixture")
            digests[mine] = hashes[found]
            known += int((hashes[found] != np.void(_UNKNOWN)).sum())
    aside.unlink()
    (folder / "about.json").write_text(json.dumps({"known": known}), encoding="utf-8")


def _recorded(system: Any, path: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]:
    """The offsets of a shard's pictures, ascending, and the hash of each, zeros where there is none of its bytes."""
    try:
        with system.open(path, "rb") as file:
            table = pq.read_table(file, columns=_COLUMNS, use_threads=False)
    except (OSError, pa.ArrowException, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise ShardError(f"{path} has no hashes to compare ({why}); set `check_hashes: false`") from error
    table = table.filter(pc.is_valid(table["offset"])).sort_by("offset")
    as_it_came = pc.is_valid(table["sha256"])
    for one, other in _AS_IT_CAME:
        as_it_came = pc.and_(as_it_came, pc.fill_null(pc.equal(table[one], table[other]), False))
    texts = pc.if_else(as_it_came, table["sha256"], _UNKNOWN.hex()).to_pylist()
    return table["offset"].to_numpy(), np.frombuffer(bytes.fromhex("".join(texts)), _DIGEST)


def _size_in(header: bytes) -> int | None:
    """The size that a tar's header announces; None for what is no header."""
    try:
        return int(header[124:136].strip(b"\0 "), 8)
    except ValueError:
        return None
