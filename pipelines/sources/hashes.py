"""Hashes of pictures that are listed beside a dump, by address: CC12M's `cc_hashes/cc12m.tsv.gz` and the like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from filters.errors import SchemaError
from pipelines.sources.files import named_files
from pipelines.sources.quoted import text_lines
from pipelines.sources.rows import Lines, declared_hash, raw_rows, tab_separated

_BYTES = {"sha256:": 32, "md5:": 16}


class Hashes:
    """What the pictures at many addresses hash to; 40 bytes of memory an address, twice that while read.

    `files` are tab separated: an address, then SHA-256 or MD5 or both, in hex. An address is known by 64 bits of its
    hash: of ten million, about one in 10**12 is taken for another.
    """

    def __init__(self, files: Sequence[str]) -> None:
        keys, digests = [], []
        self._kind = ""
        for urls, hashes in _listed(files):
            self._kind = self._kind or hashes[0].as_py().partition(":")[0] + ":"
            of_kind = pc.starts_with(hashes, self._kind)
            text = "".join(pc.replace_substring(hashes.filter(of_kind), self._kind, "").to_pylist())
            keys.append(_keys(urls.filter(of_kind)))
            digests.append(np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, _BYTES[self._kind]))
        if not keys:
            raise SchemaError(f"{files[0]}: has no line with an address and its SHA-256 or MD5, separated by tabs")
        self._keys = np.concatenate(keys)
        order = np.argsort(self._keys, kind="stable")
        self._keys = self._keys[order]
        self._digests = np.concatenate(digests)[order]

    def declare(self, raw: pa.Table) -> pa.Table:
        """A RAW table with `hash_declared` for the rows that have none and whose address is listed."""
        keys = _keys(raw["url"])
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        digest = self._digests[place]
        width = 2 * digest.shape[1]
        offsets = np.arange(0, width * len(raw) + 1, width, dtype=np.int32)
        hexed = pa.StringArray.from_buffers(
            len(raw), pa.py_buffer(offsets), pa.py_buffer(digest.tobytes().hex().encode())
        )
        listed = pc.binary_join_element_wise(self._kind, hexed, "")
        found = pc.if_else(pa.array(self._keys[place] == keys), listed, pa.scalar(None, pa.string()))
        column = raw.schema.get_field_index("hash_declared")
        return raw.set_column(column, raw.schema.field(column), pc.coalesce(raw["hash_declared"], found))


def _keys(urls: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    texts = pc.fill_null(urls, "").cast(pa.binary()).to_pylist()
    return np.array([xxhash.xxh3_64_intdigest(text) for text in texts], np.uint64)


def _listed(files: Sequence[str]) -> Iterator[tuple[pa.ChunkedArray, pa.ChunkedArray]]:
    """Addresses and their hashes, some at a time."""
    for name, file in named_files(files):
        width = max(2, next(text_lines(file), "").count("\t") + 1)
        for table in tab_separated(file, name, width, _rows):
            rows = table.filter(table["hash_declared"].is_valid())
            if len(rows):
                yield rows["url"], rows["hash_declared"]


def _rows(name: str, line: Lines, columns: list[pa.Array]) -> pa.Table:
    return raw_rows(name, line, columns[0], {}, hash_declared=declared_hash(*columns[1:]))
