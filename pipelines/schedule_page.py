"""The scheduler's status as one small HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="60">
<title>Headwater schedule</title><style>body{font-family:sans-serif;margin:2em}td,th{text-align:left;
padding:.3em 1em .3em 0;vertical-align:top}.failed{color:#b00020}</style><h1>Headwater schedule</h1>"""
_COLUMNS = ("job", "command", "times", "next", "state", "last run", "last success", "left out")


def page(status: Mapping[str, Any]) -> str:
    """The page for what is in `schedule.json`."""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = "".join(_row(name, job) for name, job in sorted(status["jobs"].items()))
    return f"{_HEAD}<p>Written {escape(status['written'])}.</p><table><tr>{head}</tr>{rows}</table></html>\n"


def _row(name: str, job: Mapping[str, Any]) -> str:
    last, running = job.get("last"), job.get("running")
    state = f"running since {running['started']}" if running else "waiting"
    ended = f"{last['ended']}: exit code {last['exit_code']}: {last['said']}" if last else "never"
    failed = last is not None and job.get("last_success") != last["ended"]
    cells = [
        name, " ".join(["headwater", *job["command"]]), job["cron"], job["next"], state, ended,
        job.get("last_success", "never"), job.get("skipped", 0),
    ]  # fmt: skip
    text = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
    return f'<tr class="{"failed" if failed else "fine"}">{text}</tr>'
