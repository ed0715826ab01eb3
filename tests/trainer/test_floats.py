"""Floats of pictures against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN as MEAN
from open_clip.constants import OPENAI_DATASET_STD as STD
from torchvision.transforms import Compose, Normalize, ToTensor

from trainer.floats import normalised


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 5, 5), (0, 8, 8)])
def test_floats_are_torchvisions_bit_by_bit(shape: tuple[int, int, int], last: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = Compose([ToTensor(), Normalize(MEAN, STD)])
    theirs = torch.stack([transform(one) for one in pixels]) if len(pixels) else torch.empty(0, 3, 8, 8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    images = images if last else images.contiguous()
    assert torch.equal(normalised(images, MEAN, STD), theirs)
    assert torch.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2), images)
