"""What a curated root holds, and how that differs from what the run before left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.store import catalog
from pipelines.store.root import Root

Totals = dict[str, dict[str, Any]]


def totals(root: Root) -> Totals:
    """Samples by source and status, and the mixtures: their samples and the beginning of their digests."""
    found: Totals = {"samples": {}, "mixtures": {}}
    if root.exists(catalog.FILE):
        with catalog.connect(root) as con:
            rows = con.execute("SELECT source, status, count(*) FROM samples GROUP BY ALL ORDER BY ALL").fetchall()
        found["samples"] = {f"{source} {status}": count for source, status, count in rows}
    for name in catalog.mixture_names(root):
        lock = root.read_json("mixes", name, "mix.lock.json")
        found["mixtures"][name] = {"samples": lock["samples"], "digest": lock["digest"][:16]}
    return found


def last_run(root: Root) -> dict[str, Any]:
    """The record of the last run that had totals; empty where there is none."""
    for name in reversed(root.names("runs", suffix=".json")):
        if "-curate-" in name:
            record = root.read_json("runs", name)
            if record.get("summary", {}).get("totals"):
                return dict(record)
    return {}


def differences(before: Mapping[str, Mapping[str, Any]], now: Totals) -> dict[str, Any]:
    """Samples that came or went, by source and status, and mixtures that are new, changed or gone."""
    old, new = before.get("samples", {}), now["samples"]
    counts = {name: new.get(name, 0) - old.get(name, 0) for name in sorted({*old, *new})}
    mixtures, known = now["mixtures"], before.get("mixtures", {})
    states = {
        name: "gone" if name not in mixtures else "new" if name not in known else "changed"
        for name in sorted({*mixtures, *known})
        if mixtures.get(name) != known.get(name)
    }
    return {"samples": {name: count for name, count in counts.items() if count}, "mixtures": states}
