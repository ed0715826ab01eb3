"""Published files to the catalog that SQL queries.

headwater index --root data
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.store import catalog
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION
from pipelines.store.stages import STAGES, choose


class IndexConfig(JobConfig):
    """Which scores, verdicts and signals the table `samples` shows."""

    features: str | None = Field(
        None, description="fingerprint of the model whose scores are clip_score; the only one if not given"
    )
    verdicts: str | None = Field(None, description="fingerprint of the dedupe run; the only one if not given")
    signals: str | None = Field(None, description="fingerprint of the signals run; the only one if not given")
    rebuild: bool = Field(False, description="build anew even if nothing has changed")


def run(config: IndexConfig) -> dict[str, Any]:
    """Build the catalog from all published files, unless it is up to date."""
    root, account = Root(config.root), Account("index")
    sidecars = choose(root, _wanted(config))
    runs = ledger(root)
    mixes = [root.read_json("mixes", name, "mix.lock.json")["digest"] for name in catalog.mixture_names(root)]
    marks = {
        "schema_version": str(SCHEMA_VERSION),
        "samples": catalog.sample_marks(root, sidecars),
        "mixtures": fingerprint(catalog.mixture_names(root), mixes),
        "runs": fingerprint([run["id"] for run in runs]),
    }
    if not config.rebuild and catalog.is_current(root, marks):
        say("index: the catalog is up to date")
        return {**account.summary(), "up_to_date": True}
    records, statuses, missing = catalog.build(root, sidecars, marks, runs)
    account.add(records, statuses)
    account.check(config.max_failed_fraction)
    say(f"index: {records} samples: {account.text()}")
    for command, count in missing.items():
        if count:
            say(f"index: {count} pictures came after the last {command}; run it again, then index")
    return account.summary()


def plan(config: IndexConfig) -> dict[str, Any]:
    """What an index run would read."""
    root = Root(config.root)
    # Of several models' scores the chosen one comes first, and stays.
    chosen = {side.stage.folder: side.made_with for side in reversed(choose(root, _wanted(config)))}
    return {"shards": len(root.shards("shards")), **chosen}


def _wanted(config: IndexConfig) -> dict[str, str | None]:
    return {stage.folder: getattr(config, stage.folder) for stage in STAGES}


# The index would be news to itself; the demo's stages are runs of their own.
_NOT_LISTED = ("index", "demo")


def ledger(root: Root) -> list[dict[str, Any]]:
    """The runs that did something; one that found everything done is no news for the catalog."""
    rows = []
    for name in root.names("runs", suffix=".json"):
        record = root.read_json("runs", name)
        try:
            rows_in = record["summary"].get("rows_in")
            if record["job"] not in _NOT_LISTED and (record["status"] != "done" or rows_in):
                rows.append({**record, "rows_in": rows_in, "config": json.dumps(record["config"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{root.path('runs', name)}: is not the record of a run; delete it") from error
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater index`."""
    return job_main("index", IndexConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
