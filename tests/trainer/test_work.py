from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.config import TrainConfig
from trainer.model import new_model
from trainer.work import Work, forward_flops, matrix_rate

BLOCK = 12  # weights of a transformer's block, in squares of its width


def test_flops_of_a_vision_transformer_are_those_of_its_matrices() -> None:
    """By hand: 2 operations a weight and token, and two products a token and other token in attention."""
    import open_clip

    model = open_clip.create_model("ViT-B-32")
    image, text = forward_flops(model, 77)
    tokens, width, layers = 50, 768, 12
    blocks = layers * (2 * BLOCK * width**2 * tokens + 4 * tokens**2 * width)
    assert image == pytest.approx(blocks + 2 * 3 * 32 * 32 * width * 49 + 2 * width * 512, rel=0.01)
    width = 512
    assert text == pytest.approx(layers * (2 * BLOCK * width**2 * 77 + 4 * 77**2 * width) + 2 * width * 512, rel=0.01)


def test_a_locked_tower_has_no_backward_pass(architecture: Path) -> None:
    model, cpu = new_model(architecture, 0), torch.device("cpu")
    free = Work.of(model, 12, TrainConfig(model="x"), cpu)
    locked = Work.of(model, 12, TrainConfig(model="x", lock_image=True), cpu)
    part = Work.of(model, 12, TrainConfig(model="x", lock_image=True, lock_image_unlocked=1), cpu)
    assert free.image == pytest.approx(3 * locked.image)
    assert part.image == free.image
    assert locked.token == free.token
    assert model.visual.conv1.weight.device == cpu  # the model is left as it was


def test_the_rate_of_products_is_a_machine_s() -> None:
    assert 1e8 < matrix_rate(torch.device("cpu"), torch.float32) < 1e14
