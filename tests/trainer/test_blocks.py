from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock

from tests.trainer.small_models import VOCABULARY, Kind, distance, gradient, small_batch, small_model
from trainer.blocks import PlainBlock, PlainPatches, PlainPool, runs_plain, use_plain_layers
from trainer.features import encode_pixels, encode_tokens


def pixels(count: int = 5, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def check_images(model: Any, given: torch.Tensor) -> None:
    """Features and gradients are those of the model as open_clip made it."""
    plain = copy.deepcopy(model)
    use_plain_layers(plain)
    expected, found = model.encode_image(given), encode_pixels(plain, given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward([(expected * weights).sum(), (found * weights).sum()])
    assert distance(gradient(plain), gradient(model)) < 1e-5


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"ls_init_value": 0.1},
        {"no_ln_pre": True},
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
        {"qk_norm": True},
    ],
    ids=str,
)
def test_pictures_have_open_clips_features_and_gradients(vision: dict[str, Any]) -> None:
    model = small_model("vit", **vision)
    check_images(model, pixels())
    plain = copy.deepcopy(model)
    use_plain_layers(plain)
    assert isinstance(plain.visual.conv1, PlainPatches)
    assert runs_plain(plain.visual.transformer) is ("qk_norm" not in vision)


def test_a_resnets_pool_has_open_clips_features_and_gradients() -> None:
    model = small_model("resnet")
    check_images(model, pixels())
    use_plain_layers(model)
    assert isinstance(model.visual.attnpool, PlainPool)


def test_a_margin_that_no_patch_covers_is_left_out_as_in_a_convolution() -> None:
    layer = torch.nn.Conv2d(3, 8, 16, stride=16)
    expected = layer(pixels(side=70))
    layer.__class__ = PlainPatches
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(layer(pixels(side=70).to(memory_format=layout)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [{}, {"pool_type": "eos", "eos_id": VOCABULARY - 1}, {"proj_bias": True}, {"proj_type": "none", "width": 32}],
    ids=str,
)
def test_texts_have_open_clips_features_and_gradients(text: dict[str, Any]) -> None:
    model = small_model(text=text)
    plain, tokens = copy.deepcopy(model), small_batch(12).tokens
    use_plain_layers(plain)
    longest = int(tokens.argmax(dim=1).max()) + 1
    expected, found = model.encode_text(tokens), encode_tokens(plain, tokens, longest)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward([(expected * weights).sum(), (found * weights).sum()])
    embedding = plain.token_embedding.weight
    assert embedding.grad is not None
    embedding.grad = embedding.grad.to_dense()
    assert distance(gradient(plain), gradient(model)) < 1e-5


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"qk_norm": True}], ids=str)
def test_other_text_towers_go_open_clips_way(text: dict[str, Any]) -> None:
    model = small_model(text=text)
    plain, tokens = copy.deepcopy(model), small_batch(12).tokens
    use_plain_layers(plain)
    torch.testing.assert_close(
        encode_tokens(plain, tokens, tokens.shape[1]), model.encode_text(tokens), rtol=1e-4, atol=1e-5
    )


def test_a_plain_model_is_still_open_clips() -> None:
    model = small_model("vit")
    plain = copy.deepcopy(model)
    use_plain_layers(plain)
    copied = copy.deepcopy(plain)
    for name, p in plain.named_parameters():
        torch.nn.init.zeros_(p)
        assert not torch.equal(copied.state_dict()[name], p) or not copied.state_dict()[name].any()
    assert copied.load_state_dict(model.state_dict()).missing_keys == []
    tokens = small_batch(4).tokens
    torch.testing.assert_close(copied(pixels(4), tokens)[0], model(pixels(4), tokens)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copied(pixels(4), tokens)[1], model(pixels(4), tokens)[1], rtol=1e-4, atol=1e-5)
    assert isinstance(plain.visual.transformer.resblocks[0], ResidualAttentionBlock)


def test_attention_to_something_else_is_left_alone() -> None:
    block = ResidualAttentionBlock(16, 2, is_cross_attention=True)
    use_plain_layers(block)
    assert type(block) is ResidualAttentionBlock
    own = torch.nn.ModuleList([ResidualAttentionBlock(16, 2)])
    use_plain_layers(own)
    assert type(own[0]) is PlainBlock


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_in_half_precision_features_are_close(kind: Kind) -> None:
    model = small_model(kind)
    plain, tokens = copy.deepcopy(model), small_batch(4).tokens
    use_plain_layers(plain)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = model.encode_image(pixels(4)), encode_pixels(plain, pixels(4))
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)
        texts, ours = model.encode_text(tokens), encode_tokens(plain, tokens, 24)
        torch.testing.assert_close(ours, texts, rtol=0.1, atol=0.1)


def test_patches_left_out_at_random_are_left_out() -> None:
    model = small_model("vit", patch_dropout=0.5)
    assert isinstance(model, open_clip.CLIP)
    use_plain_layers(model)
    first, second = encode_pixels(model, pixels()), encode_pixels(model, pixels())
    assert not torch.equal(first, second)
