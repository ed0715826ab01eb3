"""ROAR+: what is taken away, and how much harder pairs become to match without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evaluation.attribution_metrics import important
from evaluation.roar import Retrieval, Roar, corrupt_images, corrupt_tokens, fine_tuned, retrieval
from filters.errors import ConfigError, InputError
from tests.evaluation.m2ib_models import clip, pairs


@pytest.fixture(scope="module")
def vit() -> Any:
    return clip()


def test_corruption_takes_what_is_above_the_percentile(vit: Any) -> None:
    images, tokens = pairs(vit, [12, 4])
    maps = torch.arange(32 * 32.0).view(1, 32, 32).expand(2, -1, -1) / 1023
    changed = corrupt_images(images, maps)
    assert torch.equal(changed[:, :, :24], images[:, :, :24])
    means = images.mean((2, 3), keepdim=True).expand(-1, -1, 8, 32)
    torch.testing.assert_close(changed[:, :, 24:], means)
    assert torch.equal(corrupt_images(images, torch.zeros(2, 32, 32)), images)  # nothing is above the others
    words = torch.arange(12.0).expand(2, -1)
    assert important(vit, tokens, words, 90).nonzero().tolist() == [[0, 10], [1, 2]]
    texts = corrupt_tokens(vit, tokens, words)
    assert (texts != tokens).nonzero().tolist() == [[0, 10], [1, 2]]
    assert not texts[0, 10] and not texts[1, 2]
    with pytest.raises(ConfigError, match="percentile 101"):
        corrupt_tokens(vit, tokens, words, 101)


def test_retrieval_by_hand(vit: Any) -> None:
    images, tokens = pairs(vit, [5, 6, 7, 8])
    with torch.no_grad():
        seen, read = (torch.nn.functional.normalize(e) for e in (vit.encode_image(images), vit.encode_text(tokens)))
    scores = (seen @ read.T).numpy()
    found = retrieval(vit, images, tokens)
    assert found.to_text == np.mean(scores.argmax(1) == np.arange(4))
    assert found.to_image == np.mean(scores.argmax(0) == np.arange(4))
    assert Retrieval(0.5, 0.0).lost(Retrieval(0.2, 0.0)) == Retrieval(pytest.approx(0.6), 0.0)  # type: ignore[arg-type]


def test_fine_tuning_on_corrupted_pairs_leaves_a_higher_loss() -> None:
    """Texts that say which of eight brightnesses a picture has: without the pictures' content nothing is learnt."""
    model = clip({"layers": 1}, {"layers": 1}).float()
    kinds = torch.arange(160) % 8
    images = (kinds.float() / 2 - 2)[:, None, None, None].expand(-1, 3, 32, 32).clone()
    images += 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(160, 12, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = 1, 2 + kinds, 59
    before = [weight.clone() for weight in model.parameters()]
    blank = torch.zeros_like(images)
    found = fine_tuned(model, (images, tokens), (blank, tokens), epochs=3, batch=16, lr=2e-3)
    assert found.increase > 5
    assert found == fine_tuned(model, (images, tokens), (blank, tokens), epochs=3, batch=16, lr=2e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert Roar(2.0, 3.0).increase == 50
    with pytest.raises(InputError, match="at least 32 pairs"):
        fine_tuned(model, (images[:20], tokens[:20]), (blank[:20], tokens[:20]), batch=16)
