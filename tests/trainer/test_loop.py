from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from filters.errors import HeadwaterError, InputError
from tests.trainer.conftest import COLOURS, SHAPES, TinyMix
from trainer.config import TrainConfig
from trainer.embed import embed_images, embed_texts
from trainer.loop import fingerprint, finished, learning_rate, parameter_groups, train
from trainer.model import load_model, new_model

TOY = Path(__file__).parents[2] / "configs" / "train" / "toy.yaml"


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
    with pytest.raises(HeadwaterError, match="the loss is nan; lower `lr`"):
        train(mix.manifest, mix.shards_root, tmp_path, recipe(architecture, lr=1e30, clip=0, warmup=0))
    assert finished(tmp_path) is None


def test_a_missing_manifest_is_named(mix: TinyMix, architecture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.parquet cannot be read"):
        train(tmp_path / "absent.parquet", mix.shards_root, tmp_path / "out", recipe(architecture))


def test_learning_rate_warms_up_and_falls_to_nothing(architecture: Path) -> None:
    config = recipe(architecture, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(config.lr / 10)
    assert max(rates) == rates[9] == rates[10] == config.lr
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.001 * config.lr


def test_gains_biases_and_the_logit_scale_do_not_decay(architecture: Path) -> None:
    model = new_model(architecture, seed=0)
    exempt, decayed = parameter_groups(model, 0.1)
    assert (exempt["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    assert any(p is model.logit_scale for p in exempt["params"])
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(exempt["params"]) + len(decayed["params"]) == len(list(model.parameters()))


def test_the_toy_recipe_is_valid_and_unknown_keys_are_not() -> None:
    TrainConfig.model_validate(yaml.safe_load(TOY.read_text()))
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainConfig.model_validate({"learning_rate": 1e-3})
