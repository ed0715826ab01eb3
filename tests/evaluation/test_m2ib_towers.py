"""M2IB and the models it is asked about: left as they were (T8), their layers, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from evaluation.frozen import frozen
from evaluation.m2ib import attribute
from evaluation.m2ib_towers import Side, count_blocks, default_layer, shown_layer
from evaluation.plain_block import is_plain, pooled_block, whole_block
from evaluation.sites import blocks_of
from filters.errors import ConfigError, HeadwaterError, InputError, ModelError
from tests.evaluation.m2ib_models import (
    LENGTHS,
    MODELS,
    SIDES,
    clip,
    pairs,
    resnet,
    seeded,
    timm_clip,
)
from trainer.packed import pack_layers


class _Halt(Exception):
    """Raised in the middle of a pass."""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["vit", "resnet", "timm eva"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(name: str, side: Side, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T8: weights, statistics, gradients, flags and hooks, also after an exception inside the loop."""
    model: Any = MODELS[name]()
    model.train()
    model.visual.eval()
    blocks_of(model.visual)[1].requires_grad_(False)
    before = _state(model)
    images, tokens = pairs(model, LENGTHS)
    if fails:
        monkeypatch.setattr(torch.optim.Adam, "step", _halt)
        with pytest.raises(_Halt):
            attribute(model, images, tokens, side=side, layer=1, steps=2, samples=2)
    else:
        attribute(model, images, tokens, side=side, layer=1, steps=2, samples=2)
    assert _state(model) == before


def _halt(_optimiser: object) -> None:
    raise _Halt


def _state(model: nn.Module) -> list[Any]:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [digest.hexdigest(), modules, [(p.requires_grad, p.grad is None) for p in model.parameters()]]


def test_frozen_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with torch.no_grad(), frozen(model):
        assert torch.is_grad_enabled()
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(("blocks", "layer"), [(12, 9), (24, 19), (6, 4), (4, 3), (1, 0)])
def test_the_layer_unless_told_otherwise(blocks: int, layer: int) -> None:
    assert default_layer(blocks) == layer


def test_default_layers_of_models(vit: Any) -> None:
    images, tokens = pairs(vit, [6])
    for side in SIDES:
        assert count_blocks(vit, side) == 3
        implied = attribute(vit, images, tokens, side=side, steps=1, samples=1, generator=seeded())
        stated = attribute(vit, images, tokens, side=side, layer=2, steps=1, samples=1, generator=seeded())
        assert torch.equal(implied.capacity, stated.capacity)
    assert count_blocks(resnet(), "image") == 4


def test_layers_worth_showing(vit: Any) -> None:
    """Not the last of a shallow tower, after which one token decides, and no grid coarser than need be."""
    images, _ = pairs(vit, [6])
    assert [shown_layer(vit, side, images) for side in SIDES] == [1, 1]
    deep, shallow = clip({"layers": 12}, {"layers": 1}), MODELS["vit, avg"]()
    assert [shown_layer(deep, side, images) for side in SIDES] == [9, -1]
    assert shown_layer(shallow, "image", images) == 2
    convolutional = resnet()
    assert shown_layer(convolutional, "image", pairs(convolutional, [6])[0]) == 1  # 8 x 8 of 64 pixels
    assert shown_layer(MODELS["timm convnext"](), "image", images) == 0


def test_plain_blocks_are_what_open_clips_are() -> None:
    vit = clip()  # which is changed
    block = vit.transformer.resblocks[0]
    hidden = torch.randn(3, 7, 24, generator=seeded(), dtype=torch.float64)
    mask = vit.attn_mask[:7, :7]
    whole = block(hidden, attn_mask=mask)
    torch.testing.assert_close(whole_block(block, hidden, mask), whole)
    torch.testing.assert_close(whole_block(block, hidden, mask.expand(6, 7, 7)), whole)
    taken = torch.tensor([6, 2, 4])
    visible = torch.arange(7) <= taken[:, None]
    torch.testing.assert_close(pooled_block(block, hidden, taken, visible), whole[torch.arange(3), taken])
    block.attn.in_proj_bias.data.zero_()
    without = block(hidden)
    block.attn.in_proj_bias = None
    torch.testing.assert_close(pooled_block(block, hidden, taken), without[torch.arange(3), taken])
    assert not is_plain(MODELS["vit, custom blocks"]().visual.transformer.resblocks[0])


@pytest.fixture
def bad() -> Iterator[dict[str, Any]]:
    """Calls that cannot be answered, each with a word that the error holds."""
    nans = torch.zeros(2, 3, 32, 32)
    nans[1, 0, 0, 0] = torch.nan
    yield {
        "no pair": (InputError, "are no pairs", {"images": torch.zeros(0, 3, 32, 32), "tokens": torch.zeros(0, 12)}),
        "another number": (InputError, "of the same P", {"tokens": torch.ones(1, 12, dtype=torch.int64)}),
        "floats": (InputError, "give int64", {"tokens": torch.ones(2, 12)}),
        "nan": (InputError, "image 1 holds NaN", {"images": nans}),
        "size": (InputError, "the model takes [3, 32, 32]", {"images": torch.zeros(2, 3, 16, 16)}),
        "side": (ConfigError, "'image' or 'text'", {"side": "both"}),
        "layer": (ConfigError, "has layers 0 to 2", {"layer": 3}),
        "beta": (ConfigError, "beta -1", {"beta": -1}),
        "lr": (ConfigError, "lr 0", {"lr": 0}),
        "steps": (ConfigError, "steps 0", {"steps": 0}),
        "map": (ConfigError, "at least 1 x 1", {"size": 0}),
        "noise": (InputError, "[10, 2, 10, T, D]", {"noise": torch.zeros(1, 2, 3, 4, 5)}),
        "width of noise": (InputError, "D = 24", {"noise": torch.zeros(10, 2, 10, 17, 5)}),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["no pair", "another number", "floats", "nan", "size", "side", "layer", "beta", "lr", "steps", "map", "noise",
     "width of noise"],
)  # fmt: skip
def test_wrong_input_is_one_line(vit: Any, bad: dict[str, Any], name: str) -> None:
    kind, says, change = bad[name]
    images, tokens = pairs(vit, [6, 7])
    with pytest.raises(HeadwaterError) as caught:
        attribute(vit, **{"images": images, "tokens": tokens, "side": "image", **change})
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class HFTextEncoder(nn.Module):
    """A text tower that is not open_clip's own."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(tokens.sum(1) % 16, 16).double()


def test_a_foreign_text_tower_is_refused_and_its_pictures_are_not() -> None:
    model: Any = MODELS["text of its own module"]()
    images, tokens = pairs(model, [6, 7])
    model.text = HFTextEncoder()
    with pytest.raises(ModelError, match="HFTextEncoder, whose layers cannot be reached exactly"):
        attribute(model, images, tokens, side="text")
    found = attribute(model, images, tokens, side="image", layer=1, steps=2, samples=2)
    assert found.map.shape == (2, 32, 32)


class _Leaky(nn.Module):
    """A trunk whose output depends on more than what its last block gives."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = images
        for stage in self.stages:
            hidden = stage(hidden)
        return (hidden.mean((2, 3)) + images.mean((2, 3))).double()


class _Bare(nn.Module):
    num_features = 3


@pytest.mark.parametrize(("trunk", "says"), [(_Leaky, "depends on more"), (_Bare, "its blocks are not where")])
def test_a_trunk_that_cannot_be_cut_exactly_is_refused(trunk: Callable[[], nn.Module], says: str) -> None:
    model: Any = timm_clip(trunk)
    images, tokens = pairs(model, [6, 7])
    with pytest.raises(ModelError, match=says):
        attribute(model, images, tokens, side="image", layer=1, steps=1, samples=1)


def test_a_model_packed_for_inference_is_refused() -> None:
    model: Any = clip().float()
    images, tokens = pairs(model, [6])
    pack_layers(model)
    with pytest.raises(ModelError, match="packed for inference"):
        attribute(model, images.float(), tokens, side="image", layer=0, steps=1, samples=1)
