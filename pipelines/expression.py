"""Conditions and captions of a mixture: one read-only expression over a row of `samples`, and nothing else.

DuckDB's own parser reads the text and its tree is walked: what is not on a list is refused, so that a page of YAML
from anywhere can neither read nor write a file, nor give another answer at another time. Two steps, because a YAML
is read before there is a catalog: `check` looks at the form, `bind` at columns, functions and the type.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from filters.errors import ConfigError
from pipelines.store.catalog import explain_error

# Deeper trees than people write would exhaust Python's stack before DuckDB's.
_MAX_DEPTH = 200
_CLASSES = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
    "OPERATOR", "TYPE",
}  # fmt: skip
_OPERATORS = {
    "ARRAY_CONSTRUCTOR", "ARRAY_EXTRACT", "ARRAY_SLICE", "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_COALESCE",
    "OPERATOR_IS_NOT_NULL", "OPERATOR_IS_NULL", "OPERATOR_NOT", "OPERATOR_NULLIF", "OPERATOR_TRY", "STRUCT_EXTRACT",
}  # fmt: skip
_REFUSED = {
    "DEFAULT": "DEFAULT has no meaning here; write the value",
    "PARAMETER": "a parameter (? or $1) has no value here; write the value",
    "POSITIONAL_REFERENCE": "a column by its number is not allowed; write its name",
    "STAR": "a star stands for many columns; name the one that is meant",
    "SUBQUERY": "a query inside the expression is not allowed; use a preset such as clip_top(samples, 0.3), "
    "or list_contains for membership in a list",
    "WINDOW": "a window function looks at other rows; use a preset such as clip_top_in_source, or `top_fraction`",
}
# Called consistent by DuckDB, and yet not a function of the row alone: of the clock, of the version, of SQL text.
_OUTSIDE = {
    "age", "current_localtime", "current_localtimestamp", "hash", "json_deserialize_sql", "json_serialize_plan",
    "json_serialize_sql", "version",
}  # fmt: skip
_NEEDED = {
    "BOOLEAN": "true or false, as clip_score > 0.3 does",
    "VARCHAR": "text, as CAST(... AS VARCHAR) does, or captions[1], the first of a list",
}
_ADVICE = "see `FROM presets` and DuckDB's scalar functions for what may be used"


@dataclass(frozen=True, slots=True)
class Expression:
    """What an expression refers to: column names in their parts, and functions."""

    columns: tuple[tuple[str, ...], ...]
    functions: tuple[str, ...]


def check(text: str) -> str:
    """The text itself, if it is one expression of the allowed forms; ValueError in one line if not."""
    _parse(text)
    return text


def bind(con: duckdb.DuckDBPyConnection, text: str, kind: Literal["BOOLEAN", "VARCHAR"], place: str) -> str:
    """The expression as SQL, once its columns, functions and type are known to be right.

    Raises ConfigError in one line that begins with `place`.
    """
    try:
        parsed = _parse(text)
        _check_columns(con, parsed)
        for name in parsed.functions:
            _check_function(con, name)
        found = con.execute(f"DESCRIBE SELECT (\n{text}\n) FROM samples").fetchall()[0][1]
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error
    except duckdb.Error as error:
        raise ConfigError(f"{place}: {explain_error(error, con)}") from error
    # A bare NULL has a type of its own, which stands for any.
    if found not in (kind, '"NULL"'):
        needed = _NEEDED[kind]
        raise ConfigError(f"{place}: {_shown(text)} gives {found}; it must give {needed}")
    # On lines of its own, so that a comment at the end of the text ends there too.
    return f"(\n{text}\n)"


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Expression:
    """What the text refers to; ValueError where it is not one expression or holds what is refused."""
    tree = _tree(f"SELECT (\n{text}\n) FROM samples", text)
    # `a) OR (b` is an expression in the brackets above and would reach beyond them; in these it does not parse.
    listed = _tree(f"SELECT [\n{text}\n] FROM samples", text)
    if len(listed.get("children", listed.get("arguments", ()))) != 1:
        raise ValueError(f"not one SQL condition: {_shown(text)}; write a single expression")
    columns: dict[tuple[str, ...], None] = {}
    functions: dict[str, None] = {}
    for node, parameters in _nodes(tree):
        if node["class"] == "COLUMN_REF" and node["column_names"][0].lower() not in parameters:
            columns[tuple(node["column_names"])] = None
        elif node["class"] == "FUNCTION":
            functions[_function(node)] = None
    return Expression(tuple(columns), tuple(functions))


def _tree(query: str, text: str) -> dict[str, Any]:
    """The only select item of a query over `samples`; ValueError where the query is anything else."""
    problem = f"not one SQL condition: {_shown(text)}"
    try:
        [(answer,)] = _parser().execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
        parsed = json.loads(answer)
    except (duckdb.Error, RecursionError, ValueError) as error:
        raise ValueError(f"{problem}; it cannot be read as SQL") from error
    if parsed["error"]:
        detail = str(parsed.get("error_message", "")).split(". Use")[0].splitlines()[0]
        raise ValueError(f"{problem} ({detail}); write one expression over the columns of `samples`")
    statements = parsed["statements"]
    node = statements[0]["node"]
    clauses = ("modifiers", "where_clause", "group_expressions", "having", "qualify", "sample")
    if (
        len(statements) != 1
        or node["type"] != "SELECT_NODE"
        or len(node["select_list"]) != 1
        or node["from_table"].get("table_name") != "samples"
        or any(node[clause] for clause in clauses)
    ):
        raise ValueError(f"{problem}; write a single expression")
    return dict(node["select_list"][0])


@functools.lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    """An empty database for its parser; opening one for each text would take 50 ms."""
    con = duckdb.connect(config={"enable_external_access": "false", "autoload_known_extensions": "false"})
    con.execute(f"SET max_expression_depth = {_MAX_DEPTH}")
    con.execute("SET lock_configuration = true")
    return con


def _nodes(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Every node of a tree with the parameters of the lambdas around it; ValueError at one that is refused."""
    left: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while left:
        node, parameters = left.pop()
        if isinstance(node, dict):
            if "class" in node:
                _check_class(node)
                if node["class"] == "LAMBDA":
                    parameters = parameters | _parameters(node)
                yield node, parameters
            left.extend((value, parameters) for value in node.values())
        elif isinstance(node, list):
            left.extend((value, parameters) for value in node)


def _parameters(node: dict[str, Any]) -> frozenset[str]:
    """The parameters of a lambda; ValueError for the arrow, which is read as one too where it takes JSON apart."""
    if node["syntax_type"] == "SINGLE_ARROW":
        raise ValueError("the arrow -> has two meanings; write lambda x: ..., or json_extract(...)")
    return frozenset(name.lower() for child, _ in _nodes(node["lhs"]) for name in child.get("column_names", ()))


def _check_class(node: dict[str, Any]) -> None:
    name, kind = node["class"], node["type"]
    if name not in _CLASSES or (name == "OPERATOR" and kind not in _OPERATORS):
        words = kind.lower().replace("_", " ")
        raise ValueError(_REFUSED.get(name, f"{words} is not allowed in a condition; {_ADVICE}"))


def _function(node: dict[str, Any]) -> str:
    """The name of a call; ValueError for one with more than a name and arguments."""
    name = str(node["function_name"])
    if node["schema"] or node["catalog"]:
        raise ValueError(f"function {name} of schema {node['schema']!r} is not allowed; write {name}(...) alone")
    if node["filter"] or node["distinct"] or node["order_bys"]["orders"]:
        raise ValueError(f"{name}(...) with FILTER, DISTINCT or ORDER BY looks at many rows; a condition sees one")
    return name


def _check_columns(con: duckdb.DuckDBPyConnection, parsed: Expression) -> None:
    """ValueError for a name that is no column: `current_user` and its like would be calls."""
    known = [str(row[0]) for row in con.execute("DESCRIBE samples").fetchall()]
    lower = {name.lower() for name in known}
    for parts in parsed.columns:
        first, *rest = (part.lower() for part in parts)
        if first in lower or (first == "samples" and (not rest or rest[0] in lower)):
            continue
        wrong = parts[1] if first == "samples" else parts[0]
        close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(close)}" if close else '`headwater sql "DESCRIBE samples"` lists them'
        raise ValueError(f"`samples` has no column {wrong!r}; {hint}")


def _check_function(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """ValueError for a function that is not one of the row alone."""
    rows = con.execute(
        "SELECT function_type, stability, internal, macro_definition, parameters FROM duckdb_functions() "
        "WHERE lower(function_name) = lower(?)",
        [name],
    ).fetchall()
    if not rows:
        known = con.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('scalar', 'macro')"
        ).fetchall()
        close = difflib.get_close_matches(name, [row[0] for row in known], n=3, cutoff=0.6)
        raise ValueError(f"there is no function {name}; {'nearest: ' + ', '.join(close) if close else _ADVICE}")
    if name.lower() in _OUTSIDE or name.startswith("__"):
        raise ValueError(f"function {name} is not allowed: it is not of the row alone; {_ADVICE}")
    for kind, stability, internal, definition, parameters in rows:
        if kind == "macro":
            _check_macro(con, name, internal, definition, parameters)
        elif kind == "aggregate":
            raise ValueError(f"function {name} is over many rows and a condition sees one; {_ADVICE}")
        elif kind != "scalar" or stability != "CONSISTENT":
            raise ValueError(f"function {name} is not allowed: it reads, writes or changes with time; {_ADVICE}")


def _check_macro(
    con: duckdb.DuckDBPyConnection, name: str, internal: bool, definition: str, parameters: list[str]
) -> None:
    """ValueError for a preset without its signals, and for a macro of DuckDB's whose body would be refused here."""
    if not internal:
        lacking = re.fullmatch(r""""?error"?\('(.*)'\)""", definition)
        if lacking:
            raise ValueError(lacking.group(1).replace("''", "'"))
        return
    try:
        body = _parse(definition)
        names = {parameter.lower() for parameter in parameters}
        if not all(column[0].lower() in names for column in body.columns):
            raise ValueError("it reads the session")
        for function in body.functions:
            _check_function(con, function)
    except ValueError as error:
        raise ValueError(f"function {name} is not allowed: {error}") from error


def _shown(text: str) -> str:
    """The text as a literal in one line, cut where it is long."""
    shown = repr(text)
    return shown if len(shown) <= 120 else shown[:119] + "…"
