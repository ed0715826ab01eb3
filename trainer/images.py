"""Bytes of a picture to RGB pixels, and to what a model wants of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from filters.errors import InputError, ModelError
from filters.pixels import BROKEN, FORMATS, describe, on_white


def decode_rgb(data: bytes, side: int | None = None) -> Image.Image:
    """The first frame of an encoded picture as RGB, transparency composited on white.

    White is what a browser shows behind a transparent picture. With `side` given a JPEG may be decoded at a reduced
    scale (its shorter side stays at least `side`), which is several times as fast for large pictures. Raises
    InputError for bytes that are no whole picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if side is not None:
                image.draft("RGB", (side, side))
            image.load()
            return on_white(image)
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{len(data)} bytes are not a whole picture: {describe(error, data)}") from error


@dataclass(frozen=True, slots=True)
class Preprocess:
    """A model's preprocessing in two steps: bytes of one value before, floats after, so that a GPU does the second.

    `shape` brings a picture to the model's size; `mean` and `std` are of its three channels. The two steps together
    give the very floats that open_clip's own transform gives.
    """

    shape: Callable[[Image.Image], Image.Image]
    mean: Sequence[float]
    std: Sequence[float]

    def pixels(self, data: bytes) -> torch.Tensor:
        """uint8 [H, W, 3] of an encoded picture at the model's size; InputError for bytes that are no picture."""
        return torch.from_numpy(np.array(self.shape(decode_rgb(data)), dtype=np.uint8))

    def stand_in(self) -> torch.Tensor:
        """uint8 [H, W, 3] of no picture in particular, in place of one that cannot be decoded."""
        return torch.from_numpy(np.array(self.shape(Image.new("RGB", (1, 1))), dtype=np.uint8))

    def normalised(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`pixels` uint8 [N, H, W, 3] as the model's input [N, 3, H, W], on the same device."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.div_(255).sub_(mean).div_(std).to(dtype)


def split_preprocess(transform: Any) -> Preprocess:
    """open_clip's transform for inference as two steps; ModelError for one that does not end in Normalize."""
    steps = transform.transforms if isinstance(transform, Compose) else []
    if len(steps) < 2 or not (isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)):
        raise ModelError("the model's preprocessing does not end in ToTensor and Normalize; use open_clip's own")
    return Preprocess(Compose(steps[:-2]), steps[-1].mean, steps[-1].std)
