"""From the bytes of a picture to what a model sees of it in training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.batch import Pixels
from trainer.colours import JITTER_DRAWS, grey, jitter
from trainer.config import AugmentConfig
from trainer.crops import BOX_DRAWS, cropped, draw_box
from trainer.images import decode_rgb
from trainer.resample import Interpolation

# Which numbers decide what: unused ones are drawn too, so that switching one change on moves no other.
_FLIP, _JITTER, _GREY = BOX_DRAWS, BOX_DRAWS + 1, BOX_DRAWS + 2
_CHANGES = slice(_GREY + 1, _GREY + 1 + JITTER_DRAWS)
DRAWS = _CHANGES.stop
_DEFAULT = AugmentConfig()


@dataclass(frozen=True, slots=True)
class TrainView:
    """A picture's view for training, uint8 [size, size, 3]: a function of its bytes and a random generator alone.

    With `config.crop` it is open_clip's transform for training, with the same distributions: a random box resized
    in one antialiased step (`trainer.crops`), then `jitter`, then `grey`, then a mirror image with chance `flip`.
    Without, the whole picture is fitted into the square and padded with white, then `jitter` and `grey`; where there
    are none, nothing is drawn from the generator. What is left to `trainer.augment`, on a batch of floats, is the
    config `after`: mirror images too without a crop, for there all changes of the geometry are one resampling.
    """

    size: int
    config: AugmentConfig
    interpolation: Interpolation = "bicubic"

    @property
    def after(self) -> AugmentConfig:
        """The changes that are still to be made of a view; AugmentConfig() if there are none."""
        made = ["crop", "crop_ratio", "jitter", "jitter_prob", "grey"] + ["flip"] * (self.config.crop is not None)
        return self.config.model_copy(update={name: getattr(_DEFAULT, name) for name in made})

    def __call__(self, data: bytes, generator: np.random.Generator) -> Pixels:
        """The view of an encoded picture, C-contiguous; InputError for bytes that are no whole picture."""
        config = self.config
        if config.crop is None:
            pixels = fit(decode_rgb(data, self.size), self.size)
            return self._coloured(pixels, generator.random(DRAWS)) if config.jitter or config.grey else pixels
        uniform = generator.random(DRAWS)
        choose = partial(draw_box, uniform=uniform[:BOX_DRAWS], scale=config.crop, ratio=config.crop_ratio)
        pixels = self._coloured(cropped(data, choose, self.size, self.interpolation), uniform)
        return np.asarray(cv2.flip(pixels, 1), dtype=np.uint8) if uniform[_FLIP] < config.flip else pixels

    def _coloured(self, pixels: Pixels, uniform: npt.NDArray[np.float64]) -> Pixels:
        if self.config.jitter is not None and uniform[_JITTER] < self.config.jitter_prob:
            pixels = jitter(pixels, self.config.jitter, uniform[_CHANGES])
        return grey(pixels) if uniform[_GREY] < self.config.grey else pixels


def fit(image: Image.Image, side: int) -> Pixels:
    """The whole picture with its longest side scaled to `side`, centred on white: uint8 [side, side, 3]."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    resized = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)
