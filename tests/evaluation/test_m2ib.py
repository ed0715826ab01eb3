"""M2IB: exact against a plain loop, whatever the tower and the batch; T1 to T11 are those of the method's page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import evaluation.m2ib as m2ib
from evaluation.frozen import frozen
from evaluation.m2ib import Attribution, attribute, unit_range
from evaluation.m2ib_towers import Side, count_blocks, default_layer, image_site, shown_layer, text_site
from evaluation.plain_block import is_plain, pooled_block, whole_block
from evaluation.sites import blocks_of
from filters.errors import ConfigError, HeadwaterError, InputError, ModelError
from tests.evaluation.m2ib_models import (
    CONTEXT,
    END,
    MODELS,
    clip,
    pairs,
    plain_loop,
    planted,
    red_patches,
    resnet,
    timm_clip,
)
from trainer.model import text_tower
from trainer.packed import pack_layers

SIDES: tuple[Side, ...] = ("image", "text")
LENGTHS = (5, 9, 7)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given_noise(model: Any, tokens: torch.Tensor, images: torch.Tensor, side: Side, layer: int) -> torch.Tensor:
    """Noise for 4 steps of 3 samples, float64."""
    site = image_site(model, images, layer) if side == "image" else text_site(model, tokens, layer)
    shape = (4, len(images), 3, *site.hidden.shape[1:])
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def vit() -> Any:
    return clip()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_each_tower_gives_what_a_plain_loop_gives(name: str, side: Side) -> None:
    """T1 and T2, in float64: three pairs at once against each alone, with both towers run whole at each step."""
    model: Any = MODELS[name]()
    images, tokens = pairs(model, LENGTHS)
    noise = given_noise(model, tokens, images, side, 1)
    found = attribute(model, images, tokens, side=side, layer=1, steps=4, samples=3, noise=noise)
    block = blocks_of(model.visual if side == "image" else text_tower(model))[1]
    site = image_site(model, images, 1) if side == "image" else text_site(model, tokens, 1)
    for pair, count in enumerate(site.counts.tolist()):
        alone = slice(pair, pair + 1)
        capacity, alpha, losses = plain_loop(
            model, images[alone], tokens[alone], block, side, noise[:, pair, :, :count], count
        )
        torch.testing.assert_close(found.capacity[pair, :count], capacity, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.alpha[pair, :count], alpha, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.losses[pair], losses, rtol=0, atol=1e-8)
        assert not found.capacity[pair, count:].any()
        assert not found.alpha[pair, count:].any()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("make", [clip, resnet])
def test_in_fp32_too(make: Callable[[], Any], side: Side) -> None:
    """T1 at the tolerances of the page, over ten steps, against the float64 loop."""
    model = make()
    images, tokens = pairs(model, LENGTHS)
    site = image_site(model, images, 1) if side == "image" else text_site(model, tokens, 1)
    noise = torch.randn((10, 3, 10, *site.hidden.shape[1:]), generator=seeded(1))
    block = blocks_of(model.visual if side == "image" else model)[1]
    whole = [
        plain_loop(model, images[i : i + 1], tokens[i : i + 1], block, side, noise[:, i, :, :n].double(), n)
        for i, n in enumerate(site.counts.tolist())
    ]
    found = attribute(model.float(), images.float(), tokens, side=side, layer=1, noise=noise)
    assert found.map.dtype == torch.float32
    for pair, (capacity, alpha, losses) in enumerate(whole):
        scores = capacity.sum(-1)
        if side == "image":
            shown = m2ib._image_map(scores[None], site.grid or (0, 0), (images.shape[2], images.shape[3]))[0]
        else:
            shown = unit_range(scores[None])[0]
        ours = found.map[pair].double()
        torch.testing.assert_close(ours if side == "image" else ours[: len(shown)], shown, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.alpha[pair, : len(alpha)].double(), alpha, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.losses[pair].double(), losses, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_a_pair_is_the_same_in_any_batch(vit: Any, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """T2 with drawn noise, and with passes of one pair each."""
    images, tokens = pairs(vit, LENGTHS)
    whole = attribute(vit, images, tokens, side=side, layer=1, steps=3, samples=2, generator=seeded())
    turned = attribute(
        vit, images.flip(0), tokens.flip(0), side=side, layer=1, steps=3, samples=2, generator=seeded()
    )
    torch.testing.assert_close(turned.capacity.flip(0), whole.capacity, rtol=0, atol=1e-9)
    monkeypatch.setattr(m2ib, "MOST_TOKENS", 1)
    apart = attribute(vit, images, tokens, side=side, layer=1, steps=3, samples=2, generator=seeded())
    for name in Attribution.__slots__:
        torch.testing.assert_close(getattr(apart, name), getattr(whole, name), rtol=0, atol=1e-9)
    for pair, length in enumerate(LENGTHS):
        alone = slice(pair, pair + 1)
        one = attribute(vit, images[alone], tokens[alone], side=side, layer=1, steps=3, samples=2, generator=seeded())
        count = one.capacity.shape[1]
        assert count == (length if side == "text" else 17)
        torch.testing.assert_close(one.capacity[0], whole.capacity[pair, :count], rtol=0, atol=1e-9)
        torch.testing.assert_close(one.map[0], whole.map[pair], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", [-1, 2])
def test_the_two_halves_make_the_whole(name: str, layer: int) -> None:
    """T3: the second half over what the first gives, twice a pair, is the model's own embedding."""
    model: Any = MODELS[name]()
    images, tokens = pairs(model, LENGTHS)
    with torch.no_grad():
        seen, read = model.encode_image(images), model.encode_text(tokens)
        found = [(image_site(model, images, layer), seen), (text_site(model, tokens, layer), read)]
        for site, whole in found:
            again = site.suffix(site.hidden[:, None].repeat(1, 2, 1, 1))
            if name == "coca":  # it gives them normalised
                again = again / again.norm(dim=-1, keepdim=True)
            torch.testing.assert_close(again, whole[:, None].expand(-1, 2, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_beta_sets_how_much_passes(vit: Any, side: Side) -> None:
    """T4: more beta, less information, and nearly none in the end; without beta the fit only rises."""
    images, tokens = pairs(vit, LENGTHS)
    found = [
        attribute(vit, images, tokens, side=side, layer=1, beta=beta, steps=25, generator=seeded())
        for beta in (0.0, 0.1, 1.0, 1e6)
    ]
    passed = [float(one.capacity.sum()) for one in found]
    assert passed[0] > passed[1] > passed[2] > passed[3]
    assert passed[3] < 1e-3 * passed[0]
    fit = found[0].losses[:, :, 1].mean(0)
    assert fit[-5:].mean() > fit[:5].mean()
    torch.testing.assert_close(found[0].losses[..., 2], -found[0].losses[..., 1])


@pytest.mark.parametrize("side", SIDES)
def test_the_first_compression_needs_no_noise(vit: Any, side: Side) -> None:
    """T5: at alpha = 5 the KL is known in closed form; the mean is over a text's own tokens."""
    images, tokens = pairs(vit, LENGTHS)
    found = attribute(vit, images, tokens, side=side, layer=1, steps=1, generator=seeded(7))
    site = image_site(vit, images, 1) if side == "image" else text_site(vit, tokens, 1)
    share = 1 / (1 + np.exp(-5.0))
    for pair, count in enumerate(site.counts.tolist()):
        x = site.hidden[pair, :count]
        closed = 0.5 * ((share * x) ** 2 + (1 - share) ** 2 - 1) - np.log(1 - share)
        torch.testing.assert_close(found.losses[pair, 0, 0], closed.mean(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.capacity[pair, :count], closed, rtol=0, atol=1e-12)
        assert ((found.alpha[pair, :count] - 5).abs() < 1 + 1e-6).all()


@pytest.mark.parametrize("side", SIDES)
def test_without_a_generator_noise_is_what_torch_would_draw(vit: Any, side: Side) -> None:
    """T5: one `randn(S, n, D)` a step from the global generator, which goes on from there."""
    images, tokens = pairs(vit, [6])
    shape = (4, 6 if side == "text" else 17, 24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = attribute(vit, images, tokens, side=side, layer=1, steps=3, samples=4)
        after = torch.rand(1)
        torch.manual_seed(3)
        noise = torch.stack([torch.randn(shape) for _ in range(3)])[:, None]
        assert torch.equal(torch.rand(1), after)
    found = attribute(vit, images, tokens, side=side, layer=1, steps=3, samples=4, noise=noise)
    assert torch.equal(found.capacity, drawn.capacity)


def test_the_generator_goes_on_where_the_longest_text_left_it(vit: Any) -> None:
    images, tokens = pairs(vit, LENGTHS)
    many, one = seeded(), seeded()
    attribute(vit, images, tokens, side="text", layer=1, steps=2, samples=2, generator=many)
    attribute(vit, images[1:2], tokens[1:2], side="text", layer=1, steps=2, samples=2, generator=one)
    assert torch.equal(torch.rand(3, generator=many), torch.rand(3, generator=one))


def test_padding_changes_nothing(vit: Any) -> None:
    """T6: whatever stands after the end of a text, and however long the longest of the batch is."""
    images, tokens = pairs(vit, LENGTHS)
    found = attribute(vit, images, tokens, side="text", layer=1, steps=3, generator=seeded())
    filled = tokens.clone()
    for row, length in zip(filled, LENGTHS, strict=True):
        row[length:] = torch.randint(1, END, (CONTEXT - length,), generator=seeded())
    again = attribute(vit, images, filled, side="text", layer=1, steps=3, generator=seeded())
    torch.testing.assert_close(again.map, found.map, rtol=0, atol=1e-12)
    for row, length in zip(found.map, LENGTHS, strict=True):
        assert (float(row.min()), float(row.max())) == (0.0, 1.0)
        assert not row[length:].any()


@pytest.mark.parametrize("size", [None, 50, (7, 90)])
def test_maps_have_the_size_that_is_asked_for(vit: Any, size: int | tuple[int, int] | None) -> None:
    """T7."""
    images, tokens = pairs(vit, LENGTHS)
    found = attribute(vit, images, tokens, side="image", layer=1, steps=2, generator=seeded(), size=size).map
    height, width = (32, 32) if size is None else (size, size) if isinstance(size, int) else size
    assert found.shape == (3, height, width)
    assert (found.flatten(1).amin(1) == 0).all()
    assert (found.flatten(1).amax(1) == 1).all()


def test_a_constant_map_is_zero() -> None:
    """T7: also one that interpolation has rounded."""
    flat = torch.full((1, 9), 0.3) + torch.rand(1, 9, generator=seeded()) * 1e-7
    assert torch.equal(unit_range(flat), torch.zeros(1, 9))
    assert torch.equal(m2ib._image_map(torch.full((2, 17), 0.1), (4, 4), (31, 17)), torch.zeros(2, 31, 17))
    there = torch.tensor([[True, True, False]])
    assert torch.equal(unit_range(torch.tensor([[1.0, 3.0, 9.0]]), there), torch.tensor([[0.0, 1.0, 0.0]]))


def test_patches_lie_where_they_are_in_oblong_pictures() -> None:
    """Rows and columns are not mixed up: a map of the grid's own size shows the scores themselves."""
    model: Any = MODELS["vit of oblong pictures"]()
    images, tokens = pairs(model, LENGTHS)
    found = attribute(model, images, tokens, side="image", layer=1, steps=2, generator=seeded(), size=(3, 5))
    scores = found.capacity.sum(-1)[:, 1:]  # without the class token
    torch.testing.assert_close(found.map.flatten(1), unit_range(scores))


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


def test_it_works_where_gradients_are_off(vit: Any) -> None:
    images, tokens = pairs(vit, LENGTHS)
    plain = attribute(vit, images, tokens, side="image", layer=1, steps=2, samples=2, generator=seeded())
    with torch.inference_mode():
        copied = images.clone(), tokens.clone()
        again = attribute(vit, *copied, side="image", layer=1, steps=2, samples=2, generator=seeded())
    assert torch.equal(plain.map, again.map)


def test_attribution_finds_what_decides() -> None:
    """T9: of sixteen places, with a patch as bright elsewhere, always the one that the embedding depends on."""
    model, tokens = planted()
    places = list(range(16))
    images = red_patches(places)
    assert torch.cosine_similarity(model.encode_image(images), model.encode_text(tokens)).min() > 0.999
    for layer in (0, 1):
        found = attribute(
            model, images, tokens.expand(16, -1), side="image", layer=layer, generator=seeded(), size=(4, 4)
        )
        assert found.map.flatten(1).argmax(1).tolist() == places
        others = found.map.flatten(1).sort(1).values[:, :-1]
        assert others.max() < 0.5


def test_maps_depend_on_the_weights() -> None:
    """T11: with the last block and the projection made anew maps differ more than with other noise, over 12 pairs."""
    model = clip({"layers": 6}).float()
    images, tokens = (value.float() if value.is_floating_point() else value for value in pairs(model, [8] * 12))

    def maps(seed: int) -> np.ndarray:
        found = attribute(model, images, tokens, side="image", layer=3, generator=seeded(seed), size=(4, 4))
        result: np.ndarray = found.map.flatten(1).numpy()
        return result

    def likeness(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(np.mean([spearmanr(a, b).statistic for a, b in zip(ours, theirs, strict=True)]))

    original, other_noise = maps(0), maps(1)
    with torch.no_grad():
        for weight in [*model.visual.transformer.resblocks[-2:].parameters(), model.visual.proj]:
            weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=seeded())].view_as(weight))
    assert likeness(original, maps(0)) < likeness(original, other_noise) - 0.1


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


def test_plain_blocks_are_what_open_clips_are(vit: Any) -> None:
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


def test_half_precision_keeps_alpha_in_fp32() -> None:
    model: Any = clip().to(torch.bfloat16)
    images, tokens = pairs(model, LENGTHS)
    for side in SIDES:
        found = attribute(model, images, tokens, side=side, layer=1, generator=seeded())
        assert {getattr(found, name).dtype for name in Attribution.__slots__} == {torch.float32}
        assert torch.isfinite(found.capacity).all()
