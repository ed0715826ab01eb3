"""The examples in configs/: each is read by what reads it in earnest, or by a parser of its format."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines import cron
from pipelines.config import load_config
from pipelines.curate import CurateConfig
from pipelines.schedule import ScheduleConfig

CONFIGS = Path(__file__).parents[2] / "configs"
DEPLOY = CONFIGS / "deploy"


def test_the_configurations_are_valid() -> None:
    curation = load_config(CurateConfig, str(CONFIGS / "curate.yaml"), [])
    assert curation.score is not None and curation.signals is None and curation.ingest[0].source == "cc12m"
    nightly = load_config(ScheduleConfig, str(CONFIGS / "schedule.yaml"), []).jobs["nightly"]
    assert nightly.command[0] == "curate" and 3 in nightly.ok


def test_systemd_units(tmp_path: Path) -> None:
    units = {}
    for name in ("headwater.service", "headwater.timer"):
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
        units[name] = parser
    service, timer = units["headwater.service"]["Service"], units["headwater.timer"]["Timer"]
    assert service["Type"] == "oneshot" and service["SuccessExitStatus"] == "3"
    assert service["ExecStart"].split("headwater ")[-1].startswith("curate --config ")
    assert timer["Unit"] == "headwater.service" and timer["Persistent"] == "true"
    assert units["headwater.timer"]["Install"]["WantedBy"] == "timers.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_its_units(tmp_path: Path) -> None:
    text = (DEPLOY / "headwater.service").read_text(encoding="utf-8")
    # It looks for the program, which is not installed here.
    text = text.replace("/opt/headwater/.venv/bin/headwater", shutil.which("true") or "/bin/true")
    (tmp_path / "headwater.service").write_text(text, encoding="utf-8")
    shutil.copy(DEPLOY / "headwater.timer", tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "headwater.service", tmp_path / "headwater.timer"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "headwater." in line], done.stderr


def test_crontab() -> None:
    lines = (DEPLOY / "crontab").read_text(encoding="utf-8").splitlines()
    [entry] = [line for line in lines if line and not line.startswith("#") and "=" not in line.split()[0]]
    cron.check(" ".join(entry.split()[:5]))
    command = entry.split(maxsplit=5)[5]
    # A bare per cent sign would end the command.
    assert "%" not in command and "headwater curate --config" in command
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_cronjob() -> None:
    [job] = yaml.safe_load_all((DEPLOY / "cronjob.yaml").read_text(encoding="utf-8"))
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"], spec["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
    assert job["metadata"]["name"].replace("-", "").isalnum()
    cron.check(spec["schedule"])
    cron.zone(spec["timeZone"])
    pods = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pods["restartPolicy"] == "Never"  # a podFailurePolicy takes no other
    [container] = pods["containers"]
    assert container["command"][:2] == ["headwater", "curate"] and container["image"] and container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pods["volumes"]}
    [rule] = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert all(len([key for key in volume if key != "name"]) == 1 for volume in pods["volumes"])
