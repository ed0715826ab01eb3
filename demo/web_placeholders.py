"""The placeholder that the demo web plants: addresses that serve one body in place of their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from demo.web_record import SOURCES, Record

PLACEHOLDER = "placeholder"
PER_SOURCE = 2
FEW_URLS = PER_SOURCE * len(SOURCES) - 2  # addresses that bytes may have before dedupe takes them for a placeholder
_SIZE = (320, 200)


def plant_placeholders(records: Sequence[Record], rng: np.random.Generator) -> None:
    """Let a few clean records of each source that nothing repeats lose their picture, in place.

    All else that such a record says, its caption too, stays that of the picture that once was there.
    """
    repeated = {r.duplicate_of_url for r in records} | {r.url for r in records if r.plant == "duplicate_row"}
    for source in SOURCES:
        free = [r for r in records if r.source == source and r.plant == "clean" and r.url not in repeated]
        for i in rng.permutation(len(free))[:PER_SOURCE]:
            free[i].plant = PLACEHOLDER


def placeholder_picture() -> Image.Image:
    """A crossed grey field, as servers send it for a picture that they no longer have."""
    image = Image.new("RGB", _SIZE, (228, 228, 228))
    draw, (width, height) = ImageDraw.Draw(image), _SIZE
    draw.rectangle((20, 20, width - 21, height - 21), outline=(150, 150, 150), width=4)
    draw.line((20, 20, width - 21, height - 21), fill=(150, 150, 150), width=4)
    draw.line((20, height - 21, width - 21, 20), fill=(150, 150, 150), width=4)
    return image
