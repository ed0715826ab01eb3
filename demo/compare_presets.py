"""What each published filter would keep of the demo's pictures: no check, for no truth is planted for it."""

from __future__ import annotations

import duckdb

from evaluation.report_data import Check
from pipelines.store.presets import L14, PRESETS, Preset, missing

SCORE = "clip_score"
# Values of the parameters that have no default, or whose default the demo lacks. The odds of balancing are drawn.
_GIVEN = {"s": "samples", "fraction": "0.3", f"score := '{L14}'": f"score := '{SCORE}'", "seed": "0", "p": "0.5"}
_DRAWN = "keep(uid_lo, 0, metaclip_probability(entries, 20))"


def presets(con: duckdb.DuckDBPyConnection) -> list[Check]:
    """For each preset how many of the stored pictures it would keep, by one query, or what the demo lacks for it."""
    present = _present(con)
    lacks = {preset.name: missing(preset, present) for preset in PRESETS}
    calls = [call_of(preset) for preset in PRESETS if not lacks[preset.name]]
    kept = ", ".join(f"count(*) FILTER ({call})" for call in calls)
    [(pictures, *counts)] = con.execute(f"SELECT count(*), {kept} FROM samples WHERE status = 'success'").fetchall()
    found = dict(zip(calls, counts, strict=True))
    return [_line(preset, lacks[preset.name], pictures, found.get(call_of(preset))) for preset in PRESETS]


def call_of(preset: Preset) -> str:
    """The preset as a condition on a row of the demo's `samples`."""
    if preset.name == "metaclip_probability":
        return _DRAWN
    given = (_GIVEN.get(name, name) for name in preset.parameters.split(", "))
    return f"{preset.name}({', '.join(value for value in given if _is_needed(value))})"


def _is_needed(value: str) -> bool:
    return ":=" not in value or SCORE in value


def _present(con: duckdb.DuckDBPyConnection) -> set[str]:
    """The columns of `samples` that hold anything."""
    found = con.execute("SELECT any_value(COLUMNS(*)) FROM samples")
    names = [str(column[0]) for column in found.description or []]
    return {name for name, value in zip(names, found.fetchall()[0], strict=True) if value is not None}


def _line(preset: Preset, lacks: list[str], pictures: int, kept: int | None) -> Check:
    if kept is None:
        return Check(f"preset {preset.name}: not counted, the demo has no {', '.join(lacks)}", None, None)
    return Check(f"preset {call_of(preset)}: keeps of {pictures} pictures", None, kept, rate=kept / max(1, pictures))
