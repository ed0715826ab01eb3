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
from pipelines.store import publish
from pipelines.store.mirror import OvertakenError
from pipelines.store.root import Root
from pipelines.store.stages import STAGES, choose
from pipelines.store.survey import survey

_TRIES = 5  # to publish, while other processes do so too


class IndexConfig(JobConfig):
    """Which scores, verdicts and signals the table `samples` shows."""

    features: str | None = Field(
        None, description="fingerprint of the model whose scores are clip_score; the only one if not given"
    )
    verdicts: str | None = Field(None, description="fingerprint of the dedupe run; the only one if not given")
    signals: str | None = Field(None, description="fingerprint of the signals run; the only one if not given")
    rebuild: bool = Field(False, description="read all shards again, even if nothing has changed")
    memory: str | None = Field(None, description="memory that DuckDB may use, such as 4GB; most of it if null")


def run(config: IndexConfig) -> dict[str, Any]:
    """Bring the catalog up to date: read the shards that are new or changed, and publish beside the old one."""
    root, account = Root(config.root), Account("index")
    for left in reversed(range(_TRIES)):
        sidecars = choose(root, _wanted(config))
        runs = ledger(root)
        found = survey(root, sidecars, [run["id"] for run in runs], anew=config.rebuild)
        if not config.rebuild and found.is_current:
            say("index: the catalog is up to date")
            return {**account.summary(), "up_to_date": True}
        try:
            done = publish.publish(root, found, runs, memory=config.memory)
            break
        except OvertakenError:
            if not left:
                raise
            say("index: another catalog was published meanwhile; looking again")
    account.add(done.samples, done.statuses)
    account.extra = {
        "shards_read": len(found.fresh), "segments": done.segments, "bytes_written": done.bytes_written,
    }  # fmt: skip
    account.check(config.max_failed_fraction)
    say(f"index: {done.samples} samples: {account.text()}; read {len(found.fresh)} of {len(found.parts)} shards")
    for command, count in done.missing.items():
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
                texts = {name: json.dumps(record[name], sort_keys=True) for name in ("config", "summary")}
                rows.append({**record, "rows_in": rows_in, **texts})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{root.path('runs', name)}: is not the record of a run; delete it") from error
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater index`."""
    return job_main("index", IndexConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
