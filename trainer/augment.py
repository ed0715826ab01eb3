"""Augmentation of a batch on the CPU, each sample's changes a function of (seed, epoch, position)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from trainer.config import AugmentConfig

_DRAWS = 16  # random numbers a sample; unused ones leave room so that a new change moves no old draw
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def draws(seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """Uniform random numbers, float32 [len(positions), 16]: each row depends on (seed, epoch, position) only."""
    rows = [
        np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, int(position)])).random(_DRAWS)
        for position in positions
    ]
    return torch.from_numpy(np.asarray(rows, dtype=np.float32).reshape(-1, _DRAWS))


def augment(images: torch.Tensor, uniform: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Change `images`, float32 [N, 3, S, S] in 0..1, by the draws `uniform` [N, 16].

    `config` is `TrainView.after`: crop and jitter are not made here, and grey and mirror images only of pictures
    without a crop. What comes in from outside is white, the ground that the view pads pictures with.
    """
    if config == AugmentConfig():
        return images
    images = _recolour(_move(images, uniform, config), uniform, config)
    return _erase(images, uniform, config) if config.erase else images


def _signed(column: torch.Tensor) -> torch.Tensor:
    return column * 2 - 1


def _move(images: torch.Tensor, u: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    scale = 1 + _signed(u[:, 0]) * config.zoom
    stretch = torch.sqrt(1 + _signed(u[:, 1]) * config.stretch)
    angle = _signed(u[:, 2]) * math.radians(config.rotate)
    mirror = torch.where(u[:, 3] < config.flip, -1.0, 1.0)
    x, y = _signed(u[:, 4]) * config.shift * 2, _signed(u[:, 5]) * config.shift * 2
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([cos * scale * stretch * mirror, -sin * scale / stretch, x], dim=1),
            torch.stack([sin * scale * stretch * mirror, cos * scale / stretch, y], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    # grid_sample fills with 0, so the sampling is done on the negative
    return 1 - functional.grid_sample(1 - images, grid, align_corners=False)


def _recolour(images: torch.Tensor, u: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    def wide(column: torch.Tensor) -> torch.Tensor:
        return column.view(-1, 1, 1, 1)

    if config.permute:
        orders = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
        chosen = orders[(u[:, 6] * len(orders)).long().clamp(max=len(orders) - 1)]
        chosen = torch.where((u[:, 7] < config.permute)[:, None], chosen, torch.arange(3))
        images = images.gather(1, chosen[:, :, None, None].expand_as(images))
    if config.grey:
        grey = (images * torch.tensor(_GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)
        images = torch.where(wide(u[:, 8] < config.grey), grey, images)
    # white stays the brightest: contrast turns about it, then the tint takes it away
    images = 1 - (1 - images) * wide(1 + _signed(u[:, 9]) * config.contrast)
    return (images * (1 - config.tint * u[:, 10:13, None, None])).clamp(0, 1)


def _erase(images: torch.Tensor, u: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    side = images.shape[-1]
    place = torch.arange(side) / side
    size = config.erase * u[:, 13]
    inside = [
        (place >= start[:, None]) & (place < (start + size)[:, None])
        for start in (u[:, 14] * (1 - size), u[:, 15] * (1 - size))
    ]
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(hole[:, None], 1.0)
