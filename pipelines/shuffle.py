"""Rows of any number in the order of their uids' sampling keys, through a temporary file: an external sort.

Rows come in as they are read and are cut into cells by the top bits of their key. What does not fit in memory goes
to the file, a piece a cell; cells are then read back in order, as many at a time as fit. The keys are uniform, so
cells are of about the same size, and what comes out does not depend on how the rows were cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.errors import HeadwaterError
from filters.sampling import sample_order
from pipelines.identity import IDENTITY, Words, repeated

_CELL_BITS = 10
_CELLS = 1 << _CELL_BITS

# offset in the file, stored bytes, bytes
_Piece = tuple[int, int, int]


@dataclass(slots=True)
class _Cell:
    """Where a cell's rows lie in the file: the columns of IDENTITY, and all the others, in pieces."""

    identity: list[_Piece] = field(default_factory=list)
    others: list[_Piece] = field(default_factory=list)
    bytes: int = 0


class Shuffle:
    """An external sort of identified rows by `sample_order(uid_lo, salt)`, which also finds repeated uids.

    Add tables (all of one schema, IDENTITY first), then take `tables()` once. About four times `limit` bytes are
    held in memory; the file, in `scratch` or the system's temporary folder, has no name and ends with the process.
    """

    def __init__(self, source: str, salt: int, *, limit: int, scratch: str | None = None) -> None:
        self._source, self._salt, self._limit = source, salt, limit
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by __exit__)
        self._end = 0
        self._cells = [_Cell() for _ in range(_CELLS)]
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._schema = pa.schema([])
        self._codec = pa.Codec("lz4")

    def __enter__(self) -> Shuffle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, table: pa.Table) -> None:
        """Take in identified rows; a row that is not a repetition yet is compared with all those before it."""
        self._schema = table.schema
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        if self._pending_bytes > self._limit:
            self._flush()

    def tables(self) -> Iterator[pa.Table]:
        """All rows in their final order; a row whose uid stands earlier in what was read has one of its own."""
        self._flush()
        for cells in self._groups():
            self._move_repetitions(cells)
        self._flush()
        for cells in self._groups():
            identity = self._read(cells, only_identity=True)
            order, is_repeated = self._sorted(identity)
            yield self._read(cells).take(pa.array(order[~is_repeated]))

    def _move_repetitions(self, cells: Sequence[_Cell]) -> None:
        """Give repeated rows their own uids, by which most belong to other cells.

        Those that are given back to a cell still to come are known there as repetitions and left alone.
        """
        identity = self._read(cells, only_identity=True)
        order, is_repeated = self._sorted(identity)
        if is_repeated.any():
            again = order[is_repeated]
            rows = self._read(cells).take(pa.array(again))
            self.add(repeated(rows, self._source, _words(identity)[again]))

    def _sorted(self, identity: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The places of rows in final order, and which of them repeat the uid of the row before."""
        words = _words(identity)
        is_settled = identity["first_lo"].is_valid().to_numpy()
        order = np.lexsort((is_settled, words[:, 0], sample_order(words[:, 1], self._salt)))
        same = (words[order[1:]] == words[order[:-1]]).all(axis=1) & ~is_settled[order[1:]]
        return order, np.concatenate([[False], same])[: len(order)]

    def _groups(self) -> list[list[_Cell]]:
        """Consecutive cells with rows, as many at a time as are within the limit."""
        groups: list[list[_Cell]] = []
        size = 0
        for cell in self._cells:
            if cell.bytes and groups and size + cell.bytes <= self._limit:
                groups[-1].append(cell)
                size += cell.bytes
            elif cell.bytes:
                groups.append([cell])
                size = cell.bytes
        return groups

    def _flush(self) -> None:
        """Write what is pending, a piece a cell; rows of a cell stay in the order in which they came."""
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending, self._pending_bytes = [], 0
        keys = sample_order(table["uid_lo"].to_numpy(), self._salt) >> np.uint64(64 - _CELL_BITS)
        cell_of = keys.astype(np.uint16)
        table = table.take(pa.array(np.argsort(cell_of, kind="stable"))).combine_chunks()
        ends = np.cumsum(np.bincount(cell_of, minlength=_CELLS)).tolist()
        others = table.drop_columns(IDENTITY.names)
        identity = table.select(IDENTITY.names)
        try:
            start = 0
            for cell, end in zip(self._cells, ends, strict=True):
                if end > start:
                    cell.identity.append(self._write(identity.slice(start, end - start)))
                    cell.others.append(self._write(others.slice(start, end - start)))
                    cell.bytes += cell.identity[-1][2] + cell.others[-1][2]
                start = end
            self._file.flush()
        except OSError as error:
            raise HeadwaterError(f"temporary file: {error.strerror}; name a larger folder with --scratch") from error

    def _write(self, table: pa.Table) -> _Piece:
        (batch,) = table.to_batches()
        data = batch.serialize()
        packed = self._codec.compress(data)
        offset, self._end = self._end, self._end + packed.size
        self._file.write(packed)
        return offset, packed.size, data.size

    def _read(self, cells: Sequence[_Cell], *, only_identity: bool = False) -> pa.Table:
        identity = self._table([piece for cell in cells for piece in cell.identity], self._schema_of(True))
        if only_identity:
            return identity
        others = self._table([piece for cell in cells for piece in cell.others], self._schema_of(False))
        return pa.table([*identity.columns, *others.columns], schema=self._schema)

    def _schema_of(self, is_identity: bool) -> pa.Schema:
        return pa.schema([field for field in self._schema if (field.name in IDENTITY.names) == is_identity])

    def _table(self, pieces: Sequence[_Piece], schema: pa.Schema) -> pa.Table:
        batches = []
        for offset, stored, size in pieces:
            data = self._codec.decompress(os.pread(self._file.fileno(), stored, offset), size)
            batches.append(pa.ipc.read_record_batch(data, schema))
        return pa.Table.from_batches(batches, schema).combine_chunks()


def _words(identity: pa.Table) -> Words:
    return np.column_stack([identity["uid_hi"].to_numpy(), identity["uid_lo"].to_numpy()])
