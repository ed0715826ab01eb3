"""The small tables of a catalog: entries, presets, runs, mixtures and removals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from filters.errors import ShardError
from pipelines.store import presets, removals
from pipelines.store.root import Root
from pipelines.store.stages import SCORE, Sidecars

ENTRIES = "entries.txt"  # what `headwater signals` looked for, one a line

_RUNS = pa.schema([
    ("id", pa.string()), ("job", pa.string()), ("started", pa.string()), ("status", pa.string()),
    ("seconds", pa.float64()), ("rows_in", pa.int64()), ("error", pa.string()), ("config", pa.string()),
    ("summary", pa.string()),
])  # fmt: skip
_MIXTURES = pa.schema([
    ("mixture", pa.string()), ("seed", pa.int64()), ("asked", pa.int64()), ("samples", pa.int64()),
    ("digest", pa.string()),
])  # fmt: skip


def load_entries(con: duckdb.DuckDBPyConnection, root: Root, sidecars: Sequence[Sidecars]) -> None:
    """`entries`: the metadata entries that captions were matched to, and how many samples each matched."""
    texts: list[str] = []
    for side in sidecars:
        if side.made_with and root.exists(side.stage.folder, side.made_with, ENTRIES):
            texts = (
                root.read_bytes(side.stage.folder, side.made_with, ENTRIES).decode().removesuffix("\n").split("\n")
            )
    numbered = pa.table({"entry": pa.array(range(len(texts)), pa.int32()), "text": pa.array(texts, pa.string())})
    con.from_arrow(numbered).create("_texts")
    [(highest,)] = con.execute("SELECT max(list_max(entries)) FROM samples").fetchall()
    if highest is not None and highest >= len(texts):
        raise ShardError(
            f"{root.path('signals')}: captions hold entry {highest}, {ENTRIES} ends at {len(texts) - 1}; run "
            "`headwater signals` again"
        )
    con.execute("""
        CREATE TABLE entries AS SELECT entry, text, coalesce(n, 0) AS matches FROM _texts LEFT JOIN
            (SELECT entry, count(*) AS n FROM (SELECT unnest(entries) AS entry FROM samples) GROUP BY entry)
            USING (entry) ORDER BY entry;
        DROP TABLE _texts;
    """)


def load_presets(con: duckdb.DuckDBPyConnection, sidecars: Sequence[Sidecars]) -> None:
    """The presets as macros, and the table `presets` that says what each is and what it still lacks."""
    scores = [column.name for side in sidecars if side.stage is SCORE for _, column in side.columns]
    present = _filled(con, {*scores, *(name for preset in presets.PRESETS for name in preset.needs)})
    for statement in presets.macros(present, sorted(present.intersection(scores))):
        con.execute(statement)
    rows = [
        (preset.name, preset.call, presets.hint(lacking) if lacking else None, preset.meaning, preset.source)
        for preset, lacking in ((preset, presets.lacking(preset, present)) for preset in presets.PRESETS)
    ]
    con.execute("CREATE TABLE presets (preset VARCHAR, call VARCHAR, lacks VARCHAR, meaning VARCHAR, source VARCHAR)")
    con.executemany("INSERT INTO presets VALUES (?, ?, ?, ?, ?)", rows)


def _filled(con: duckdb.DuckDBPyConnection, names: set[str]) -> set[str]:
    """Those of `names` that are columns of `samples` and not all null; all columns where there is no picture."""
    known = [row[0] for row in con.execute("SELECT column_name FROM (DESCRIBE samples)").fetchall()]
    there = {name for name in known if name in names}
    if not con.execute("SELECT 1 FROM samples WHERE status = 'success' LIMIT 1").fetchone():
        return there
    # One question each: it ends with the first row, and extremes tell of columns that have none.
    return {n for n in there if con.execute(f'SELECT 1 FROM samples WHERE "{n}" IS NOT NULL LIMIT 1').fetchone()}


def load_ledger(con: duckdb.DuckDBPyConnection, root: Root, runs: list[dict[str, Any]], names: Sequence[str]) -> None:
    """`runs`, `removals`, and `mixtures` with those that have these `names`."""
    con.from_arrow(pa.Table.from_pylist(runs, _RUNS)).order("id").create("runs")
    locks = [root.read_json("mixes", name, "mix.lock.json") for name in names]
    mixtures = pa.Table.from_pylist(
        [
            {"mixture": n, "seed": lock["config"]["seed"], "asked": lock["asked"], "samples": lock["samples"],
             "digest": lock["digest"]}
            for n, lock in zip(names, locks, strict=True)
        ],
        _MIXTURES,
    )  # fmt: skip
    con.from_arrow(mixtures).create("mixtures")
    con.from_arrow(removals.read(root)).create("removals")
