"""What the demo says at its end: two tables for a person, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from demo.compare import ARROW
from demo.compare_pictures import make_check
from evaluation.results import Result
from pipelines.report import Findings

_PAPER = 120  # columns, where stderr is no terminal


def print_findings(findings: Findings, results: Sequence[Result]) -> None:
    """The checks and the accuracies as tables for a person, on stderr; what is right by kind takes one line."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _PAPER)
    table = Table("check", title="Found against planted", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("planted", "found", "false", "rate"):
        table.add_column(name, justify="right")
    table.add_column("goal")
    table.add_column("met")
    right = [check for check in findings.checks if ARROW in check.check and check.met]
    planted = sum(check.planted or 0 for check in right)
    whole = f"status and reason of {len(right)} kinds of record"
    shown = [make_check(whole, planted, planted, "all", True), *(c for c in findings.checks if c not in right)]
    for check in shown:
        numbers = [check.planted, check.found, check.false]
        rate = "" if check.rate is None else f"{check.rate:.1%}"
        met = {None: "", True: "yes", False: "NO"}[check.met]
        table.add_row(check.check, *("" if n is None else str(n) for n in numbers), rate, check.goal, met)
    console.print(table)
    if results:
        console.print(_accuracy_table(results))


def _accuracy_table(results: Sequence[Result]) -> Table:
    sets = list(results[0].eval)
    title = "Expected 100-way accuracy, zero-shot, % (95 % interval; * touches chance)"
    table = Table("model", title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in sets:
        table.add_column(name.replace("-", " "), justify="right")
    for result in results:
        cells = [result.eval[name] for name in sets]
        shown = [f"{100 * c.value:.1f}{'*' * c.at_floor}\n{100 * c.low:.1f}–{100 * c.high:.1f}" for c in cells]
        table.add_row(result.run_id, *shown)
    return table
