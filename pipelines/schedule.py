"""Headwater's own commands at their times, with a page that says how they went.

headwater schedule --config configs/schedule.yaml
headwater schedule --config configs/schedule.yaml --once
headwater schedule --config configs/schedule.yaml --dry-run
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from filters.errors import HeadwaterError
from pipelines import cron
from pipelines.cli import COMMANDS
from pipelines.config import JobConfig
from pipelines.job import job_main, say
from pipelines.lease import lease
from pipelines.notify import NotifyConfig, notify
from pipelines.schedule_page import page
from pipelines.store.mirror import own_folder
from pipelines.store.root import Root

FILE, PAGE, LOGS = "schedule.json", "schedule.html", "schedule"
_TICK = 0.5  # seconds
_PATIENCE = 30.0  # seconds that a job has to end when the scheduler does


class Entry(BaseModel):
    """One command and its times."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(description="cron expression: minute, hour, day, month, weekday, such as '30 2 * * *'")
    command: list[str] = Field(min_length=1, description="a command of headwater with its arguments")
    timezone: str = Field("UTC", description="time zone of the expression, such as Europe/Berlin")
    missed: Literal["run", "skip"] = Field(
        "run", description="times that passed while no scheduler ran: run once for all of them, or leave them out"
    )
    overlap: Literal["skip", "queue"] = Field(
        "skip", description="a time that comes while the last run goes on: leave it out, or run once after it"
    )
    ok: list[int] = Field([0], description="exit codes that are no failure; 3 is a budget that was spent")

    @field_validator("cron")
    @classmethod
    def _cron(cls, text: str) -> str:
        return cron.check(text)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        return cron.zone(name).key

    @field_validator("command")
    @classmethod
    def _known(cls, words: list[str]) -> list[str]:
        if words[0] not in COMMANDS or words[0] == "schedule":
            raise ValueError(f"{words[0]!r} is no command of headwater that can be scheduled")
        return words


class ScheduleConfig(JobConfig):
    """Which commands run when, and who is told of failures."""

    jobs: dict[str, Entry] = Field(description="commands by name")
    notify: NotifyConfig = Field(NotifyConfig(), description="who is told of a run that failed")
    once: bool = Field(False, description="run what is due or has never run, wait for it, and end")

    @field_validator("jobs")
    @classmethod
    def _some(cls, jobs: dict[str, Entry]) -> dict[str, Entry]:
        wrong = [name for name in jobs if not name.replace("-", "").replace("_", "").isalnum()]
        if wrong or not jobs:
            raise ValueError(f"name {wrong[0]!r} is of letters, digits, '-' and '_'" if wrong else "at least one job")
        return jobs


def run(config: ScheduleConfig) -> dict[str, Any]:
    """Run commands at their times until told to stop (SIGTERM, Ctrl-C); `<root>/schedule.html` says how they went."""
    root = Root(config.root)
    with lease(root, "schedule") as held:
        scheduler = Scheduler(config, root, _now())
        try:
            scheduler.tick(_now())
            while not config.once or scheduler.is_busy:
                time.sleep(_TICK)
                held.check()
                scheduler.tick(_now(), starts=not config.once)
        except KeyboardInterrupt:
            say("schedule: stopping")
        finally:
            scheduler.stop()
    if scheduler.failed and config.once:
        raise HeadwaterError(f"{', '.join(scheduler.failed)} failed; {root.address(PAGE)} says how")
    return {"job": "schedule", "runs": scheduler.runs, "failed": scheduler.failed}


def plan(config: ScheduleConfig) -> dict[str, Any]:
    """The next five times of each job."""
    found = {}
    for name, entry in config.jobs.items():
        times = cron.upcoming(entry.cron, _now().astimezone(cron.zone(entry.timezone)), 5)
        found[name] = [moment.isoformat() for moment in times]
        say(f"schedule: {name}: {', '.join(found[name])}: headwater {' '.join(entry.command)}")
    return {"next": found}


class Scheduler:
    """What is known of each job, and those that run."""

    def __init__(self, config: ScheduleConfig, root: Root, now: datetime.datetime) -> None:
        self.config, self.root, self.began = config, root, now
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.queued: dict[str, datetime.datetime] = {}
        self.runs, self.failed = 0, list[str]()
        known = root.read_json(FILE).get("jobs", {}) if root.exists(FILE) else {}
        # A run that was under way when an earlier scheduler was killed has no end.
        self.state: dict[str, dict[str, Any]] = {
            name: {**known.get(name, {}), "running": None} for name in config.jobs
        }

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits for another to end."""
        return bool(self.running or self.queued)

    def tick(self, now: datetime.datetime, starts: bool = True) -> None:
        """Take in what has ended, start what is due, and write the status if anything has changed."""
        changed = False
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self._ended(name, now)
                changed = True
        for name, entry in self.config.jobs.items():
            due = self._due(name, entry, now) if starts else None
            if due is not None:
                changed = True
                self.state[name]["due"] = due.isoformat()
                self._take(name, entry, due, now)
            if name in self.queued and name not in self.running:
                self._start(name, entry, self.queued.pop(name), now)
                changed = True
        if changed or not self.root.exists(FILE):
            self._write(now)

    def stop(self) -> None:
        """End what runs, as Ctrl-C does; what was done by then stays done."""
        self.queued.clear()
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        for name, process in list(self.running.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
            self._ended(name, _now(), stopped=True)
        self._write(_now())

    def _due(self, name: str, entry: Entry, now: datetime.datetime) -> datetime.datetime | None:
        """The latest time that has come and was not dealt with, if there is one."""
        latest = cron.latest(entry.cron, now.astimezone(cron.zone(entry.timezone)))
        known = self.state[name].get("due")
        if known is None:
            # A job that is new begins with its next time, or at once where only one look is taken.
            return now if self.config.once else latest if latest > self.began else None
        return latest if latest > datetime.datetime.fromisoformat(known) else None

    def _take(self, name: str, entry: Entry, due: datetime.datetime, now: datetime.datetime) -> None:
        if due <= self.began and entry.missed == "skip" and not self.config.once:
            say(f"schedule: {name}: missed {due.isoformat()}, left out")
        elif name not in self.running:
            self._start(name, entry, due, now)
        elif entry.overlap == "queue":
            self.queued[name] = due
        else:
            self.state[name]["skipped"] = self.state[name].get("skipped", 0) + 1
            say(f"schedule: {name}: still running, {due.isoformat()} is left out")

    def _start(self, name: str, entry: Entry, due: datetime.datetime, now: datetime.datetime) -> None:
        folder = own_folder(self.root, LOGS)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                argv_of(entry), stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
            )
        self.runs += 1
        self.state[name]["running"] = {
            "due": due.isoformat(), "started": now.isoformat(), "pid": self.running[name].pid,
        }  # fmt: skip
        say(f"schedule: {name}: headwater {' '.join(entry.command)}")

    def _ended(self, name: str, now: datetime.datetime, stopped: bool = False) -> None:
        code, entry = self.running.pop(name).returncode, self.config.jobs[name]
        folder = own_folder(self.root, LOGS)
        last = {
            **self.state[name]["running"], "ended": now.isoformat(), "exit_code": code, "stopped": stopped,
            "said": _last_line(folder / f"{name}.log"), "summary": _last_line(folder / f"{name}.out"),
        }  # fmt: skip
        self.state[name] |= {"running": None, "last": last}
        if code in entry.ok:
            self.state[name]["last_success"] = now.isoformat()
            say(f"schedule: {name}: done ({code})")
            return
        say(f"schedule: {name}: failed ({code}): {last['said']}")
        if not stopped:
            self.failed.append(name)
            errors = notify(self.config.notify, {"job": name, "command": ["headwater", *entry.command], **last})
            last["notify_errors"] = errors
            for error in errors:
                say(f"schedule: {error}")

    def _write(self, now: datetime.datetime) -> None:
        for name, entry in self.config.jobs.items():
            [following] = cron.upcoming(entry.cron, now.astimezone(cron.zone(entry.timezone)), 1)
            self.state[name] |= {"next": following.isoformat(), "command": entry.command, "cron": entry.cron}
        status = {"written": now.isoformat(timespec="seconds"), "jobs": self.state}
        self.root.write_json(status, FILE)
        self.root.write_bytes(page(status).encode(), PAGE)


def argv_of(entry: Entry) -> list[str]:
    """The command line of a job: this installation's, whatever the path holds."""
    return [sys.executable, "-m", "pipelines.cli", *entry.command]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _last_line(path: Path, most: int = 2000) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater schedule`."""
    return job_main("schedule", ScheduleConfig, run, plan, argv, recorded=False)


if __name__ == "__main__":
    sys.exit(main())
