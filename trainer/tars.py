"""A materialised mixture: its tars are read one after the other, for disks and networks that are slow at random."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import InputError
from trainer.rows import Rows, read_manifest, stored_rows
from trainer.scratch import scratch_folder

ACCOUNTS = ("accounts", "tars")  # beside the manifest, what `headwater materialize` says of each tar's rows
_COLUMNS = ["uid", "repeat", "reason", "offset", "size"]


def open_tars(manifest: Path, scratch: Path | None = None) -> Rows:
    """The rows of a mixture in the tars that `headwater materialize` made of it, in their order.

    Captions and sources are the manifest's, places are those in the tars; rows that could not be read when the tars
    were made are not among them. Raises InputError where there are no tars, or those of another mixture, and what
    `open_rows` raises.
    """
    folder = manifest.parent.joinpath(*ACCOUNTS)
    accounts = sorted(folder.glob("*.parquet"))
    if not accounts:
        raise InputError(f"{folder}: no tars are known; run `headwater materialize` with `--layout mixed` first")
    digest = hashlib.sha256()
    try:
        for path in (manifest, *accounts):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    name = digest.hexdigest()
    return stored_rows(scratch_folder(scratch, name), name, functools.partial(_rows, manifest, accounts))


def _rows(manifest: Path, accounts: list[Path]) -> Iterator[pa.Table]:
    """The rows of each tar: an account has a row for each of the manifest's, in the same order."""
    waiting = pa.table({})
    rest = read_manifest(manifest)
    for path in accounts:
        try:
            account = pq.read_table(path, columns=_COLUMNS)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        while len(waiting) < len(account) and (table := next(rest, None)) is not None:
            waiting = pa.concat_tables([waiting, table]) if len(waiting) else table
        rows, waiting = waiting.slice(0, len(account)), waiting.slice(len(account))
        if not all(rows[name].equals(account[name].cast(rows[name].type)) for name in ("uid", "repeat")):
            raise InputError(f"{path} is of another mixture than {manifest}; run `headwater materialize` again")
        there = pc.equal(account["reason"], "ok")
        for name in ("offset", "size"):
            rows = rows.set_column(rows.column_names.index(name), name, account[name])
        file = pa.array([f"{path.stem}.tar"] * len(rows))
        rows = rows.set_column(rows.column_names.index("file"), "file", file).filter(there)
        if len(rows):
            yield rows.combine_chunks()
