"""Pictures of which is known what decides: an object among others, planted at a place that is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.corpus import TRAIN_STYLES
from demo.pictures import background, cut_out
from demo.train_scorer import cells
from demo.web_vocabulary import load_vocabulary
from evaluation.attribution_metrics import Box

OBJECTS = 4
_SIZES = 0.34, 0.47  # of an object's side, in that of the picture
_PARTS = {"choice": 0, "test": 1}

Pixels = npt.NDArray[np.uint8]
Part = Literal["choice", "test"]


@dataclass(frozen=True, slots=True)
class Planted:
    """A picture of `OBJECTS` things, the first of which its caption names; none overlaps another.

    `pixels` uint8 [S, S, 3], `without` uint8 [OBJECTS, S, S, 3] the same with one of them left out, `boxes` (left,
    top, right, bottom, pixels) around what is drawn, and the English `names`; `absent` names a thing not shown.
    """

    pixels: Pixels
    without: Pixels
    boxes: list[Box]
    names: list[str]
    absent: str


def plant(count: int, side: int, seed: int, part: Part = "test") -> list[Planted]:
    """`count` pictures of `side` px from cells that the scorer was trained on, styles in turn; a function of `seed`.

    Those of the `choice` are others than those of the `test`.
    """
    by_style: dict[str, list[str]] = {style: [] for style in TRAIN_STYLES}
    for concept, style in cells(left_out=False):
        by_style[style].append(concept)
    return [_planted(by_style, side, number, [seed, _PARTS[part], number]) for number in range(count)]


def _planted(by_style: dict[str, list[str]], side: int, number: int, seed: list[int]) -> Planted:
    rng = np.random.Generator(np.random.PCG64(seed))
    style = TRAIN_STYLES[number % len(TRAIN_STYLES)]
    concepts = _unlike(by_style[style], OBJECTS + 1, rng)
    ground = background((side, side), rng, is_plain=False)
    icons: list[tuple[Image.Image, tuple[int, int]]] = []
    boxes: list[Box] = []
    for concept, (left, top, size) in zip(concepts, _places(side, rng), strict=False):
        icon = cut_out(style, concept).resize((size, size), Image.Resampling.BICUBIC)
        first, upper, last, lower = icon.getchannel("A").getbbox() or (0, 0, size, size)
        icons.append((icon, (left, top)))
        boxes.append((left + first, top + upper, left + last, top + lower))

    def drawn(leave_out: int | None = None) -> Pixels:
        canvas = ground.copy()
        for place, (icon, corner) in enumerate(icons):
            if place != leave_out:
                canvas.paste(icon, corner, icon)
        return np.asarray(canvas)

    *names, absent = (load_vocabulary().name[concept] for concept in concepts)
    return Planted(drawn(), np.stack([drawn(place) for place in range(OBJECTS)]), boxes, names, absent)


def _unlike(pool: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Concepts that are all of different subgroups."""
    subgroup, chosen = load_vocabulary().subgroup, dict[str, str]()
    while len(chosen) < count:
        concept = pool[int(rng.integers(len(pool)))]
        chosen.setdefault(subgroup[concept], concept)
    return list(chosen.values())


def _places(side: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Left edge, top and size of squares that do not overlap; drawn anew until they do not."""
    while True:
        sizes = rng.integers(round(_SIZES[0] * side), round(_SIZES[1] * side) + 1, size=OBJECTS)
        corners = rng.integers(0, side - sizes[:, None] + 1, size=(OBJECTS, 2))
        apart = np.abs((2 * corners + sizes[:, None])[:, None] - (2 * corners + sizes[:, None])[None]).max(2)
        if (apart >= sizes[:, None] + sizes[None])[~np.eye(OBJECTS, dtype=bool)].all():
            return [(int(left), int(top), int(size)) for (left, top), size in zip(corners, sizes, strict=True)]
