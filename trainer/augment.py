"""Augmentation of a batch on the CPU, each sample's changes a function of (seed, epoch, position)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from trainer.chance import Chance
from trainer.config import AugmentConfig

_DRAWS = 16  # random numbers a sample; unused ones leave room so that a new change moves no old draw
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def draws(seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """Uniform random numbers, float32 [len(positions), 16]: each row depends on (seed, epoch, position) only.

    They are others than those of the generator that a view has for the same position.
    """
    chance = Chance(seed, epoch, stream=1)
    rows = [chance.at(position).random(_DRAWS) for position in positions.tolist()]
    return torch.from_numpy(np.asarray(rows, dtype=np.float32).reshape(-1, _DRAWS))


def augment(images: torch.Tensor, uniform: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Change `images`, float32 [N, 3, S, S] in 0..1, by the draws `uniform` [N, 16].

    What comes in from outside is white, the ground that the view pads pictures with. A picture's changes are the
    same to the last bit in a batch of any size. For training, `config` is `TrainView.after`, without the changes that
    the view has made.
    """
    if config == AugmentConfig():
        return images
    images = _recolour(_move(images, uniform, config), uniform, config)
    return _erase(images, uniform, config) if config.erase else images


def _signed(number: float) -> float:
    """From 0..1 to -1..1."""
    return number * 2 - 1


def _move(images: torch.Tensor, u: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    side = images.shape[-1]
    centres = (torch.arange(side) * 2 + 1) / side - 1
    # The grid is made of single products and sums, which a batch of any size gives to the same last bit; a product
    # of matrices, as in affine_grid, does not.
    theta = torch.tensor([_affine(row, config) for row in u.tolist()]).view(-1, 2, 3, 1, 1)
    x, y = (theta[:, i, 0] * centres + theta[:, i, 1] * centres[:, None] + theta[:, i, 2] for i in (0, 1))
    # grid_sample fills with 0, so the sampling is done on the negative
    return 1 - functional.grid_sample(1 - images, torch.stack([x, y], dim=-1), align_corners=False)


def _affine(u: list[float], config: AugmentConfig) -> tuple[float, ...]:
    """From a place in the changed picture to one in the picture, both in -1..1: a 2 x 3 matrix, row by row."""
    scale = 1 + _signed(u[0]) * config.zoom
    stretch = math.sqrt(1 + _signed(u[1]) * config.stretch)
    angle = _signed(u[2]) * math.radians(config.rotate)
    mirror = -1.0 if u[3] < config.flip else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = scale * stretch * mirror, scale / stretch
    x, y = _signed(u[4]) * config.shift * 2, _signed(u[5]) * config.shift * 2
    return cos * along, -sin * across, x, sin * along, cos * across, y


def _recolour(images: torch.Tensor, u: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    def wide(column: torch.Tensor) -> torch.Tensor:
        return column.view(-1, 1, 1, 1)

    if config.permute:
        orders = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
        chosen = orders[(u[:, 6] * len(orders)).long().clamp(max=len(orders) - 1)]
        chosen = torch.where((u[:, 7] < config.permute)[:, None], chosen, torch.arange(3))
        images = images.gather(1, chosen[:, :, None, None].expand_as(images))
    if config.grey:
        red, green, blue = (images[:, i : i + 1] * weight for i, weight in enumerate(_GREY_WEIGHTS))
        grey = red + green + blue
        images = torch.where(wide(u[:, 8] < config.grey), grey, images)
    # white stays the brightest: contrast turns about it, then the tint takes it away
    images = 1 - (1 - images) * wide(1 + (u[:, 9] * 2 - 1) * config.contrast)
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
