from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from filters.errors import HeadwaterError, InputError
from tests.trainer.conftest import COLOURS, SHAPES, TinyMix
from trainer.config import TrainConfig
from trainer.embed import embed_images, embed_texts
from trainer.loop import AVERAGE, CHECKPOINTS, train
from trainer.model import LoadedModel, load_model
from trainer.record import fingerprint, finished

RECIPES = Path(__file__).parents[2] / "configs" / "train"


def recipe(architecture: Path, **changes: float) -> TrainConfig:
    base = {"model": str(architecture), "samples_seen": 960, "batch": 24, "lr": 2e-3, "log_every": 1}
    return TrainConfig.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def trained(mix: TinyMix, architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(mix.manifest, mix.shards_root, out, recipe(architecture))
    return out


def test_the_loss_falls_and_the_model_tells_shapes_apart(trained: Path, mix: TinyMix) -> None:
    losses = [json.loads(line)["loss"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    model = load_model(str(trained))
    names = [f"a {colour} {shape}" for shape in SHAPES for colour in COLOURS]
    guesses = (embed_images(model, mix.images) @ embed_texts(model, names).T).argmax(axis=1)
    right = np.mean([names[guess] == caption for guess, caption in zip(guesses, mix.captions, strict=True)])
    assert right > 4 / len(names)  # four times chance


def test_the_record_says_what_was_done_and_holds_no_times(trained: Path, mix: TinyMix, architecture: Path) -> None:
    record = json.loads((trained / "train.json").read_text())
    assert record == finished(trained)
    assert (record["steps"], record["samples_seen"], record["pairs"], record["decode_errors"]) == (40, 960, 48, 0)
    assert record["fingerprint"] == fingerprint(mix.manifest, recipe(architecture))
    assert "model" not in record["config"]  # a path of this machine
    assert not any("second" in key or "time" in key for key in record)
    assert not list(trained.glob("*.tmp"))


def test_a_repeat_gives_the_same_weights_bit_for_bit(
    trained: Path, mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture))
    assert torch.get_num_threads() == threads
    for name in ("open_clip_model.safetensors", "open_clip_config.json", "train.json", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_finished_run_is_left_alone_and_another_recipe_is_not(
    mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    short = recipe(architecture, samples_seen=48)
    first = train(mix.manifest, mix.shards_root, tmp_path, short)
    written = (tmp_path / "open_clip_model.safetensors").stat().st_mtime_ns
    assert train(mix.manifest, tmp_path / "no shards needed", tmp_path, short) == first
    assert (tmp_path / "open_clip_model.safetensors").stat().st_mtime_ns == written
    again = train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture, samples_seen=96))
    assert (again["steps"], first["steps"]) == (4, 2)


def test_a_cut_record_or_missing_weights_mean_not_finished(
    mix: TinyMix, trained: Path, architecture: Path, tmp_path: Path
) -> None:
    """A run killed or a disk filled at any point is trained again, to the same bytes."""
    out = tmp_path / "out with space"
    shutil.copytree(trained, out)
    (out / "train.json").write_text((out / "train.json").read_text()[:50])
    assert finished(out) is None
    train(mix.manifest, mix.shards_root, out, recipe(architecture))
    assert (out / "train.json").read_bytes() == (trained / "train.json").read_bytes()
    assert load_model(str(out)).fingerprint == load_model(str(trained)).fingerprint
    (out / "open_clip_model.safetensors").unlink()
    assert finished(out) is None


def test_a_loss_that_is_not_finite_stops_with_advice(mix: TinyMix, architecture: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"the loss is nan; lower `lr`.*no checkpoint was written"):
        train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture, lr=1e30, clip=0, warmup=0))
    assert finished(tmp_path) is None


def test_a_missing_manifest_is_named(mix: TinyMix, architecture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.parquet cannot be read"):
        train(tmp_path / "absent.parquet", mix.shards_root, tmp_path / "out", recipe(architecture))


def metrics(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_a_line_has_the_loss_of_each_source_and_speed_lies_beside(trained: Path) -> None:
    lines, speeds = metrics(trained), metrics(trained, "speed.jsonl")
    assert [line["step"] for line in lines] == [line["step"] for line in speeds] == list(range(1, 41))
    for line in lines:
        assert set(line) == {
            "step", "samples_seen", "epoch", "loss", "mean_loss", "loss_by_source", "grad_norm", "lr", "logit_scale",
            "decode_errors",
        }  # fmt: skip
        assert set(line["loss_by_source"]) == {"a", "b"}
        low, high = sorted(line["loss_by_source"].values())
        assert low <= line["loss"] <= high
    assert [line["epoch"] for line in lines[:4]] == [0, 0, 1, 1]
    for speed in speeds:
        assert speed["samples_per_s"] > 0
        assert 0 <= speed["data_wait"] <= 1
        assert 0 < speed["mfu"] < 1


def test_a_killed_run_goes_on_to_the_very_same_losses_and_weights(
    trained: Path, mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    """SIGKILL after the third checkpoint; what was logged after it is logged again, once."""
    recipe_file = tmp_path / "recipe.json"
    config = recipe(architecture, save_every=100)
    recipe_file.write_text(config.model_dump_json())
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", CHILD, mix.manifest, mix.shards_root, out, recipe_file])
    try:
        wait_for(lambda: len(list((out / CHECKPOINTS).glob("0*"))) > 0 and len(metrics(out)) >= 15, child)
    finally:
        child.kill()
        child.wait()
    assert finished(out) is None
    [last] = [path for path in (out / CHECKPOINTS).iterdir() if path.name.isdigit()]
    assert 0 < int(last.name) < 960
    record = train(mix.manifest, mix.shards_root, out, config)
    assert [line["step"] for line in metrics(out, "speed.jsonl")] == list(range(1, 41))
    for name in ("open_clip_model.safetensors", "train.json", "metrics.jsonl"):
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name
    assert record == finished(trained)
    assert not (out / CHECKPOINTS).exists()


CHILD = """
import sys, time
from pathlib import Path
import trainer.loop
from trainer.config import TrainConfig
manifest, shards, out, config = map(Path, sys.argv[1:])
step = trainer.loop.TrainStep.__call__
def slow(self, *given):
    time.sleep(0.05)
    return step(self, *given)
trainer.loop.TrainStep.__call__ = slow
trainer.loop.train(manifest, shards, out, TrainConfig.model_validate_json(config.read_text()))
"""


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        with contextlib.suppress(OSError, ValueError):
            if condition():
                return
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("nothing to kill after two minutes")


def test_checkpoints_of_another_recipe_are_not_gone_on_from(
    trained: Path, mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        train(
            mix.manifest, mix.shards_root, tmp_path, recipe(architecture, save_every=24, evaluate_every=240), broken
        )
    assert list((tmp_path / CHECKPOINTS).iterdir())
    other = train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture, seed=5, samples_seen=96))
    assert other["steps"] == 4
    assert not (tmp_path / CHECKPOINTS).exists()


def broken(_: LoadedModel) -> dict[str, Any]:
    raise ZeroDivisionError


def test_evaluation_is_called_every_so_many_samples_and_at_the_end(
    mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    seen = []

    def evaluate(loaded: LoadedModel) -> dict[str, Any]:
        assert not loaded.model.training
        seen.append(embed_texts(loaded, ["a red square"]))
        return {"zero_shot": {"x": 0.5}}

    config = recipe(architecture, samples_seen=240, evaluate_every=96)
    train(mix.manifest, mix.shards_root, tmp_path / "with", config, evaluate)
    found = [line["samples_seen"] for line in metrics(tmp_path / "with") if "evaluation" in line]
    assert found == [96, 192, 240]
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])
    train(mix.manifest, mix.shards_root, tmp_path / "without", config)
    weights = [tmp_path / name / "open_clip_model.safetensors" for name in ("with", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()  # looking changes nothing


def test_kept_checkpoints_their_mean_and_the_moving_average_are_models(
    mix: TinyMix, architecture: Path, tmp_path: Path
) -> None:
    config = recipe(architecture, samples_seen=240, save_every=48, keep_every=2, average=3, ema=0.5)
    train(mix.manifest, mix.shards_root, tmp_path, config)
    kept = sorted((tmp_path / CHECKPOINTS).iterdir())
    assert [int(path.name) for path in kept] == [96, 192]
    parts = [load_file(path / "open_clip_model.safetensors") for path in (*kept, tmp_path)]
    mean = load_file(tmp_path / AVERAGE / "open_clip_model.safetensors")
    for name in ("visual.conv1.weight", "text_projection"):
        expected = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(mean[name], expected)
    prints = {load_model(str(tmp_path / name)).fingerprint for name in ("", AVERAGE, "ema")}
    assert len(prints) == 3


def test_a_loss_that_rises_for_good_stops_the_run_and_names_the_last_checkpoint(
    mix: TinyMix, architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([False] * 9 + [True])
    monkeypatch.setattr("trainer.window.Watch.diverged", lambda self, loss: next(losses))
    with pytest.raises(HeadwaterError, match=r"step 10 of 40: the loss rose .* checkpoint is .*000000000000216"):
        train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture, save_every=24))


def test_the_recipes_are_valid_and_unknown_keys_are_not() -> None:
    for path in RECIPES.glob("*.yaml"):
        TrainConfig.model_validate(yaml.safe_load(path.read_text())["train"])
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainConfig.model_validate({"learning_rate": 1e-3})
