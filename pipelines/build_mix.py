"""A page of YAML and the catalog to a mixture: manifest, lock file and uid list.

headwater mix --root data --config configs/mixes/even.yaml
ray submit ray_cluster.yaml pipelines/build_mix.py --root data --config configs/mixes/even.yaml
"""

from __future__ import annotations

import importlib.metadata
import io
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.mixture import MixConfig, attrition, build_mix, content_digest, shares, uid_pairs
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
        manifest = build_mix(con, mix)
        lock = _lock(con, mix, manifest)
    _publish(root, mix.name, manifest, lock, mark)
    account.add(manifest.num_rows, Counter(manifest["source"].to_pylist()))
    account.check(config.max_failed_fraction)
    say(f"mix: {mix.name}: {manifest.num_rows} of {mix.total} samples, {account.text()}")
    return {**account.summary(), "mixture": mix.name, "digest": lock["digest"]}


def plan(config: MixJobConfig) -> dict[str, Any]:
    """What each source would give, without writing anything."""
    mix = _mix(config)
    with catalog.connect(Root(config.root)) as con:
        manifest = build_mix(con, mix)
        return {"mixture": mix.name, "samples": manifest.num_rows, "attrition": attrition(con, mix, manifest)}


def _mix(config: MixJobConfig) -> MixConfig:
    return MixConfig.model_validate(config.model_dump(include=set(MixConfig.model_fields)))


def _is_done(root: Root, name: str, mark: str) -> bool:
    found = root.parquet_metadata("mixes", name, "manifest.parquet").get(KEY)
    return found == mark and root.exists("mixes", name, "mix.lock.json") and root.exists("mixes", name, "uids.npy")


def _lock(con: duckdb.DuckDBPyConnection, mix: MixConfig, manifest: pa.Table) -> dict[str, Any]:
    """What is needed to prove that the manifest follows from the catalog and the YAML."""
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
        "attrition": attrition(con, mix, manifest),
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
