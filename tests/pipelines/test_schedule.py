"""The scheduler: cron expressions in time zones, missed and overlapping times, real processes, real notifications."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from filters.errors import ConfigError, HeadwaterError
from pipelines import cron, schedule
from pipelines.config import load_config
from pipelines.schedule import ScheduleConfig, Scheduler
from pipelines.store.root import Root
from tests.pipelines.chain import serving

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)


def configured(root: Path, jobs: dict[str, dict[str, Any]], **more: Any) -> ScheduleConfig:
    given = {name: {"cron": "*/10 * * * *", "command": ["schema"], **job} for name, job in jobs.items()}
    return ScheduleConfig.model_validate({"root": str(root), "jobs": given, **more})


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run the Python code that is their command's second word, in place of headwater."""
    monkeypatch.setattr(schedule, "argv_of", lambda entry: [sys.executable, "-c", entry.command[1]])


def settle(scheduler: Scheduler, now: datetime.datetime) -> None:
    for process in list(scheduler.running.values()):
        process.wait()
    scheduler.tick(now, starts=False)


def test_times_are_those_of_the_zone_over_changes_of_the_clock() -> None:
    berlin = cron.zone("Europe/Berlin")
    start = datetime.datetime(2026, 3, 27, 12, tzinfo=berlin)
    days = [moment.isoformat() for moment in cron.upcoming("30 2 * * *", start, 3)]
    # 02:30 is left out on the 29th: the run is at 03:00.
    assert days == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    assert cron.latest("0 12 * * *", start) == start
    assert cron.latest("0 12 * * *", start - MINUTE) == start - datetime.timedelta(days=1)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"cron": "61 * * * *"}, "field 'jobs.x.cron'.*not a cron expression"),
        ({"cron": "0 0 31 2 *"}, "field 'jobs.x.cron'.*ever due"),
        ({"timezone": "Berlin"}, "'Berlin' is no time zone such as Europe/Berlin"),
        ({"command": ["rm"]}, "'rm' is no command of headwater"),
    ],
)
def test_what_cannot_be_scheduled_is_one_clear_line(tmp_path: Path, job: dict[str, Any], message: str) -> None:
    path = tmp_path / "schedule.yaml"
    entry = {"cron": "0 0 * * *", "command": ["schema"], **job}
    path.write_text(json.dumps({"jobs": {"x": entry}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(ScheduleConfig, str(path), [])


def test_dry_run_names_five_times_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(json.dumps({"jobs": {"x": {"cron": "0 3 * * 1", "command": ["schema"]}}}), encoding="utf-8")
    assert schedule.main(["--root", str(tmp_path / "root"), "--config", str(path), "--dry-run"]) == 0
    times = json.loads(capsys.readouterr().out)["next"]["x"]
    assert len(times) == 5 and all(datetime.datetime.fromisoformat(t).weekday() == 0 for t in times)
    assert not (tmp_path / "root").exists()


def test_missed_times_run_once_or_not_at_all(tmp_path: Path, programs: None) -> None:
    code = ["sql", "pass"]
    config = configured(tmp_path, {"run": {"command": code}, "skip": {"command": code, "missed": "skip"}})
    root = Root(str(tmp_path))
    first = Scheduler(config, root, NOON + MINUTE)
    first.tick(NOON + MINUTE)
    assert first.runs == 0  # new jobs begin with their next time
    first.tick(NOON + 10 * MINUTE)
    assert first.runs == 2
    settle(first, NOON + 11 * MINUTE)
    # Three times pass without a scheduler.
    second = Scheduler(config, root, NOON + 45 * MINUTE)
    second.tick(NOON + 45 * MINUTE)
    assert list(second.running) == ["run"]
    settle(second, NOON + 46 * MINUTE)
    second.tick(NOON + 49 * MINUTE)
    assert second.runs == 1
    # The clock is set back by an hour: what ran is not run again.
    second.tick(NOON - 11 * MINUTE)
    assert second.runs == 1
    second.tick(NOON + 50 * MINUTE)
    assert second.runs == 3
    settle(second, NOON + 51 * MINUTE)


def test_a_time_that_comes_during_a_run_is_left_out_or_queued_once(tmp_path: Path, programs: None) -> None:
    gate = tmp_path / "go"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.02)"
    jobs: dict[str, dict[str, Any]] = {
        "skip": {"command": ["sql", waits]},
        "queue": {"command": ["sql", waits], "overlap": "queue"},
    }
    scheduler = Scheduler(configured(tmp_path / "root", jobs), Root(str(tmp_path / "root")), NOON - MINUTE)
    for tens in range(3):
        scheduler.tick(NOON + 10 * tens * MINUTE)
    assert scheduler.runs == 2 and list(scheduler.queued) == ["queue"]
    gate.touch()
    settle(scheduler, NOON + 21 * MINUTE)
    assert scheduler.runs == 3 and list(scheduler.running) == ["queue"]
    settle(scheduler, NOON + 22 * MINUTE)
    assert not scheduler.is_busy and scheduler.failed == []
    state = Root(str(tmp_path / "root")).read_json("schedule.json")["jobs"]
    assert state["skip"]["skipped"] == 2 and state["queue"]["last"]["due"] == (NOON + 20 * MINUTE).isoformat()


class _Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        server.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(server.answer)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_once_runs_headwater_itself_and_tells_of_failures(tmp_path: Path) -> None:
    server: Any = http.server.HTTPServer(("127.0.0.1", 0), _Hook)
    server.reports, server.answer = [], 500
    told = tmp_path / "told.json"
    program = [sys.executable, "-c", f"import sys; open({str(told)!r}, 'w').write(sys.stdin.read())"]
    secret = f"http://127.0.0.1:{server.server_address[1]}/secret"
    # There is no catalog here.
    jobs = {
        "bad": {"command": ["sql", "--root", str(tmp_path / "none"), "SELECT 1"]},
        "fine": {"command": ["power", "--help"]},
    }
    config = configured(tmp_path / "root", jobs, once=True, notify={"command": program, "webhook": secret})
    with serving(server):
        with pytest.raises(HeadwaterError, match=r"^bad failed; .*schedule.html says how$"):
            schedule.run(config)
        assert [report["job"] for report in server.reports] == ["bad"]
    [report] = server.reports
    assert report["exit_code"] == 2 and "no catalog" in report["said"] and report == json.loads(told.read_text())
    root = Root(config.root)
    state = root.read_json("schedule.json")["jobs"]
    assert state["bad"]["last"]["notify_errors"] == ["notify.webhook answered 500"]
    assert state["fine"]["last"]["exit_code"] == 0 and "last_success" in state["fine"]
    text = root.read_bytes("schedule.html").decode()
    assert '<tr class="failed"><td>bad' in text and '<tr class="fine"><td>fine' in text and "no catalog" in text
    assert "secret" not in text + json.dumps(state)
    # Both have run, and no time has come since (but for a test that runs over a tenth minute).
    assert schedule.run(config.model_copy(update={"jobs": {"fine": config.jobs["fine"].model_copy(
        update={"cron": "0 0 1 1 *"})}}))["runs"] == 0  # fmt: skip
    assert not root.exists("schedule.lease")


def test_sigterm_ends_scheduler_and_jobs(tmp_path: Path) -> None:
    """The scheduler as a process, with an expression of seconds and a job that would never end."""
    mark = tmp_path / "pid"
    job = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    code = (
        "import sys; from pipelines import schedule\n"
        f"schedule.argv_of = lambda entry: [sys.executable, '-c', {job!r}]\n"
        "sys.exit(schedule.main(sys.argv[1:]))"
    )
    path = tmp_path / "schedule.yaml"
    path.write_text(json.dumps({"jobs": {"x": {"cron": "* * * * * *", "command": ["sql"]}}}), encoding="utf-8")
    arguments = ["--root", str(tmp_path / "root"), "--config", str(path)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    until = time.monotonic() + 120
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out)["runs"] >= 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
    assert Root(str(tmp_path / "root")).read_json("schedule.json")["jobs"]["x"]["last"]["stopped"]
