"""The rows of a mixture as files: groups of a fixed size, their digest, DataComp's list of uids, and the parquet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import SchemaError
from pipelines.store.schema import MANIFEST

FILE = "manifest.parquet"
UIDS = "uids.npy"
ROW_GROUP = 65536
Pairs = npt.NDArray[np.void]


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of 65,536, the last of what is left, each in one piece.

    How DuckDB cuts its answer depends on the number of threads; what a parquet file is cut by must not.
    """
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP:
            table = pa.Table.from_batches(waiting)
            whole = rows - rows % ROW_GROUP
            for start in range(0, whole, ROW_GROUP):
                yield table.slice(start, ROW_GROUP).combine_chunks()
            waiting, rows = table.slice(whole).to_batches(), rows - whole
    if rows:
        yield pa.Table.from_batches(waiting).combine_chunks()


@dataclass(slots=True)
class Content:
    """What is in a manifest, gathered group by group: rows by source, digest, uids."""

    counts: dict[str, int] = field(default_factory=dict)
    _digest: Any = field(default_factory=hashlib.sha256)
    _pairs: list[npt.NDArray[np.uint64]] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Take in the next rows."""
        for count in pc.value_counts(rows["source"]).to_pylist():
            self.counts[count["values"]] = self.counts.get(count["values"], 0) + count["counts"]
        self._digest.update(_lines(rows))
        self._pairs.append(_halves(rows["uid"]))

    @property
    def digest(self) -> str:
        """SHA-256 over the rows' identity, repetition and caption: independent of file format and versions."""
        return str(self._digest.hexdigest())

    @property
    def pairs(self) -> Pairs:
        """DataComp's subset format: sorted (high, low) halves of each uid, repeats as duplicates."""
        return _sorted(np.concatenate(self._pairs or [np.empty((0, 2), np.uint64)]))


def content(groups: Iterable[pa.Table]) -> Content:
    """What is in these rows."""
    found = Content()
    for group in groups:
        found.add(group)
    return found


def write(groups: Iterable[pa.Table], file: IO[bytes] | None, metadata: Mapping[str, str]) -> tuple[Content, str]:
    """Write a manifest, or only find out what would be written; its content, and SHA-256 of its bytes."""
    schema = MANIFEST.arrow.with_metadata({**MANIFEST.arrow.metadata, **metadata})
    hashing, found = _Hashing(file), Content()
    # Dictionaries of what is different in each row are given up after a megabyte, at a cost.
    writer = pq.ParquetWriter(hashing, schema, compression="zstd", use_dictionary=["source", "shard"])
    with writer:
        for group in groups:
            found.add(group)
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)
    return found, hashing.digest.hexdigest()


def content_digest(manifest: pa.Table) -> str:
    """The digest of a whole manifest."""
    return content([manifest]).digest


def uid_pairs(uids: pa.ChunkedArray) -> Pairs:
    """DataComp's subset format of these uids."""
    return _sorted(_halves(uids))


class _Hashing(io.RawIOBase):
    """A file that is only written to, and hashes what goes through; without one beneath it, nothing else."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        if self._file is not None:
            self._file.write(data)
        return len(memoryview(data).cast("B"))


def _lines(rows: pa.Table) -> memoryview:
    """A line for each row: uid, repeat, source and caption with \\x1f between, as one run of bytes."""
    columns = [rows[name].cast(pa.large_string()) for name in ("uid", "repeat", "source", "caption")]
    null = {"null_handling": "replace", "null_replacement": "None"}
    joined = pc.binary_join_element_wise(*columns, pa.scalar("\x1f", pa.large_string()), **null)
    ended = pc.binary_join_element_wise(joined, pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string()))
    return memoryview(b"".join(_bytes(chunk) for chunk in ended.chunks))


def _bytes(texts: pa.Array) -> memoryview:
    """The bytes of all texts of a large_string array, one after the other."""
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]


def _halves(uids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """High and low 64 bits of each uid, [N, 2]; SchemaError where one is not 32 hex characters."""
    if len(uids) == 0:
        return np.empty((0, 2), np.uint64)
    lengths = pc.min_max(pc.binary_length(uids)).as_py()
    texts = b"".join(_bytes(chunk) for chunk in uids.cast(pa.large_string()).chunks)
    try:
        # Blanks would be skipped; a length that is right with one is wrong without.
        numbers = np.frombuffer(bytes.fromhex(texts.decode("ascii")), ">u8")
    except ValueError as error:
        raise SchemaError(f"manifest: a uid is not 32 hex characters ({error})") from error
    if (lengths["min"], lengths["max"], len(numbers)) != (32, 32, 2 * len(uids)):
        raise SchemaError("manifest: a uid is not 32 hex characters")
    return numbers.astype(np.uint64).reshape(-1, 2)


def _sorted(halves: npt.NDArray[np.uint64]) -> Pairs:
    """The pairs in order of both halves."""
    high, low = halves[:, 0], halves[:, 1]
    order = np.argsort(high)
    high, low = high[order], low[order]
    # The high halves decide but for repeats and chance; a sort by both takes several times as long.
    same = np.flatnonzero(high[1:] == high[:-1])
    tied = np.union1d(same, same + 1)
    low[tied] = low[tied][np.lexsort((low[tied], high[tied]))]
    pairs = np.empty(len(high), np.dtype("u8,u8"))
    pairs["f0"], pairs["f1"] = high, low
    return pairs
