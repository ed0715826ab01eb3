"""Many views of one picture, as test-time prompt tuning compares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from evaluation import augmix as mixing
from evaluation.augmix import AUGMIX as AUGMIX
from filters.errors import InputError, ModelError
from filters.pixels import on_white
from trainer.batch import Pixels
from trainer.crops import BOX_DRAWS, draw_box
from trainer.images import decode_rgb, split_preprocess
from trainer.model import ClipModel
from trainer.resample import Box, Interpolation, resize

# The same numbers are drawn whether AugMix is used or not, so that the crops are the same.
_FLIP = BOX_DRAWS
_DRAWS = _FLIP + 1 + mixing.DRAWS


def views(
    image: bytes | Image.Image,
    model: ClipModel,
    generator: np.random.Generator,
    *,
    count: int = 64,
    augmix: Sequence[str] = (),
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    interpolation: Interpolation = "bilinear",
) -> torch.Tensor:
    """float32 [count, 3, H, W]: a picture as `model` wants it, and `count - 1` random crops of it.

    View 0 is the model's own preprocessing. Each other one is a random part of the picture (`scale` of its area, with
    aspect `ratio`) resized to the model's size, a mirror image with chance `flip`, and mixed by AugMix with those of
    `evaluation.augmix.OPERATIONS` that `augmix` names (AUGMIX: all; none: no mixing), which the paper does for
    fine-grained sets only. Size, mean and deviation are those of `model.visual.preprocess_cfg`.

    The result is a function of the arguments and the generator; fewer views are the first of more. InputError for
    bytes that are no whole picture, ModelError for a model that does not say how it wants them.
    """
    if count < 1:
        raise InputError(f"count is {count}; there must be at least one view, the picture itself")
    if unknown := [name for name in augmix if name not in AUGMIX]:
        raise InputError(f"augmix has no operation {unknown[0]!r}; it has {', '.join(AUGMIX)}")
    config = _preprocess(model)
    transform = image_transform_v2(config, is_train=False)
    picture = decode_rgb(image) if isinstance(image, bytes) else on_white(image)
    first: torch.Tensor = transform(picture).unsqueeze(0)
    rgb = np.array(picture, dtype=np.uint8)
    size = first.shape[2], first.shape[3]
    others = []
    for uniform in generator.random((count - 1, _DRAWS)):
        box = draw_box(*rgb.shape[:2], uniform=uniform[:BOX_DRAWS], scale=scale, ratio=ratio)
        pixels = _crop(rgb, box, size, interpolation)
        if uniform[_FLIP] < flip:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        others.append(mixing.mixed(pixels, uniform[_FLIP + 1 :], augmix) if augmix else pixels)
    if not others:
        return first
    steps = split_preprocess(transform)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (steps.mean, steps.std))
    planes = torch.from_numpy(np.stack(others)).permute(0, 3, 1, 2).float()
    return torch.cat([first, (planes / 255 - mean) / deviation])


def _crop(rgb: Pixels, box: Box, size: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """The box as uint8 [H, W, 3]; for a size that is no square by Pillow, which is slower."""
    height, width = size
    if height == width:
        return resize(rgb, box, height, interpolation)
    place = (box.left, box.top, box.left + box.width, box.top + box.height)
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    return np.array(Image.fromarray(rgb).crop(place).resize((width, height), how), dtype=np.uint8)


def _preprocess(model: ClipModel) -> PreprocessCfg:
    given = getattr(model.visual, "preprocess_cfg", None)
    if not given:
        raise ModelError("the model has no preprocess_cfg; load it by trainer.model.load_model, or set visual's own")
    known = {field.name for field in dataclasses.fields(PreprocessCfg)}
    return PreprocessCfg(**{name: value for name, value in dict(given).items() if name in known})
