"""Pictures of bytes as the floats that a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def normalised(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """`images` uint8 [N, 3, S, S] as (images / 255 - mean) / std, float32 [N, 3, S, S] channels last, same device.

    `mean` and `std` are of the three channels. The floats are those of torchvision's ToTensor and Normalize, bit by
    bit. On a CPU half of the time goes into new memory, unless the process keeps what it frees (`trainer.allocator`).
    """
    if images.device.type != "cpu":
        shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
        return images.to(torch.float32, memory_format=torch.channels_last).div_(255).sub_(shift).div_(scale)
    count, channels, height, width = images.shape
    out = torch.empty(images.shape, memory_format=torch.channels_last)
    # Whole rows of pixels at a time, for rows of three floats are slow; a picture at a time stays in the cache.
    shift, scale = (torch.tensor(values).repeat(width) for values in (mean, std))
    shape = (count, height, width * channels)
    pixels, floats = (tensor.permute(0, 2, 3, 1).view(shape) for tensor in (_last(images), out))
    for number in range(count):
        floats[number].copy_(pixels[number]).div_(255).sub_(shift).div_(scale)
    return out


def _last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)
