"""Metrics of maps, by hand and on a model that looks at one patch only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evaluation.attribution_metrics import (
    Confidence,
    box_masks,
    content,
    cosines,
    image_confidence,
    intersection_over_union,
    made_anew,
    pointing_game,
    randomisation_check,
    text_confidence,
)
from evaluation.m2ib import attribute
from evaluation.roar import corrupt_images
from filters.errors import ConfigError, InputError
from tests.evaluation.m2ib_models import MODELS, clip, pairs, planted, red_patches

LENGTHS = (5, 9, 7)


@pytest.fixture(scope="module")
def vit() -> Any:
    return clip()


def test_confidence_by_hand() -> None:
    """Of three pairs one loses 0.1, one gains 0.2 and one stays."""
    found = Confidence(np.array([0.5, 0.1, 0.3]), np.array([0.4, 0.3, 0.3]))
    assert found.drop == pytest.approx(100 * 0.1 / 3)
    assert found.increase == pytest.approx(100 / 3)


def test_a_map_of_ones_loses_nothing_and_a_map_of_zeros_all(vit: Any) -> None:
    """T10."""
    images, tokens = pairs(vit, LENGTHS)
    ones = image_confidence(vit, images, tokens, torch.ones(3, 32, 32))
    assert (ones.drop, ones.increase) == (0.0, 0.0)
    assert np.allclose(
        ones.original, torch.cosine_similarity(vit.encode_image(images), vit.encode_text(tokens)).detach()
    )
    zeros = image_confidence(vit, images, tokens, torch.zeros(3, 32, 32))
    assert np.array_equal(zeros.masked, cosines(vit, torch.zeros_like(images), tokens))


def test_a_map_weighs_pixels_and_not_columns(vit: Any) -> None:
    """T10: a map of two dimensions is one picture's, and is never read as weights of its columns."""
    images, tokens = pairs(vit, [6])
    shown = torch.zeros(32, 32)
    shown[:8] = 1  # the upper rows, of which a column would know nothing
    alone = image_confidence(vit, images, tokens, shown)
    upper = images.clone()
    upper[:, :, 8:] = 0
    assert np.array_equal(alone.masked, cosines(vit, upper, tokens))
    assert np.array_equal(alone.masked, image_confidence(vit, images, tokens, shown[None]).masked)
    more = pairs(vit, [6, 6])
    for wrong in (shown, torch.zeros(2, 32), torch.zeros(2, 16, 16), torch.zeros(1, 32, 32)):
        with pytest.raises(InputError, match="one a picture, of its size"):
            image_confidence(vit, *more, wrong)


def test_words_are_what_lies_between_the_ends(vit: Any) -> None:
    _, tokens = pairs(vit, LENGTHS)
    assert content(vit, tokens).sum(1).tolist() == [length - 2 for length in LENGTHS]
    assert not content(vit, tokens)[:, 0].any()
    other = MODELS["text like SigLIP's"]()
    assert torch.equal(content(other, tokens), tokens != 0)


@pytest.mark.parametrize("fill", ["pad", "mean"])
def test_texts_keep_their_ends_and_the_better_half(vit: Any, fill: Any) -> None:
    """The text's feature is taken at its end token all the same, and of five words two are above the median."""
    images, tokens = pairs(vit, [7])
    maps = torch.zeros(1, 12)
    maps[0, :7] = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8, 0.3, 1.0])
    found = text_confidence(vit, images, tokens, maps, fill=fill)
    dropped = [1, 3, 5]
    if fill == "pad":
        kept = tokens.clone()
        kept[0, dropped] = 0
        assert np.array_equal(found.masked, cosines(vit, images, kept))
    else:
        with torch.no_grad():
            table, width = vit.token_embedding.weight, 7
            hidden = table[tokens[:, :width]].clone()
            hidden[0, dropped] = table.mean(0)
            hidden = hidden + vit.positional_embedding[:width]
            hidden = vit.ln_final(vit.transformer(hidden, attn_mask=vit.attn_mask[:width, :width]))
            read = hidden[:, width - 1] @ vit.text_projection
            expected = torch.cosine_similarity(vit.encode_image(images), read)
        np.testing.assert_allclose(found.masked, expected.numpy(), atol=1e-9)
    assert not vit.token_embedding._forward_hooks
    with pytest.raises(InputError, match="one a text, of its length"):
        text_confidence(vit, images, tokens, maps[:, :7])
    with pytest.raises(ConfigError, match="fill 'drop'"):
        text_confidence(vit, images, tokens, maps, fill="drop")  # type: ignore[arg-type]


def test_pointing_game_by_hand() -> None:
    maps, targets = torch.zeros(3, 6, 8), torch.zeros(3, 6, 8, dtype=torch.bool)
    targets[:, 1:3, 2:5] = True
    maps[0, 2, 4] = 1  # inside
    maps[1, 4, 4] = 1  # two rows below
    maps[2] = 0.5  # without a peak
    assert pointing_game(maps, targets) == pytest.approx(1 / 3)
    assert pointing_game(maps, targets, tolerance=1) == pytest.approx(1 / 3)
    assert pointing_game(maps, targets, tolerance=2) == pytest.approx(2 / 3)


def test_intersection_over_union_by_hand() -> None:
    maps = torch.tensor([[[1.0, 0.6, 0.5], [0.0, 0.7, 0.0]], [[0.0] * 3] * 2])
    targets = torch.tensor([[[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]], dtype=torch.bool)
    np.testing.assert_allclose(intersection_over_union(maps, targets), [2 / 4, 0])
    np.testing.assert_allclose(intersection_over_union(maps, targets, threshold=0.4), [3 / 4, 0])


def test_targets_that_cannot_be_used() -> None:
    maps, targets = torch.zeros(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    targets[1] = False
    with pytest.raises(InputError, match="target 1 marks no pixel"):
        pointing_game(maps, targets)
    with pytest.raises(InputError, match="must both be"):
        intersection_over_union(maps, targets.float())
    with pytest.raises(InputError, match="must both be"):
        pointing_game(maps[0], targets)


def test_boxes_are_rows_and_columns_of_pixels() -> None:
    masks = box_masks([[(1, 0, 3, 2), (4, 3, 9, 9)], [(-2, -2, 1, 1)]], (4, 6))
    assert masks[0].int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 1, 1]]
    assert masks[1].int().sum() == 1


def test_metrics_see_that_attribution_finds_the_planted_patch() -> None:
    """A red patch decides: the map points at it, keeps the match, and taking it away loses the match."""
    model, tokens = planted()
    places = [0, 3, 6, 9, 12, 15]
    images, texts = red_patches(places), tokens.expand(6, -1)
    maps = attribute(model, images, texts, side="image", layer=1, generator=torch.Generator().manual_seed(0)).map
    boxes = [[(8 * (p % 4), 8 * (p // 4), 8 * (p % 4) + 8, 8 * (p // 4) + 8)] for p in places]
    targets = box_masks(boxes, (32, 32))
    assert pointing_game(maps, targets) == 1.0
    assert intersection_over_union(maps, targets).min() > 0.5
    kept = image_confidence(model, images, texts, maps)
    lost = image_confidence(model, images, texts, 1 - maps)
    assert kept.drop < 0.2 * lost.drop
    corrupted = corrupt_images(images, maps)
    inside = targets[:, None].expand_as(images)
    assert ((corrupted != images) & inside).sum() > 0.95 * inside.sum()
    assert np.mean(cosines(model, corrupted, texts)) < np.mean(cosines(model, images, texts)) - 0.3


def test_maps_fall_when_weights_are_made_anew() -> None:
    """T11, of the check itself: the blocks below the bottleneck are there too, and the model is not touched."""
    model = clip({"layers": 6}).float()
    images, tokens = pairs(model, [8] * 10)
    before = [weight.clone() for weight in model.parameters()]
    for side, most in (("image", 0.9), ("text", 0.9)):
        found = randomisation_check(
            model, images.float(), tokens, side=side, blocks=(1, 2), layer=1, steps=6, samples=4  # type: ignore[arg-type]
        )  # fmt: skip
        assert list(found) == [1, 2]
        assert found[1].shape == (10,)
        assert max(values.mean() for values in found.values()) < most
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["vit", "resnet", "timm vit with a MAP head"])
def test_what_is_made_anew(name: str) -> None:
    """The last blocks and what follows have the same numbers in another order; the rest has not moved."""
    model: Any = MODELS[name]()
    made = made_anew(model, "image", 1, 0)
    moved = {
        n for (n, a), b in zip(model.named_parameters(), made.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert moved
    assert not any(n.startswith(("text", "token_embedding", "transformer")) for n in moved)
    parts = {
        "vit": ("visual.transformer.resblocks.2", "visual.ln_post", "visual.proj"),
        "resnet": ("visual.layer4", "visual.attnpool"),
    }.get(name, ("visual.trunk.blocks.2", "visual.head"))
    assert all(n.startswith(parts) for n in moved)
    for part in parts:
        assert any(n.startswith(part) for n in moved)
    assert torch.equal(
        torch.cat([p.flatten() for p in model.parameters()]).sort().values,
        torch.cat([p.flatten() for p in made.parameters()]).sort().values,
    )
    with pytest.raises(ConfigError, match="blocks 9"):
        made_anew(model, "image", 9, 0)
