"""A page of YAML and the catalog to a mixture: manifest, lock file and uid list.

headwater mix --root data --config configs/mixes/even.yaml
headwater mix --root data --verify even
ray submit ray_cluster.yaml pipelines/build_mix.py -- --root /data --config headwater/configs/mixes/even.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from pipelines import lock as locks
from pipelines import manifest, verify_mix
from pipelines.config import JobConfig
from pipelines.draw import draw, survey
from pipelines.job import Account, job_main, say
from pipelines.mixture import MixConfig
from pipelines.rules import find_rules
from pipelines.store import catalog, removals
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION


class MixJobConfig(JobConfig, MixConfig):
    """A mixture and where to build it."""

    memory: str | None = Field(None, description="memory that DuckDB may use, such as 4GB; most of it if null")


def run(config: MixJobConfig) -> dict[str, Any]:
    """Draw a mixture from the catalog and publish its manifest, lock file and uid list.

    `headwater mix --root ROOT --verify NAME [--config FILE]` proves instead that a published mixture follows from the
    catalog and its YAML.
    """
    root, mix, account = Root(config.root), mixture_of(config), Account("mix")
    with catalog.connect(root, config.memory) as con:
        removals.check_catalog(root, con)
        mark = fingerprint(SCHEMA_VERSION, mix.model_dump(mode="json"), catalog.snapshot(con))
        if _is_done(root, mix.name, mark):
            say(f"mix: {mix.name} is done")
            return {**account.summary(), "mixture": mix.name, "up_to_date": True}
        warnings = _warn(locks.warnings(con, root, mix))
        found = survey(con, find_rules(con, mix))
        found.check()
        # Manifest last, an earlier one taken away first: a mixture whose manifest exists is complete.
        root.remove("mixes", mix.name, manifest.FILE)
        with root.writing("mixes", mix.name, manifest.FILE) as file:
            content, sha256 = manifest.write(draw(con, found), file, {KEY: mark})
            with root.writing("mixes", mix.name, manifest.UIDS) as uids:
                np.save(uids, content.pairs)
            lock = locks.make_lock(con, found, content, sha256, warnings)
            root.write_json(lock, "mixes", mix.name, locks.FILE)
    account.add(lock["samples"], content.counts)
    account.check(config.max_failed_fraction)
    say(locks.attrition_text(lock["attrition"]))
    say(f"mix: {mix.name}: {lock['samples']} of {mix.total} samples, {account.text()}")
    if lock["top"]:
        say(f"mix: {mix.name}: {locks.top_text(lock['top'])}")
    return {**account.summary(), "mixture": mix.name, "digest": lock["digest"], "warnings": warnings}


def plan(config: MixJobConfig) -> dict[str, Any]:
    """What each source would give, without writing or sorting anything."""
    root, mix = Root(config.root), mixture_of(config)
    with catalog.connect(root, config.memory) as con:
        removals.check_catalog(root, con)
        warnings = _warn(locks.warnings(con, root, mix))
        found = survey(con, find_rules(con, mix))
    say(locks.attrition_text(found.attrition))
    found.check()
    top = locks.top_effect(mix, found.rules.cuts, found.attrition)
    return {
        "mixture": mix.name,
        "samples": found.samples,
        "attrition": found.attrition,
        "top": top,
        "warnings": warnings,
    }


def mixture_of(config: MixJobConfig) -> MixConfig:
    """The mixture alone."""
    return MixConfig.model_validate(config.model_dump(include=set(MixConfig.model_fields)))


def _warn(warnings: list[str]) -> list[str]:
    for warning in warnings:
        say(f"mix: warning: {warning}")
    return warnings


def _is_done(root: Root, name: str, mark: str) -> bool:
    found = root.parquet_metadata("mixes", name, manifest.FILE).get(KEY)
    return found == mark and all(root.exists("mixes", name, file) for file in (locks.FILE, manifest.UIDS))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater mix`."""
    arguments = sys.argv[1:] if argv is None else argv
    if any(argument.split("=")[0] == "--verify" for argument in arguments):
        return verify_mix.main(arguments)
    return job_main("mix", MixJobConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
