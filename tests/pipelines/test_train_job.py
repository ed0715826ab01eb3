"""`headwater train`: alone, under torchrun, and by Ray Train, on one small mixture."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from evaluation.tasks import Task, write_task
from filters.errors import ConfigError, HeadwaterError
from pipelines import train
from pipelines.engine import run_together
from tests.conftest import TINY
from tests.trainer.conftest import TinyMix, draw, write_mix
from trainer.config import TrainConfig

HERE = Path(__file__).parents[2]
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one mixture of 64 pairs in two sources, and a recipe for a small vision transformer."""
    root = tmp_path_factory.mktemp("root")
    drawn = [draw(i) for i in range(64)]
    mix: TinyMix = write_mix(root, [data for data, _ in drawn], [caption for _, caption in drawn])
    (root / "mixes" / "tiny").mkdir(parents=True)
    shutil.move(mix.manifest, root / "mixes" / "tiny" / "manifest.parquet")
    shutil.copytree(root / "mixes" / "tiny", root / "mixes" / "other")
    (root / "model").mkdir()
    (root / "model" / "open_clip_config.json").write_text(json.dumps(TINY))
    recipe = {
        "model": str(root / "model"), "samples_seen": 320, "batch": 16, "log_every": 1, "lr": 1e-3,
        "augment": {"crop": [0.5, 1.0]},
    }  # fmt: skip
    (root / "recipe.yaml").write_text(yaml.safe_dump({"mixtures": ["tiny"], "train": recipe}))
    return root


@pytest.fixture(scope="module")
def alone(root: Path) -> Path:
    """What one process trains."""
    return trained(root, "alone")


def trained(root: Path, name: str, *flags: str) -> Path:
    """The mixture `tiny` trained by this process's `headwater train`, its model moved to `name`."""
    assert train.main(["--root", str(root), "--config", str(root / "recipe.yaml"), *flags]) == 0
    return moved(root, name)


def moved(root: Path, name: str) -> Path:
    out = root / "done" / name
    out.parent.mkdir(exist_ok=True)
    return Path(shutil.move(root / "models" / "tiny", out))


def torchrun(root: Path, processes: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """`torchrun -m pipelines.train` with a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port),
        "-m", "pipelines.train", "--root", str(root), "--config", str(root / "recipe.yaml"), *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=root)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def assert_alike(out: Path, other: Path) -> None:
    """Losses within 1e-5, and weights within what 20 steps of AdamW make of a rounding."""
    assert losses(out) == pytest.approx(losses(other), abs=1e-5)
    weights, others = load_file(out / WEIGHTS), load_file(other / WEIGHTS)
    for key, value in weights.items():
        torch.testing.assert_close(value, others[key], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_of_torchrun_are_one(root: Path, alone: Path) -> None:
    done = torchrun(root, 2)
    assert done.returncode == 0, done.stderr
    [summary] = [json.loads(line) for line in done.stdout.splitlines()]  # the second process says nothing
    assert summary["counts"] == {"seen": 320}
    assert_alike(moved(root, "torchrun"), alone)


def test_two_processes_of_ray_are_torchrun_s(root: Path, alone: Path, ray_session: None) -> None:
    assert_alike(trained(root, "ray", "--ranks", "2"), alone)
    torch_run = root / "done" / "torchrun"
    if torch_run.exists():
        assert losses(root / "done" / "ray") == losses(torch_run)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_under_torchrun_too(root: Path, alone: Path) -> None:
    shutil.copytree(alone, root / "models" / "tiny")
    done = torchrun(root, 2)
    shutil.rmtree(root / "models" / "tiny")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_skipped"] == 1


@pytest.mark.slow
def test_a_failure_of_any_process_is_one_line(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = torchrun(root, 2, "--set", "train.batch=15")
    assert done.returncode != 0
    assert "15" in done.stderr
    assert 'Traceback (most recent call last):\n  File "' + str(HERE / "pipelines") not in done.stderr
    flags = ["--root", str(root), "--config", str(root / "recipe.yaml"), "--local", "--set", "train.batch=99"]
    assert train.main(flags) == 3
    assert "a batch of 99 needs as many pairs (there are 64)" in capfd.readouterr().err


@pytest.mark.slow
def test_what_fails_in_a_process_of_ray_is_said_in_one_line(ray_session: None) -> None:
    def work(item: str) -> dict[str, Any]:
        import torch.distributed

        if torch.distributed.get_rank() == 1:
            raise ValueError(f"no {item}\nat all")
        return {}

    with pytest.raises(HeadwaterError, match=r"^process 1: ValueError: no luck at all$"):
        run_together(work, "luck", 2)
    with pytest.raises(ConfigError, match="9 processes of 1 CPUs"):
        run_together(work, "luck", 9)


def test_the_dry_run_says_what_a_run_would_take(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.estimate._TIMED_SECONDS", 0.4)
    flags = ["--root", str(root), "--config", str(root / "recipe.yaml"), "--dry-run", "--find-batch"]
    assert train.main(flags) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    estimate = found["estimates"]["tiny"]
    assert estimate["steps"] == 20
    assert estimate["passes"] == {"a": 5.0, "b": 5.0}
    assert estimate["parameters"]["total"] == estimate["parameters"]["image"] + estimate["parameters"]["text"]
    memory = estimate["memory_bytes"]
    assert memory["weights"] == 4 * estimate["parameters"]["total"]
    assert memory["total"] == sum(value for key, value in memory.items() if key != "total")
    assert estimate["hours"] > 0
    assert set(found["micro_batches"]) == {"8", "16"}
    assert "20 steps of 16 pairs" in err
    assert not (root / "models" / "tiny").exists()


def test_evaluation_while_training_goes_to_the_metrics(root: Path, eval_set: str) -> None:
    out = trained(
        root, "evaluated", "--local", "--evaluate-on", eval_set, "--held-out", "other", "--held-out-pairs", "40",
        "--set", "train.evaluate_every=160",
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(found) == 2
    for one in found:
        assert 0 <= one["zero_shot"][eval_set] <= 1
        assert set(one["held_out"]["by_source"]) == {"a", "b"}
        assert (one["held_out"]["pairs"], one["held_out"]["broken"]) == (32, 0)
    assert found[1]["held_out"]["loss"] < found[0]["held_out"]["loss"]


def test_a_path_that_is_there_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = TrainConfig(model="model", pretrained="laion2b_e16")
    whole = train.with_whole_paths(recipe)
    assert (whole.model, whole.pretrained, whole.tars) == (str(tmp_path / "model"), "laion2b_e16", None)
    assert train.with_whole_paths(TrainConfig(model="RN50")).model == "RN50"


@pytest.fixture
def eval_set(root: Path) -> str:
    folder = root / "eval" / "shapes"
    if not folder.exists():
        drawn = [draw(i) for i in range(24)]
        names = sorted({caption for _, caption in drawn})
        labels = np.array([names.index(caption) for _, caption in drawn], dtype=np.int64)
        images, keys = [data for data, _ in drawn], [f"{i:03d}" for i in range(24)]
        write_task(folder, Task("shapes", images, labels, names, ["{c}"], keys))
    return folder.name
