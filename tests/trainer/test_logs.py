from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from filters.errors import ConfigError
from trainer.config import TrainConfig
from trainer.logs import METRICS_NAME, SPEED_NAME, Log


def line(step: int) -> tuple[dict[str, object], dict[str, object]]:
    head = {"step": step, "samples_seen": step * 8}
    return {**head, "loss": 1.0 / step, "loss_by_source": {"a": 2.0}}, {**head, "samples_per_s": 100.0}


def steps(path: Path) -> list[int]:
    return [json.loads(text)["step"] for text in path.read_text().splitlines()]


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": "x", "batch": 8, "samples_seen": 80, **changes})


def test_two_files_of_lines_that_belong_together(tmp_path: Path) -> None:
    log = Log(tmp_path, config(), "run")
    for step in (1, 2):
        log.write(*line(step))
    log.evaluated({"step": 2, "samples_seen": 16, "evaluation": {"zero_shot": {"x": 0.5}}})
    log.close()
    assert steps(tmp_path / METRICS_NAME) == [1, 2, 2]
    assert steps(tmp_path / SPEED_NAME) == [1, 2]


def test_a_run_that_goes_on_drops_the_lines_after_its_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, config(), "run")
    for step in (1, 2, 3):
        log.write(*line(step))
    log.close()
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"step": 4, "samp')
    log = Log(tmp_path, config(), "run", samples=16)
    log.write(*line(3))
    log.close()
    assert steps(tmp_path / METRICS_NAME) == steps(tmp_path / SPEED_NAME) == [1, 2, 3]
    Log(tmp_path, config(), "run").close()
    assert (tmp_path / METRICS_NAME).read_text() == ""


def test_tensorboard_gets_every_number_by_name(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, config(tensorboard=True), "run")
    for step in (1, 2):
        log.write(*line(step))
    log.evaluated({"step": 2, "samples_seen": 16, "evaluation": {"zero_shot": {"x": 0.5}}})
    log.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {
        "samples_seen", "loss", "loss_by_source/a", "samples_per_s", "evaluation/zero_shot/x",
    }  # fmt: skip
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


def test_weights_and_biases_gets_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    class Run:
        def log(self, numbers: object, step: int) -> None:
            calls.append(("log", (numbers, step)))

        def finish(self) -> None:
            calls.append(("finish", None))

    class Module:
        @staticmethod
        def init(**settings: object) -> Run:
            calls.append(("init", settings["project"]))
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Module)
    log = Log(tmp_path, config(wandb="mixes"), "run")
    log.write(*line(1))
    log.close()
    numbers = {"samples_seen": 8.0, "loss": 1.0, "loss_by_source/a": 2.0, "samples_per_s": 100.0}
    assert calls == [("init", "mixes"), ("log", (numbers, 1)), ("finish", None)]


@pytest.mark.parametrize(("field", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_log_that_is_not_installed_is_named(
    field: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"{field}: it is not installed; `pip install {field}`"):
        Log(tmp_path, config(**{field: "mixes" if field == "wandb" else True}), "run")
