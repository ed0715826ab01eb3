from __future__ import annotations

import math
from pathlib import Path

import open_clip
import pytest
import torch

from filters.errors import ModelError
from trainer.config import TrainConfig
from trainer.model import new_model, read_config, save_model
from trainer.start import architecture as described
from trainer.start import start, weights_digest

NAME = "RN50"  # of open_clip's own; the smallest to make


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_named_model_starts_with_open_clip_s_own_weights_for_the_seed() -> None:
    state = torch.random.get_rng_state()
    began = start(TrainConfig(model=NAME, seed=3))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert same(began.model, open_clip.create_model(NAME))
    assert began.architecture["model_cfg"]["vision_cfg"]["image_size"] == 224
    assert began.tokenizer(["a"]).shape == (1, 77)


def test_a_folder_s_model_starts_from_the_seed(architecture: Path) -> None:
    config = TrainConfig(model=str(architecture), seed=1)
    assert same(start(config).model, new_model(architecture, 1))
    assert start(config).architecture == read_config(architecture)


def test_siglip_has_a_bias_where_its_paper_has_it(architecture: Path) -> None:
    model = start(TrainConfig(model=str(architecture), loss="siglip")).model
    assert float(model.logit_bias.detach()) == -10
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(10))
    assert start(TrainConfig(model=str(architecture))).model.logit_bias is None


@pytest.mark.parametrize("kind", ["folder", "safetensors", "epoch"])
def test_weights_to_start_from(kind: str, architecture: Path, tmp_path: Path) -> None:
    known = new_model(architecture, 7)
    save_model(known, read_config(architecture), tmp_path)
    given = {"folder": tmp_path, "safetensors": tmp_path / "open_clip_model.safetensors"}.get(kind)
    if given is None:
        # what open_clip's trainer writes under torch.nn.parallel
        given = tmp_path / "epoch_3.pt"
        weights = {f"module.{key}": value for key, value in known.state_dict().items()}
        torch.save({"epoch": 3, "name": "x", "state_dict": weights, "optimizer": {}}, given)
    config = TrainConfig(model=str(architecture), pretrained=str(given))
    assert same(start(config).model, known)
    assert weights_digest(config) == weights_digest(config)
    assert weights_digest(config.model_copy(update={"pretrained": None})) is None


def test_a_pickle_that_runs_code_is_refused(architecture: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"state_dict": Evil()}, tmp_path / "epoch_1.pt")
    with pytest.raises(ModelError, match="cannot be loaded"):
        start(TrainConfig(model=str(architecture), pretrained=str(tmp_path / "epoch_1.pt")))
    assert not (tmp_path / "owned").exists()


def test_what_cannot_be_had_is_named(architecture: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ViT-B-33.*closest: ViT-B-32"):
        start(TrainConfig(model="ViT-B-33"))
    with pytest.raises(ModelError, match=r"'no_such_tag': no such file or folder, nor a tag of RN50; one of openai"):
        start(TrainConfig(model=NAME, pretrained="no_such_tag"))
    with pytest.raises(ModelError, match="is not a model folder"):
        start(TrainConfig(model=str(tmp_path)))
    (tmp_path / "open_clip_config.json").write_text('{"vision": 1}')
    with pytest.raises(ModelError, match="has no `model_cfg`"):
        described(TrainConfig(model=str(tmp_path)))
    other = new_model(architecture, 0)
    torch.save({"state_dict": {"logit_scale": other.logit_scale.detach()}}, tmp_path / "part.pt")
    with pytest.raises(ModelError, match="Missing key"):
        start(TrainConfig(model=str(architecture), pretrained=str(tmp_path / "part.pt")))
