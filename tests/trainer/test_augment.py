from __future__ import annotations

import numpy as np
import torch

from tests.trainer.conftest import AUGMENT
from trainer.augment import augment, draws
from trainer.config import AugmentConfig

ALL = AUGMENT.model_copy(update={"grey": 0.2})


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(augment(images, draws(0, 0, np.arange(3)), AugmentConfig()), images)


def test_a_draw_depends_on_seed_epoch_and_position_alone() -> None:
    whole = draws(1, 2, np.arange(8))
    assert torch.equal(draws(1, 2, np.array([5])), whole[5:6])
    assert not torch.equal(draws(1, 3, np.arange(8)), whole)
    assert not torch.equal(draws(2, 2, np.arange(8)), whole)


def test_draws_are_not_those_of_the_view_at_the_same_position() -> None:
    generator = np.random.Generator(np.random.Philox(key=[1, 2], counter=[0, 0, 0, 5]))
    assert not np.isin(draws(1, 2, np.array([5])).numpy(), generator.random(64).astype(np.float32)).any()


def test_augmentation_keeps_white_ground_white_and_the_range() -> None:
    white = torch.ones(4, 3, 16, 16)
    config = ALL.model_copy(update={"tint": 0.0})
    torch.testing.assert_close(augment(white, draws(0, 0, np.arange(4)), config), white)
    changed = augment(torch.rand(64, 3, 16, 16), draws(0, 0, np.arange(64)), ALL)
    assert changed.min() >= 0 and changed.max() <= 1


def test_a_picture_is_changed_the_same_in_a_batch_of_any_size() -> None:
    """To the last bit: a value of 8 bits is made of it, and rounding shows any difference."""
    images, uniform = torch.rand(13, 3, 33, 33), draws(1, 2, np.arange(13))
    whole = augment(images, uniform, ALL)
    for size in (1, 5):
        parts = [augment(images[i : i + size], uniform[i : i + size], ALL) for i in range(0, 13, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_shift_moves_the_picture_by_its_part_of_the_side() -> None:
    images = torch.ones(1, 3, 16, 16)
    images[:, :, 8, 8] = 0
    uniform = torch.full((1, 16), 0.5)
    uniform[:, 4] = 1.0  # to the left by shift * side
    moved = augment(images, uniform, AugmentConfig(shift=0.25))
    torch.testing.assert_close(moved[:, :, 8, 4], torch.zeros(1, 3), rtol=0, atol=1e-5)
