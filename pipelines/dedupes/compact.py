"""Texts of hexadecimal digits as bytes and back, column by column; large arrays that need not fit into memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import HeadwaterError, ShardError

Number = TypeVar("Number", bound=np.generic)

# 128 bits: of uids and pixel hashes all there are, of SHA-256 enough that no two pictures meet by chance.
KEY = pa.binary(16)
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUES = np.full(256, 255, np.uint8)
_VALUES[_DIGITS] = _VALUES[np.frombuffer(b"0123456789ABCDEF", np.uint8)] = np.arange(16)


def from_hex(column: pa.ChunkedArray, where: str) -> pa.FixedSizeBinaryArray:
    """The first 128 bits of texts of at least 32 hexadecimal digits, null for null; ShardError naming `where`."""
    array = column.combine_chunks()
    if not len(array):
        return pa.array([], KEY)
    start = pc.utf8_slice_codeunits(array.fill_null("0" * 32), 0, 32)
    if pc.any(pc.not_equal(pc.binary_length(start), 32)).as_py():
        raise ShardError(f"{where}: holds a value that is not 32 hexadecimal digits or more")
    digits = _VALUES[np.frombuffer(start.buffers()[2], np.uint8)[: 32 * len(array)]].reshape(-1, 16, 2)
    if (digits > 15).any():
        raise ShardError(f"{where}: holds a value that is not 32 hexadecimal digits or more")
    data = (digits[:, :, 0] << 4 | digits[:, :, 1]).astype(np.uint8).tobytes()
    known = pc.is_valid(array).buffers()[1] if array.null_count else None
    return pa.FixedSizeBinaryArray.from_buffers(KEY, len(array), [known, pa.py_buffer(data)])


def to_hex(array: pa.FixedSizeBinaryArray) -> pa.Array:
    """Values of 128 bits as texts of 32 hexadecimal digits, null for null."""
    whole = array.fill_null(bytes(16))
    raw = np.frombuffer(whole.buffers()[1], np.uint8)
    raw = raw[whole.offset * 16 :][: len(array) * 16].reshape(-1, 16)
    digits = np.stack([_DIGITS[raw >> 4], _DIGITS[raw & 15]], axis=2)
    width = pa.binary(32)
    texts = pa.FixedSizeBinaryArray.from_buffers(width, len(array), [None, pa.py_buffer(digits.tobytes())])
    named: pa.Array = pc.if_else(array.is_valid(), texts.cast(pa.binary()).cast(pa.string()), None)
    return named


def numbers(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """A column of fixed-size bytes without nulls as uint8 [N, `width`]."""
    chunks = [np.empty((0, width), np.uint8)]
    for chunk in column.chunks:
        raw = np.frombuffer(chunk.buffers()[1], np.uint8)
        chunks.append(raw[chunk.offset * width :][: len(chunk) * width].reshape(-1, width))
    return np.concatenate(chunks)


def spacious(shape: tuple[int, ...], dtype: type[Number]) -> npt.NDArray[Number]:
    """An array of zeros over a temporary file: it may be larger than memory, and goes with the process.

    HeadwaterError where the folder of temporary files has no room for it.
    """
    size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    with tempfile.TemporaryFile() as file:
        try:
            # All of it now: a mapped file that finds the disk full later ends the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise HeadwaterError(
                f"{tempfile.gettempdir()}: no room for {size:,} bytes ({error.strerror}); set TMPDIR to a larger one"
            ) from error
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype, math.prod(shape)).reshape(shape)
