"""M2IB: what its maps show; T4, T6, T7, T9 and T11 are those of the method's page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import evaluation.m2ib as m2ib
from evaluation.m2ib import attribute, unit_range
from evaluation.m2ib_towers import Side
from tests.evaluation.m2ib_models import (
    CONTEXT,
    END,
    LENGTHS,
    MODELS,
    SIDES,
    clip,
    pairs,
    planted,
    red_patches,
    seeded,
)


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
