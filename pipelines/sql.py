"""Questions to the catalog: free SQL, what its columns mean, one sample's history, the difference of two mixtures.

headwater sql --root data "SELECT source, status, count(*) FROM samples GROUP BY ALL"
headwater sql --root data "SELECT count(*) FROM samples WHERE datacomp_basic(samples)"
headwater explain --root data UID
headwater schema --root data samples
headwater mix-diff --root data even filtered
"""

from __future__ import annotations

import argparse
import difflib
import io
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from filters.errors import ConfigError, HeadwaterError, InputError
from pipelines.job import say, told
from pipelines.lock import FILE, locked_cuts
from pipelines.mixture import MixConfig
from pipelines.rules import find_rules
from pipelines.store import catalog
from pipelines.store.presets import PRESETS, literal
from pipelines.store.root import Root
from pipelines.store.stages import STAGES, stage_of
from pipelines.store.store_errors import answering

_MAX_CELL = 60
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_ABOUT = {
    "sql": "Answer one SELECT from the catalog; `FROM presets` lists the published filters and what each lacks.",
    "schema": "Print the columns of the catalog's tables and views, or of one, with type, meaning and unit.",
    "explain": "Print one sample's history as JSON: row, download, what each stage found, presets, mixtures.",
    "mix-diff": "Count by source what entered and left between two mixtures.",
}


def query(con: duckdb.DuckDBPyConnection, text: str) -> pa.Table:
    """The answer to one SQL statement; ConfigError in one line for what DuckDB does not accept."""
    try:
        statements = con.extract_statements(text)
        if len(statements) != 1:
            raise ConfigError("expected one statement, for example: SELECT count(*) FROM samples")
        if statements[0].type not in _READING:
            raise ConfigError("the catalog is read-only; ask with SELECT, DESCRIBE, SUMMARIZE or EXPLAIN")
        answer = con.sql(text)
        if answer is None:
            raise ConfigError("this statement has no answer to show; ask with SELECT")
        return answer.to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(catalog.explain_error(error, con)) from error


def schema(con: duckdb.DuckDBPyConnection, name: str | None) -> pa.Table:
    """Table, column, type and meaning of every column, or of those of the table or view `name`."""
    known = [row[0] for row in con.execute('SELECT DISTINCT "table" FROM columns ORDER BY ALL').fetchall()]
    if name is not None and name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise InputError(f"the catalog has no table {name!r}; there is {', '.join(close or known)}")
    rows = con.sql('FROM columns WHERE coalesce("table" = ?, true)', params=[name]).to_arrow_table()
    return rows if name is None else rows.drop(["table"])


def explain(
    con: duckdb.DuckDBPyConnection, uid: str, locks: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """One sample's history: source row, download, what each stage found, presets, each mixture it is in or not.

    `locks` are the mixtures' lock files by name, whose rules say why it is not.
    """
    rows = (
        con.sql("SELECT * FROM samples WHERE starts_with(uid, ?) LIMIT 2", params=[uid]).to_arrow_table().to_pylist()
    )
    if len(rows) != 1:
        count = "several samples begin" if rows else "no sample begins"
        raise InputError(f"{count} with uid {uid!r}; give the whole uid")
    sample = rows[0]
    attempts = con.sql(
        "SELECT attempt, shard, status, reason FROM attempts WHERE uid = ? ORDER BY attempt", params=[sample["uid"]]
    ).to_arrow_table()
    mixtures = con.execute(
        """SELECT mixture, count(s.uid) AS uses FROM mixtures m
           LEFT JOIN (FROM mixture_samples WHERE uid = ?) s USING (mixture) GROUP BY mixture ORDER BY mixture""",
        [sample["uid"]],
    ).fetchall()
    found: dict[str, dict[str, Any]] = {"sample": {}, **{stage.folder: {} for stage in STAGES}}
    for name, value in sample.items():
        if value is not None:
            stage = stage_of(name)
            found[stage.folder if stage else "sample"][name] = value
    return {
        **found,
        "presets": _presets(con, sample["uid"]),
        "attempts": attempts.to_pylist(),
        "mixtures": {
            name: f"in, used {uses} time{'s' * (uses > 1)}" if uses else why_out(con, sample, (locks or {}).get(name))
            for name, uses in mixtures
        },
    }


def _presets(con: duckdb.DuckDBPyConnection, uid: str) -> dict[str, bool | str]:
    """Which presets hold for a sample, and what some lack; only of those that look at nothing but its row."""
    alone = [preset for preset in PRESETS if preset.parameters == "s"]
    lacks = dict(con.execute("SELECT preset, lacks FROM presets").fetchall())
    calls = [preset.call if lacks[preset.name] is None else f"'{lacks[preset.name]}'" for preset in alone]
    [values] = con.execute(f"SELECT {', '.join(calls)} FROM samples WHERE uid = ?", [uid]).fetchall()
    return dict(zip((preset.name for preset in alone), values, strict=True))


def mix_diff(con: duckdb.DuckDBPyConnection, old: str, new: str) -> pa.Table:
    """How many samples entered and left between two mixtures, by source."""
    known = [row[0] for row in con.execute("SELECT mixture FROM mixtures").fetchall()]
    for name in (old, new):
        if name not in known:
            raise InputError(
                f"mixture {name!r} is not in the catalog; there is {', '.join(known) or 'none'}; "
                "run `headwater index` after `headwater mix`"
            )
    return con.sql(
        """WITH a AS (SELECT DISTINCT uid, source FROM mixture_samples WHERE mixture = ?),
                b AS (SELECT DISTINCT uid, source FROM mixture_samples WHERE mixture = ?)
           SELECT coalesce(a.source, b.source)::VARCHAR AS source, count(a.uid) FILTER (b.uid IS NULL) AS left_out,
                  count(b.uid) FILTER (a.uid IS NULL) AS entered, count(a.uid) FILTER (b.uid IS NOT NULL) AS in_both
           FROM a FULL JOIN b ON a.uid = b.uid GROUP BY 1 ORDER BY 1""",
        params=[old, new],
    ).to_arrow_table()


def why_out(con: duckdb.DuckDBPyConnection, sample: Mapping[str, Any], lock: Mapping[str, Any] | None) -> str:
    """The first of a mixture's own rules, as its lock file has them, that keeps a sample out."""
    if lock is None:
        return "out: its lock file is not there, which would say why"
    try:
        mix = MixConfig.model_validate(lock["config"])
        source = next((s for s in mix.sources if s.source == sample["source"]), None)
        if source is None:
            return "out: not of its sources"
        rules = find_rules(con, mix, locked_cuts(lock)).of(source)
    except (HeadwaterError, ValidationError, KeyError) as error:
        return f"out: its rules cannot be tried on this catalog ({str(error).splitlines()[0]})"
    tried = ", ".join(f"({rule})::BOOLEAN IS TRUE" for _, rule in rules)
    passed = query(con, f"SELECT {tried} FROM samples WHERE uid = {literal(sample['uid'])}")
    failed = next((label for (label, _), ok in zip(rules, passed.columns, strict=True) if not ok[0].as_py()), "")
    row = next(row for row in lock["attrition"] if row["source"] == source.source)
    texts = {
        "success": f"{sample['status']} ({sample['reason']})",
        "has_caption": f"no caption by {source.caption}",
        "not_duplicate": "placeholder, many other URLs gave the same bytes"
        if sample["kind"] == "placeholder"
        else f"{sample['kind']} duplicate of {sample['duplicate_of']}",
        "not_in_evaluation": f"evaluation set {sample['eval_set']} holds the same picture",
        "where": f"its `where` does not hold: {mix.where}",
        "source_where": f"its `where` for {source.source} does not hold: {source.where}",
        "": f"not drawn: {row['steps'][-1][1]} samples of {source.source} passed its rules for {row['got']} places",
    }
    score = sample.get(mix.top_score)
    return f"out: {texts.get(failed, f'{mix.top_score} {score} is not among its top fraction')}"


def show(table: pa.Table, form: str, *, cut: bool = True) -> None:
    """Print an answer: a table for people, csv, json lines, or the bytes of a parquet file."""
    table = table.rename_columns(_distinct(table.column_names))
    if form == "parquet":
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        sys.stdout.buffer.write(out.getvalue())
    elif form == "csv":
        pa.csv.write_csv(_flat(table), sys.stdout.buffer)
    elif form == "json":
        for row in table.to_pylist():
            print(json.dumps(row, default=str))
    else:
        # A pipe has no width of its own; tables that go there are not squeezed into 80 columns.
        Console(width=None if sys.stdout.isatty() else 240).print(grid(table, cut=cut))


def grid(table: pa.Table, *, cut: bool = True) -> Table:
    """A table for people to read; long cells are `cut`."""
    found = Table(show_lines=False)
    for field in table.schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        found.add_column(field.name, justify="right" if numeric else "left")
    for row in table.to_pylist():
        found.add_row(*(_cell(value, cut=cut) for value in row.values()))
    return found


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names without repetitions, as DuckDB numbers them: a, a_1."""
    found: list[str] = []
    for name in names:
        tries = (f"{name}_{i}" if i else name for i in itertools.count())
        found.append(next(n for n in tries if n not in found))
    return found


def _flat(table: pa.Table) -> pa.Table:
    """The table with nested columns as JSON text: a cell of a csv file holds one value."""
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            texts = [None if v is None else json.dumps(v, default=str) for v in table[index].to_pylist()]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table


def _cell(value: Any, *, cut: bool = True) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return (text if not cut or len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…").replace("[", r"\[")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"headwater {command}", description=_ABOUT[command])
    parser.add_argument("--root", default="data", help="data root (default 'data')")
    if command == "sql":
        parser.add_argument(
            "query",
            help="one SELECT over samples, attempts, sources, shards, runs, mixtures, mixture_samples, removals, "
            "entries, presets or columns",
        )
    elif command == "schema":
        parser.add_argument("table", nargs="?", help="a table or view, such as samples; all if not given")
    elif command == "explain":
        parser.add_argument("uid", help="uid of the sample, or its first characters")
    else:
        parser.add_argument("old", help="name of one mixture")
        parser.add_argument("new", help="name of the other")
    if command != "explain":
        parser.add_argument(
            "--format",
            choices=("table", "csv", "json", "parquet"),
            default="table",
            help="table (the default) cuts long cells; parquet goes to a file or a pipe",
        )
    return parser


def _locks(root: Root) -> dict[str, dict[str, Any]]:
    return {name: root.read_json("mixes", name, FILE) for name in catalog.mixture_names(root)}


def main(command: str, argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater sql`, `schema`, `explain` and `mix-diff`."""
    arguments = _parser(command).parse_args(argv)
    if getattr(arguments, "format", None) == "parquet" and sys.stdout.isatty():
        say(f"headwater {command}: parquet is not for a terminal; send it to a file: ... --format parquet > FILE")
        return ConfigError.exit_code
    return told(command, lambda: _answer(command, arguments))


def _answer(command: str, arguments: argparse.Namespace) -> int:
    root = Root(arguments.root)
    try:
        with answering(root.url), catalog.connect(root) as con:
            if command == "explain":
                found = explain(con, arguments.uid, _locks(root))
                print(json.dumps(found, indent=2, default=str, ensure_ascii=False))
            elif command == "sql":
                show(query(con, arguments.query), arguments.format)
            elif command == "schema":
                show(schema(con, arguments.table), arguments.format, cut=False)
            else:
                show(mix_diff(con, arguments.old, arguments.new), arguments.format)
        sys.stdout.flush()
    except BrokenPipeError:
        # `headwater sql ... | head` has read enough; the interpreter must not try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
