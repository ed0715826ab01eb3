"""What a mixture came to: its lock file, what its rules took from each source, and what to be warned of."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from pipelines.draw import Survey
from pipelines.manifest import Content
from pipelines.mixture import MixConfig
from pipelines.rules import Cut
from pipelines.store import catalog
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION, eval_column

FILE = "mix.lock.json"


def make_lock(
    con: duckdb.DuckDBPyConnection, found: Survey, content: Content, sha256: str, warnings: Sequence[str]
) -> dict[str, Any]:
    """What is needed to prove that the manifest follows from the catalog and the YAML."""
    mix = found.rules.mix
    return {
        "schema_version": SCHEMA_VERSION,
        "config": mix.model_dump(mode="json"),
        "catalog": catalog.snapshot(con),
        "asked": mix.total,
        "samples": sum(content.counts.values()),
        "sources": [
            {"source": part.source, "asked": part.asked, "got": content.counts.get(part.source, 0)}
            for part in found.parts
        ],
        "attrition": found.attrition,
        "top": top_effect(mix, found.rules.cuts, found.attrition),
        "warnings": list(warnings),
        "digest": content.digest,
        "manifest_sha256": sha256,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The libraries that the bytes of a manifest depend on, and this one."""
    return {name: importlib.metadata.version(name) for name in ("headwater", "duckdb", "pyarrow", "numpy")}


def warnings(con: duckdb.DuckDBPyConnection, root: Root, mix: MixConfig) -> list[str]:
    """Exclusions that are on and exclude nothing, because what they go by was never looked for."""
    found = []
    if mix.exclude_duplicates and not root.names("verdicts"):
        found.append(
            "exclude_duplicates is on, but no dedupe run is there: duplicates are unknown and stay in; "
            "run `headwater dedupe`, then `headwater index`"
        )
    columns = [str(row[0]) for row in con.execute("DESCRIBE samples").fetchall()]
    if mix.exclude_eval_overlap and not any(name.startswith(eval_column("")) for name in columns):
        found.append(
            "exclude_eval_overlap is on, but no picture was compared with an evaluation set: overlap is unknown and "
            "stays in; run `headwater dedupe --tasks FOLDER`, then `headwater index`"
        )
    return found


def top_effect(mix: MixConfig, cuts: Mapping[str, Cut], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the top fractions did, from the rows of the attrition table; None where there is none.

    For each source the threshold, how many samples were there before it and after, the fraction kept, and the
    source's share of the samples of all sources before and after.
    """
    if not cuts:
        return None
    after = {row["source"]: row["steps"][-1][1] for row in rows}
    before = {row["source"]: row["steps"][-2 if row["source"] in cuts else -1][1] for row in rows}
    sources = [
        {
            "source": name,
            "fraction": cuts[name].fraction if name in cuts else None,
            "scored": cuts[name].scored if name in cuts else None,
            "threshold": cuts[name].threshold if name in cuts else None,
            "before": before[name],
            "kept": after[name],
            "kept_fraction": _ratio(after[name], before[name]),
            "share_before": _ratio(before[name], sum(before.values())),
            "share_after": _ratio(after[name], sum(after.values())),
        }
        for name in after
    ]
    return {"scope": mix.top_scope, "score": mix.top_score, "sources": sources}


def locked_cuts(lock: Mapping[str, Any]) -> dict[str, Cut]:
    """The cuts that a lock file holds."""
    sources = lock["top"]["sources"] if lock.get("top") else []
    return {
        s["source"]: Cut(s["fraction"], s["scored"], s["threshold"]) for s in sources if s["fraction"] is not None
    }


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def top_text(top: Mapping[str, Any]) -> str:
    """What the top fractions kept of each source, and what that made of its share, for a line of progress."""
    whose = "all sources together" if top["scope"] == "global" else "each source"
    kept = ", ".join(
        f"{s['source']} {s['kept_fraction']:.1%} (share {s['share_before']:.1%} to {s['share_after']:.1%})"
        for s in top["sources"]
    )
    return f"the top fraction of {whose} by {top['score']} keeps {kept}"


def attrition_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The attrition table for people: a line for each source, what each rule left of it, what was asked and got."""
    labels = list(dict.fromkeys(label for row in rows for label, _ in row["steps"]))
    order = ["records", "success", "has_caption", "not_duplicate", "not_in_evaluation", "where", "source_where"]
    labels.sort(key=lambda label: order.index(label) if label in order else len(order))
    lines = [["source", *labels, "asked", "got"]]
    for row in rows:
        left = dict(row["steps"])
        numbers = [left.get(label) for label in labels] + [row["asked"], row["got"]]
        lines.append([row["source"], *("-" if n is None else f"{n:,}" for n in numbers)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
