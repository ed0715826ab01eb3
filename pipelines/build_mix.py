"""A page of YAML and the catalog to a mixture: manifest, lock file and uid list.

headwater mix --root data --config configs/mixes/even.yaml
ray submit ray_cluster.yaml pipelines/build_mix.py --root data --config configs/mixes/even.yaml
"""

from __future__ import annotations

import importlib.metadata
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.manifest import content_digest, uid_pairs
from pipelines.mixture import Cut, MixConfig, attrition, build_mix, find_cuts, shares
from pipelines.store import catalog
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import MANIFEST, SCHEMA_VERSION


class MixJobConfig(JobConfig, MixConfig):
    """A mixture and where to build it."""


def run(config: MixJobConfig) -> dict[str, Any]:
    """Draw a mixture from the catalog and publish its manifest, lock file and uid list."""
    root, mix, account = Root(config.root), _mix(config), Account("mix")
    with catalog.connect(root) as con:
        mark = fingerprint(SCHEMA_VERSION, mix.model_dump(mode="json"), catalog.snapshot(con))
        if _is_done(root, mix.name, mark):
            say(f"mix: {mix.name} is done")
            return {**account.summary(), "mixture": mix.name, "up_to_date": True}
        cuts = find_cuts(con, mix)
        manifest = build_mix(con, mix, cuts)
        lock = _lock(con, mix, manifest, cuts)
    _publish(root, mix.name, manifest, lock, mark)
    account.add(manifest.num_rows, Counter(manifest["source"].to_pylist()))
    account.check(config.max_failed_fraction)
    say(f"mix: {mix.name}: {manifest.num_rows} of {mix.total} samples, {account.text()}")
    if lock["top"]:
        say(f"mix: {mix.name}: {top_text(lock['top'])}")
    return {**account.summary(), "mixture": mix.name, "digest": lock["digest"]}


def plan(config: MixJobConfig) -> dict[str, Any]:
    """What each source would give, without writing anything."""
    mix = _mix(config)
    with catalog.connect(Root(config.root)) as con:
        cuts = find_cuts(con, mix)
        manifest = build_mix(con, mix, cuts)
        rows = attrition(con, mix, manifest, cuts)
    top = top_effect(mix, cuts, rows)
    return {"mixture": mix.name, "samples": manifest.num_rows, "attrition": rows, "top": top}


def top_effect(mix: MixConfig, cuts: Mapping[str, Cut], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the top fractions did, from the rows of `attrition`; None where there is none.

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


def _mix(config: MixJobConfig) -> MixConfig:
    return MixConfig.model_validate(config.model_dump(include=set(MixConfig.model_fields)))


def _is_done(root: Root, name: str, mark: str) -> bool:
    found = root.parquet_metadata("mixes", name, "manifest.parquet").get(KEY)
    return found == mark and root.exists("mixes", name, "mix.lock.json") and root.exists("mixes", name, "uids.npy")


def _lock(
    con: duckdb.DuckDBPyConnection, mix: MixConfig, manifest: pa.Table, cuts: Mapping[str, Cut]
) -> dict[str, Any]:
    """What is needed to prove that the manifest follows from the catalog and the YAML."""
    rows = attrition(con, mix, manifest, cuts)
    counts = Counter(manifest["source"].to_pylist())
    return {
        "schema_version": SCHEMA_VERSION,
        "config": mix.model_dump(mode="json"),
        "catalog": catalog.snapshot(con),
        "asked": mix.total,
        "samples": manifest.num_rows,
        "sources": [
            {"source": source.source, "asked": asked, "got": counts[source.source]}
            for source, asked in zip(mix.sources, shares(mix), strict=True)
        ],
        "attrition": rows,
        "top": top_effect(mix, cuts, rows),
        "digest": content_digest(manifest),
        "versions": {name: importlib.metadata.version(name) for name in ("headwater", "duckdb", "pyarrow", "numpy")},
    }


def _publish(root: Root, name: str, manifest: pa.Table, lock: dict[str, Any], mark: str) -> None:
    """Manifest last, an earlier one taken away first: a mixture whose manifest exists is complete."""
    root.remove("mixes", name, "manifest.parquet")
    buffer = io.BytesIO()
    np.save(buffer, uid_pairs(manifest["uid"].to_pylist()))
    root.write_bytes(buffer.getvalue(), "mixes", name, "uids.npy")
    root.write_json(lock, "mixes", name, "mix.lock.json")
    metadata = {key.decode(): value.decode() for key, value in MANIFEST.arrow.metadata.items()}
    root.write_table(manifest, "mixes", name, "manifest.parquet", metadata={**metadata, KEY: mark})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater mix`."""
    return job_main("mix", MixJobConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
