from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional

from trainer.losses import Features, clip_losses, initial_logits, siglip_losses

SCALE, BIAS = torch.tensor(14.0), torch.tensor(-9.5)


def pairs(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    image, text = (functional.normalize(torch.randn(count, 8), dim=-1) for _ in range(2))
    return image, text


def test_the_mean_is_open_clips_loss() -> None:
    image, text = pairs()
    features = Features(image, text, image, text)
    each = clip_losses(features, SCALE, 0)
    assert each.shape == (12,)
    assert float(each.mean()) == pytest.approx(float(ClipLoss()(image, text, SCALE)), rel=1e-6)
    each = siglip_losses(features, SCALE, BIAS, 0)
    assert float(each.mean()) == pytest.approx(float(SigLipLoss()(image, text, SCALE, BIAS)), rel=1e-6)


def test_a_pair_that_fits_no_better_than_others_costs_the_logarithm_of_their_number() -> None:
    image = functional.normalize(torch.ones(5, 3), dim=-1)
    each = clip_losses(Features(image, image, image, image), SCALE, 0)
    torch.testing.assert_close(each, torch.full((5,), math.log(5)))


def test_parts_of_the_pairs_against_all_are_parts_of_the_losses() -> None:
    image, text = pairs()
    whole = Features(image, text, image, text)
    for start, end in ((0, 5), (5, 12)):
        part = whole.rows(start, end)
        torch.testing.assert_close(clip_losses(part, SCALE, start), clip_losses(whole, SCALE, 0)[start:end])
        torch.testing.assert_close(
            siglip_losses(part, SCALE, BIAS, start), siglip_losses(whole, SCALE, BIAS, 0)[start:end]
        )
    wrong = clip_losses(whole.rows(5, 12), SCALE, 0)
    assert not torch.allclose(wrong, clip_losses(whole, SCALE, 0)[5:])


def test_siglip_starts_as_its_paper_says_and_clip_as_open_clip_does() -> None:
    assert initial_logits("siglip") == {"init_logit_scale": math.log(10), "init_logit_bias": -10}
    assert initial_logits("clip") == {}
