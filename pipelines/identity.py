"""Who a record is: uids, many at a time, as pairs of 64-bit numbers and as text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]

# The columns that `identified` adds: a uid in two halves and, for a row that repeats another, that one's.
IDENTITY = pa.schema([(name, pa.uint64()) for name in ("uid_hi", "uid_lo", "first_hi", "first_lo")])
_SEPARATOR = "\x1f"


def uid_of(source: str, native_id: str, url: str, fields: Iterable[str]) -> str:
    """Identity of a sample: the first 128 bits of SHA-256 over its parts as read, as 32 hex characters."""
    text = _SEPARATOR.join([source, native_id, url, *fields])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def identified(raw: pa.Table, source: str) -> pa.Table:
    """A RAW table with the columns of IDENTITY before its own: `uid_of` each row, or the uid that it declares."""
    rows = raw.combine_chunks()
    empty = pa.scalar("")
    fields = rows["caption_raw"].combine_chunks()
    texts = pa.ListArray.from_arrays(fields.offsets, pc.fill_null(fields.items, empty))
    url = pc.fill_null(rows["url"], empty)
    with_texts = pc.binary_join_element_wise(url, pc.binary_join(texts, _SEPARATOR), _SEPARATOR)
    url = pc.if_else(pc.greater(pc.list_value_length(texts), 0), with_texts, url)
    whole = pc.binary_join_element_wise(source, pc.fill_null(rows["native_id"], empty), url, _SEPARATOR)
    return with_identity(rows, _declared(rows["uid_declared"], _hashed(whole)))


def repeated(rows: pa.Table, source: str, first: Words) -> pa.Table:
    """Rows that have another's uid, `first` uint64 [N, 2], with uids of their own: of file and line number."""
    text = pc.binary_join_element_wise(source, rows["file"], rows["line"].cast(pa.string()), _SEPARATOR)
    return with_identity(rows.drop_columns(IDENTITY.names), _hashed(text), first)


def with_identity(rows: pa.Table, uid: Words, first: Words | None = None) -> pa.Table:
    """`rows` behind the columns of IDENTITY, from uint64 [N, 2] arrays of both halves."""
    nulls = pa.nulls(len(rows), pa.uint64())
    halves = [uid[:, 0], uid[:, 1], *(first.T if first is not None else (nulls, nulls))]
    columns = [pa.array(half, pa.uint64()) for half in halves]
    return pa.table([*columns, *rows.columns], schema=pa.schema([*IDENTITY, *rows.schema], rows.schema.metadata))


def uid_text(high: pa.ChunkedArray, low: pa.ChunkedArray) -> pa.Array:
    """Uids as 32 hex characters from their halves; null where a half is null."""
    is_valid = high.is_valid().combine_chunks()
    words = np.column_stack([pc.fill_null(half, 0).to_numpy() for half in (high, low)])
    data = words.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, 32 * len(words) + 1, 32, dtype=np.int32)
    text = pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets), pa.py_buffer(data))
    return pc.if_else(is_valid, text, pa.scalar(None, pa.string()))


def _hashed(texts: pa.ChunkedArray) -> Words:
    digests = [hashlib.sha256(text).digest()[:16] for text in texts.cast(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _declared(column: pa.ChunkedArray, words: Words) -> Words:
    """`words` with those of the uids that the source declares in their rows."""
    if column.null_count < len(column):
        text = "".join(column.drop_null().to_pylist())
        words[column.is_valid().to_numpy()] = np.frombuffer(bytes.fromhex(text), ">u8").reshape(-1, 2)
    return words
