"""The files that start Headwater elsewhere, read as those who read them do."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.cli import COMMANDS
from pipelines.config import JobConfig, load_config, parse_flags
from pipelines.job import parse_arguments
from pipelines.score import ScoreConfig

REPOSITORY = Path(__file__).parents[2]
LAUNCHED = ("ray_cluster.yaml", "configs/cluster/gcp.yaml", "configs/cluster/on_premises.yaml")
DEPLOYED = sorted((REPOSITORY / "configs" / "deploy").glob("*.yaml"))


def read(name: str | Path) -> dict[str, Any]:
    return dict(yaml.safe_load((REPOSITORY / name).read_text()))


@pytest.mark.parametrize("name", LAUNCHED)
def test_cluster_files_are_what_ray_reads(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("--disable-usage-stats" in line for line in starts if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_cluster_files_differ_in_machines_alone() -> None:
    ours = ("file_mounts", "rsync_exclude", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    aws, *others = ({key: read(name)[key] for key in ours} for name in LAUNCHED)
    for other in others:
        # With Ray's local provider alone the second autoscaler miscounts.
        starts = other["head_start_ray_commands"]
        starts[-1] = starts[-1].removeprefix("RAY_enable_autoscaler_v2=0 ")
        assert other == aws


def test_login_shells_of_nodes_know_what_ray_needs() -> None:
    lines = (REPOSITORY / "configs" / "cluster" / "environment.sh").read_text().splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    assert exported["RAY_AUTH_MODE"] == "token"
    assert exported["RAY_USAGE_STATS_ENABLED"] == "0"
    assert exported["PATH"].startswith('"$HOME/headwater-env/bin:')


def commands(value: Any) -> list[list[str]]:
    """The words of all commands in a manifest."""
    if isinstance(value, list):
        return [words for item in value for words in commands(item)]
    if not isinstance(value, dict):
        return []
    own = [shlex.split(value["entrypoint"])] if "entrypoint" in value else []
    own += [value["command"]] if "command" in value else []
    return own + commands(list(value.values()))


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: path.name)
def test_manifests_run_commands_that_are_there(path: Path) -> None:
    manifest = read(path)
    assert manifest["apiVersion"] == ("batch/v1" if manifest["kind"] == "CronJob" else "ray.io/v1")
    assert manifest["kind"].lower() == path.stem
    ((program, command, *_),) = commands(manifest)
    assert (program, command in COMMANDS) == ("headwater", True)


def test_the_ray_jobs_flags_are_the_jobs() -> None:
    ((_, job, *words),) = commands(read("configs/deploy/rayjob.yaml"))
    arguments = parse_arguments(job, ScoreConfig, run, words)
    config = load_config(ScoreConfig, arguments.config, parse_flags(arguments, ScoreConfig))
    assert (config.root, config.gpus) == ("/data", 1)


def run(config: JobConfig) -> dict[str, Any]:
    raise NotImplementedError


def test_ray_manifests_have_the_same_cluster_and_a_token() -> None:
    job, cron = read("configs/deploy/rayjob.yaml")["spec"], read("configs/deploy/raycronjob.yaml")["spec"]
    cluster = job["rayClusterSpec"]
    assert cluster == cron["jobTemplate"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert f"ray=={cluster['rayVersion']}" in (REPOSITORY / "constraints.txt").read_text().split()
