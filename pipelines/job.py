"""What all jobs share: flags, progress, the ledger, the one JSON line, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from filters.errors import BudgetExceeded, HeadwaterError
from pipelines.config import JobConfig, add_flags, load_config, parse_flags, separated
from pipelines.store.root import Root
from pipelines.store.store_errors import answering, store_errors

Config = TypeVar("Config", bound=JobConfig)


@dataclass
class Account:
    """Rows in, and what became of each: the counts must add up, and `check` says where they do not."""

    job: str
    rows_in: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    shards_done: int = 0
    shards_skipped: int = 0
    shards_failed: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, rows: int, counts: dict[str, int]) -> None:
        """Take in one shard's rows and counts by status or reason."""
        self.rows_in += rows
        for key, count in counts.items():
            self.counts[key] = self.counts.get(key, 0) + count

    def check(self, max_failed_fraction: float = 1.0) -> None:
        """HeadwaterError if rows are unaccounted for; BudgetExceeded if too many shards failed."""
        total = sum(self.counts.values())
        if total != self.rows_in:
            raise HeadwaterError(f"{self.rows_in} rows in, {total} accounted for; this is a defect")
        tried = self.shards_done + len(self.shards_failed)
        if tried and len(self.shards_failed) / tried > max_failed_fraction:
            first = next(iter(self.shards_failed.items()))
            raise BudgetExceeded(
                f"{len(self.shards_failed)} of {tried} shards failed, more than "
                f"max_failed_fraction={max_failed_fraction}; first: {first[0]}: {first[1]}",
                self.summary(),
            )

    def check_rows(self, max_failed_fraction: float, counts: Mapping[str, int] | None = None) -> None:
        """BudgetExceeded if too many of the rows that were tried (all but the skipped ones) failed.

        `counts` by status, where not all rows of the account are work of this job.
        """
        counts = self.counts if counts is None else counts
        failed = sum(count for status, count in counts.items() if status.startswith("failed"))
        tried = sum(counts.values()) - counts.get("skipped", 0)
        if tried and failed / tried > max_failed_fraction:
            raise BudgetExceeded(
                f"{failed} of {tried} rows failed, more than max_failed_fraction={max_failed_fraction}; "
                "`headwater failures` says why and what to try",
                self.summary(),
            )

    def text(self) -> str:
        """The counts for a line of progress, the largest first."""
        return ", ".join(
            f"{n:,} {name}" for name, n in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        )

    def summary(self) -> dict[str, Any]:
        """The account as one JSON-ready mapping."""
        return {
            "job": self.job,
            "rows_in": self.rows_in,
            "counts": dict(sorted(self.counts.items())),
            "shards_done": self.shards_done,
            "shards_skipped": self.shards_skipped,
            "shards_failed": dict(sorted(self.shards_failed.items())),
            **self.extra,
        }


def say(text: str) -> None:
    """One line of progress, to stderr: stdout carries nothing but the summary."""
    print(text, file=sys.stderr, flush=True)


def run_recorded(job: str, config: JobConfig, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a job and write what it did to the ledger, `<root>/runs/<id>.json`, also when it fails.

    A summary that has `nothing_new` leaves no record.
    """
    started = datetime.datetime.now(datetime.UTC)
    begin = time.monotonic()
    root = Root(config.root)
    record: dict[str, Any] = {
        "id": f"{started:%Y%m%dT%H%M%S.%f}-{job}-{os.getpid()}",
        "job": job,
        "started": started.isoformat(),
        "config": config.model_dump(mode="json"),
        "code_version": importlib.metadata.version("headwater"),
        "status": "failed",
        "summary": {},
    }
    try:
        record["summary"] = run()
        record["status"] = "done"
        return dict(record["summary"])
    except store_errors(HeadwaterError) as error:
        record["error"] = str(error)
        if isinstance(error, BudgetExceeded):
            record["summary"] = error.summary
        raise
    finally:
        record["seconds"] = round(time.monotonic() - begin, 3)
        # A mistyped root, or a job that needs none, must not make a folder of that name.
        if root.exists() and not record["summary"].get("nothing_new"):
            root.write_json(record, "runs", f"{record['id']}.json")


def job_main(
    job: str,
    model: type[Config],
    run: Callable[[Config], dict[str, Any]],
    plan: Callable[[Config], dict[str, Any]],
    argv: Sequence[str] | None,
    bare: str | None = None,
    recorded: bool = True,
) -> int:
    """The command line of one job: parse, run or only plan, print one JSON line, return the exit code.

    An argument without a flag, in any place, is the field `bare`. A job that is not `recorded` writes to the ledger
    itself, or not at all.
    """
    arguments = parse_arguments(job, model, run, argv, bare)
    signal.signal(signal.SIGTERM, _interrupt)

    def work() -> int:
        config = load_config(model, arguments.config, parse_flags(arguments, model, bare))
        with answering(config.root):
            if arguments.dry_run:
                summary = {"job": job, "dry_run": True, **plan(config)}
            else:
                # Libraries print too; stdout is kept for the summary.
                with contextlib.redirect_stdout(sys.stderr):
                    summary = run_recorded(job, config, lambda: run(config)) if recorded else run(config)
        _print(summary)
        return 0

    return told(job, work)


def told(command: str, work: Callable[[], int]) -> int:
    """The exit code that `work` returns, or that of its error, which is told in one line."""
    try:
        return work()
    except HeadwaterError as error:
        say(f"headwater {command}: {error}")
        if isinstance(error, BudgetExceeded):
            # It is done all the same, and what reads the line wants to know how many failed.
            _print(error.summary)
        return error.exit_code
    except store_errors() as error:
        # A full disk, a missing right, a folder where a file should be: the system's own words say which.
        say(f"headwater {command}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"headwater {command}: interrupted; run the same command again to continue")
        return 1


def parse_arguments(
    job: str,
    model: type[Config],
    run: Callable[[Config], dict[str, Any]],
    argv: Sequence[str] | None,
    bare: str | None = None,
) -> argparse.Namespace:
    """The command line of one job; where it is wrong, or asks for --help, argparse prints and exits."""
    parser = argparse.ArgumentParser(prog=f"headwater {job}", description=(run.__doc__ or "").strip())
    add_flags(parser, model, bare)
    return parser.parse_args(separated(sys.argv[1:] if argv is None else argv, model))


def _print(summary: Mapping[str, Any]) -> None:
    """The one JSON line on stdout."""
    print(json.dumps(summary, sort_keys=True), flush=True)


def _interrupt(_signal: int, _frame: object) -> None:
    """Let SIGTERM end a job as Ctrl-C does, so that what it started is stopped."""
    raise KeyboardInterrupt
