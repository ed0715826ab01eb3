"""The presets `not_blank` and `not_low_entropy` on pictures as they are stored: text and line art are not blank."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from benchmarks.drawings import KINDS, draw
from demo.corpus import STYLES, load_style
from demo.drawings import load_drawings
from filters.pixels import decode, grey_levels
from filters.stored import Recipe, store
from tests.filters.mutations import packed
from tests.pipelines.test_presets import answers, catalog

GREY, BLACK = (220, 220, 220), (0, 0, 0)


def kept(data: bytes, call: str) -> bool:
    stored = store(data, Recipe())
    return bool(answers(catalog([{"entropy": stored.entropy, "contrast": stored.contrast}]), call)[0])


def not_blank(image: Image.Image, format: str = "PNG", **options: int) -> bool:
    return kept(packed(image, format, **options), "not_blank(samples)")


def noisy(deviation: float, seed: int = 0) -> Image.Image:
    """One grey with noise, as a scan or a re-encoded placeholder has it."""
    noise = np.random.default_rng(seed).normal(0, deviation, (300, 400, 1))
    levels: npt.NDArray[np.float64] = np.rint(200 + noise).repeat(3, axis=2)
    return Image.fromarray(levels.astype(np.uint8))


def written(text: str, side: int, ink: tuple[int, int, int] = BLACK) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).text((10, 10), text, ink, ImageFont.load_default(10))
    return image


def circle(side: int, width: int, ink: tuple[int, int, int] = BLACK) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    box = (side * 0.4, side * 0.4, side * 0.6, side * 0.6)
    ImageDraw.Draw(image).ellipse(box, outline=ink, width=width)
    return image


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("colour", [(255, 255, 255), (128, 128, 128), (200, 30, 60), (0, 0, 0)])
def test_one_colour_is_blank_at_any_quality(colour: tuple[int, int, int], quality: int) -> None:
    assert not not_blank(Image.new("RGB", (400, 300), colour), "JPEG", quality=quality)


@pytest.mark.parametrize(("deviation", "quality"), [(0.5, 95), (1, 50), (1, 75), (1, 95), (1.5, 75), (2, 50)])
def test_noise_alone_is_blank(deviation: float, quality: int) -> None:
    assert not not_blank(noisy(deviation), "JPEG", quality=quality)


def test_one_colour_but_for_a_pixel_or_two_is_blank() -> None:
    image = Image.new("RGB", (1000, 1000), "white")
    for x in (100, 900):
        image.putpixel((x, 500), BLACK)
    assert not not_blank(image)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "image",
    [
        written("404", 400), written("404", 1000), written("Image not available", 1000),
        written("\n".join(["a page of text in light grey"] * 40), 1000, GREY),
        circle(256, 1), circle(1000, 1), circle(1000, 2), circle(512, 2, GREY),
    ],
    ids=["404", "404, large", "notice", "grey page", "circle", "circle, large", "thick circle", "grey circle"],
)  # fmt: skip
def test_text_and_line_art_are_not_blank(image: Image.Image, format: str) -> None:
    assert not_blank(image, format)


def test_fog_is_not_blank_but_has_little_entropy_where_it_is_thick() -> None:
    fog = {amplitude: np.rint(200 + amplitude * np.linspace(0, 1, 400)) for amplitude in (4, 16)}
    pictures = {a: Image.fromarray(np.tile(x[None, :, None], (300, 1, 3)).astype(np.uint8)) for a, x in fog.items()}
    assert all(not_blank(picture) for picture in pictures.values())
    assert [kept(packed(x, "PNG"), "not_low_entropy(samples)") for x in pictures.values()] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_picture_is_blank(kind: str) -> None:
    assert kept(packed(Image.fromarray(draw(kind, 300, 400, seed=3)), "JPEG"), "not_blank(samples)")


def test_notices_and_flat_drawings_have_little_entropy_and_photographs_do_not() -> None:
    photographs = [Image.fromarray(draw(kind, 300, 400, seed=3)) for kind in ("photo", "texture", "foliage")]
    flat = [written("Image not available", 400), circle(256, 2), noisy(1)]
    found = [kept(packed(image, "JPEG"), "not_low_entropy(samples)") for image in photographs + flat]
    assert found == [True] * 3 + [False] * 3


def test_what_is_called_blank_though_it_is_not() -> None:
    """As the documentation admits: three grey signs on a megapixel."""
    assert not not_blank(written("404", 1000, GREY))


def corpus() -> Mapping[str, list[bytes]]:
    styles = {style: load_style(style)["image"].to_pylist() for style in STYLES}
    return {**styles, "drawings": load_drawings()["image"].to_pylist()}


def test_no_icon_and_no_drawing_of_the_demo_is_blank() -> None:
    rows = [grey_levels(decode(data, max_pixels=10**6).rgb) for images in corpus().values() for data in images]
    found = answers(catalog([dict(row) for row in rows]), "not_blank(samples)")
    assert len(found) > 12_000
    assert all(found)
