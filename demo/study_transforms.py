"""What may befall a picture on its way through the web: transforms by strength, for the study of near duplicates.

Strengths were fixed before the study was first run. Those of scaling, JPEG and crops, and their combinations, are
those that the demo's web plants (`demo.web_faults`); the others are what a perceptual hash may or may not survive.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from demo.pictures import encode, near_duplicate
from demo.web_faults import CROPS, QUALITIES, SCALES, TRANSFORMS

_TURNED = Image.Resampling.BICUBIC


@dataclass(frozen=True, slots=True)
class Step:
    """One transform at one strength; `name` and `strength` are how the report shows it.

    `goal` says that the study's goal is set for it: re-encoding, scaling and crops as the demo's web plants them.
    `values` are the strengths that are drawn from: the strength itself, or both its signs.
    """

    name: str
    strength: str
    values: tuple[float, ...] = field(default=())
    goal: bool = False

    @property
    def group(self) -> str:
        """Where the report lists it."""
        return "several at once" if "+" in self.name else self.name


def _each(name: str, values: tuple[float, ...], form: str, *, goal: bool = False) -> list[Step]:
    return [Step(name, form.format(value), (value,), goal) for value in values]


def _both(name: str, values: tuple[float, ...], form: str) -> list[Step]:
    return [Step(name, "± " + form.format(value), (-value, value)) for value in values]


STEPS: tuple[Step, ...] = (
    *_each("scale", SCALES, "× {:g}", goal=True),
    *_each("scale", (0.25,), "× {:g}"),
    *_each("jpeg", QUALITIES, "quality {:g}", goal=True),
    *_each("jpeg", (30,), "quality {:g}"),
    *_each("webp", QUALITIES, "quality {:g}", goal=True),
    *_each("webp", (30,), "quality {:g}"),
    *_each("crop", CROPS, "{:.0%}", goal=True),
    *_each("crop", (0.10,), "{:.0%}"),
    *(Step(name, name.replace("+", ", "), goal=True) for name in TRANSFORMS if "+" in name),
    *_each("border", (0.02, 0.05, 0.10), "{:.0%}"),
    *_both("brightness", (0.05, 0.10, 0.20), "{:.0%}"),
    *_both("contrast", (0.10, 0.20), "{:.0%}"),
    *_both("gamma", (0.10, 0.25), "{:g}"),
    *_both("rotate", (1, 2, 5), "{:g}°"),
    *_each("text", (0.3, 0.7), "{:.0%} of the width"),
    Step("mirror", "left and right"),
)  # fmt: skip


def transform(data: bytes, step: Step, rng: np.random.Generator) -> bytes:
    """The encoded picture `data` (RGB) after one transform, encoded; the same for the same state of `rng`.

    Scaling, JPEG, crops and their combinations are those of `demo.pictures.near_duplicate`; pictures that are
    changed in another way are saved as JPEG of quality 90.
    """
    value = float(rng.choice(step.values)) if step.values else 0.0
    parts = step.name.split("+")
    if set(parts) <= {"scale", "crop", "jpeg"}:
        own = {step.name: value} if step.values else {}
        scale, crop, quality = (
            (float(own.get(part, rng.choice(choices))) if part in parts else None)
            for part, choices in (("scale", SCALES), ("crop", CROPS), ("jpeg", QUALITIES))
        )
        quality_whole = None if quality is None else int(quality)
        return near_duplicate(data, scale, crop, quality_whole, seed=int(rng.integers(2**31)))[0]
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if step.name == "webp":
        return encode(image, "webp", int(value))
    return encode(_changed(image, step.name, value, rng), "jpeg", 90)


def _changed(image: Image.Image, name: str, value: float, rng: np.random.Generator) -> Image.Image:
    if name == "border":
        width = max(1, round(value * max(image.size)))
        return ImageOps.expand(image, width, tuple(int(v) for v in rng.integers(0, 256, 3)))
    if name == "brightness":
        return ImageEnhance.Brightness(image).enhance(1 + value)
    if name == "contrast":
        return ImageEnhance.Contrast(image).enhance(1 + value)
    if name == "gamma":
        levels = 255 * (np.arange(256) / 255) ** float(np.exp(value))
        return image.point([round(float(level)) for level in levels] * 3)
    if name == "rotate":
        return image.rotate(value, _TURNED, fillcolor="white")
    if name == "mirror":
        return ImageOps.mirror(image)
    return _written_on(image, value, rng)


def _written_on(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """The picture with a line of text over `share` of its width, white on black, as captions and marks are."""
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=10)) + ".example"
    font = ImageFont.load_default(64)
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    line = Image.new("RGB", (right - left + 16, bottom - top + 16), "black")
    ImageDraw.Draw(line).text((8 - left, 8 - top), text, font=font, fill="white")
    width = max(8, round(share * image.width))
    line = line.resize((width, max(4, round(line.height * width / line.width))), _TURNED)
    out = image.copy()
    room = (image.width - line.width, max(0, image.height - line.height))
    out.paste(line, (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))))
    return out
