"""Samples that were taken down: the record of them, and what is left of their rows.

    removals/<day>-<digest>.parquet   uid, reason, day, who asked: one file a removal, never changed
    removals/applied.json             which of them have reached every file, and which were compacted

A removal is recorded first and applied then. Until it is applied everywhere no catalog is built, and until the
catalog knows of it no mixture is drawn, so that a job that was killed in between lets nothing through.

A removed row stays, as `skipped` with the reason `removed` and without what it said: every row is accounted for, and
a retry does not take it up. Files keep their fingerprints: they say what a file was made from, the rows of the others
are what they were, and nothing has to be scored, signalled or downloaded again.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import InputError
from pipelines.store.fingerprint import fingerprint
from pipelines.store.reasons import REASONS, status_of
from pipelines.store.root import Root
from pipelines.store.schema import REMOVALS

FOLDER = "removals"
STATE = "applied.json"
MARK = "removals"  # in a catalog's `catalog_info`: the digest of the removals that it knows of
REASON = "removed"
# What a removed row still says: who it is and where it stands, nothing of what it was.
_KEPT = frozenset(
    {"uid", "uid_lo", "source", "key", "attempt", "caption_recipe", "file", "line", "shard", "duplicate_row_of"}
)
_SAID = {"reason": REASON, "status": str(status_of(REASON)), "error_message": REASONS[REASON][1]}


def digest(root: Root) -> str:
    """Digest of all recorded removals; empty where there are none."""
    names = root.names(FOLDER, suffix=".parquet")
    return fingerprint(names) if names else ""


def read(root: Root) -> pa.Table:
    """All recorded removals (schema REMOVALS)."""
    tables = [root.read_table(FOLDER, name) for name in root.names(FOLDER, suffix=".parquet")]
    return pa.concat_tables([REMOVALS.arrow.empty_table(), *map(REMOVALS.conform, tables)])


def uids(root: Root) -> pa.Array:
    """The uids of all recorded removals."""
    return read(root)["uid"].combine_chunks()


def applied(root: Root) -> str:
    """Digest of the removals, of which every one was applied; InputError where one was not."""
    found = digest(root)
    if found and state(root).get("applied") != found:
        raise InputError(
            f"{root.path(FOLDER)}: a removal has not come to its end; run `headwater remove --root {root.url}`"
        )
    return found


def state(root: Root) -> dict[str, str]:
    """What was last `applied` and `compacted`, as digests; empty where nothing was."""
    return dict(root.read_json(FOLDER, STATE)) if root.exists(FOLDER, STATE) else {}


def check_catalog(root: Root, con: duckdb.DuckDBPyConnection) -> None:
    """InputError where the catalog may still show a removed sample."""
    if not (found := applied(root)):
        return
    known = con.execute("SELECT value FROM catalog_info WHERE name = ?", [MARK]).fetchall()
    if known != [(found,)]:
        raise InputError(
            f"{root.path(FOLDER)}: the catalog is older than the last removal; run "
            f"`headwater index --root {root.url}`"
        )


def hits(table: pa.Table, gone: pa.Array) -> pa.Array:
    """Which rows of a table with uids are `gone`: those, and the records that only repeat one of them."""
    found = pc.is_in(table["uid"], gone)
    if "duplicate_row_of" in table.column_names:
        found = pc.or_(
            found, pc.and_(table["duplicate_row_of"].is_valid(), pc.is_in(table["duplicate_row_of"], gone))
        )
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def withheld(table: pa.Table, gone: pa.Array) -> pa.Table:
    """`table` without what the rows said that are `gone`; one that has no reasons, as a sidecar, loses the rows."""
    if not len(gone) or not pc.any(found := hits(table, gone)).as_py():
        return table
    if "reason" not in table.column_names:
        return table.filter(pc.invert(found))
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.name not in _KEPT:
            said = pa.scalar(_SAID.get(field.name), field.type)
            # Not `if_else`: it knows no maps.
            column = _replaced(column.combine_chunks(), found, said)
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def _replaced(column: pa.Array, where: pa.Array, value: pa.Scalar) -> pa.Array:
    """The column with `value` in the rows `where`."""
    places = np.arange(len(column))
    places[np.asarray(where)] = len(column)
    return pa.concat_arrays([column, pa.repeat(value, 1)]).take(pa.array(places))


def count_in(root: Root, mixture: str, gone: pa.Array) -> int:
    """How many uids of a mixture, as it was drawn, are `gone`; InputError where they cannot be read."""
    if not len(gone):
        return 0
    try:
        with root.reading("mixes", mixture, "uids.npy") as file:
            pairs = np.unique(np.load(file))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{root.path('mixes', mixture)}: uids.npy cannot be read ({error}); draw it again"
        ) from error
    wanted = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in gone.to_pylist()], pairs.dtype)
    likely = pairs[np.isin(pairs["f1"], wanted["f1"])]
    return len(set(likely.tolist()) & set(wanted.tolist()))


def record(root: Root, found: Sequence[str], reason: str, asked_by: str) -> None:
    """Publish one removal, of these uids."""
    day = datetime.datetime.now(datetime.UTC).date()
    rows = [{"uid": uid, "reason": reason, "day": day, "asked_by": asked_by} for uid in sorted(found)]
    mark = fingerprint(sorted(found), reason, asked_by)
    root.write_table(pa.Table.from_pylist(rows, REMOVALS.arrow), FOLDER, f"{day}-{mark}.parquet")
