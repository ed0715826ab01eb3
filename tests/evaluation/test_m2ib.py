"""M2IB: exact against a plain loop, whatever the tower and the batch; T1, T2, T3 and T5 of the method's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import evaluation.m2ib as m2ib
from evaluation.m2ib import Attribution, attribute, unit_range
from evaluation.m2ib_towers import Side, image_site, text_site
from evaluation.sites import blocks_of
from tests.evaluation.m2ib_models import (
    LENGTHS,
    MODELS,
    SIDES,
    clip,
    given_noise,
    pairs,
    plain_loop,
    resnet,
    seeded,
)
from trainer.model import text_tower


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


def test_it_works_where_gradients_are_off(vit: Any) -> None:
    images, tokens = pairs(vit, LENGTHS)
    plain = attribute(vit, images, tokens, side="image", layer=1, steps=2, samples=2, generator=seeded())
    with torch.inference_mode():
        copied = images.clone(), tokens.clone()
        again = attribute(vit, *copied, side="image", layer=1, steps=2, samples=2, generator=seeded())
    assert torch.equal(plain.map, again.map)


def test_half_precision_keeps_alpha_in_fp32() -> None:
    model: Any = clip().to(torch.bfloat16)
    images, tokens = pairs(model, LENGTHS)
    for side in SIDES:
        found = attribute(model, images, tokens, side=side, layer=1, generator=seeded())
        assert {getattr(found, name).dtype for name in Attribution.__slots__} == {torch.float32}
        assert torch.isfinite(found.capacity).all()
