"""Square views of pictures that are not square: what they are, and that they are what the resize modes store."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from filters.pixels import decode
from filters.resize import ResizeMode
from filters.stored import Recipe, store
from filters.views import is_square, shown_aspect, square_views
from tests.filters.drawings import flag, jpeg


def test_only_pictures_that_are_not_square_have_views() -> None:
    assert is_square((200, 200)) and is_square((200, 209)) and is_square((209, 200))
    assert not is_square((200, 215)) and not is_square((215, 200))
    rgb = np.asarray(flag(1))
    assert square_views(rgb, rgb) == {}


def test_a_middle_of_one_colour_is_no_view() -> None:
    rgb = np.full((30, 90, 3), 240, np.uint8)
    rgb[:, :20] = (200, 10, 10)
    assert list(square_views(rgb, rgb)) == ["border"]
    rgb[:, 50:55] = 0
    views = square_views(rgb, rgb[::2, ::2])
    assert {name: view.shape for name, view in views.items()} == {"border": (45, 45, 3), "center_crop": (30, 30, 3)}
    assert (views["center_crop"] == rgb[:, 30:60]).all()
    assert (views["border"][15:30] == rgb[::2, ::2]).all()
    assert (views["border"][:15] == 255).all() and (views["border"][30:] == 255).all()


@pytest.mark.parametrize("mode", ["center_crop", "border"])
@pytest.mark.parametrize("size", [(600, 400), (301, 420)])
def test_views_are_what_the_modes_store(mode: ResizeMode, size: tuple[int, int]) -> None:
    data = jpeg(flag(3).resize(size))
    stored = decode(store(data, Recipe(image_size=100, resize_mode=mode)).image, max_pixels=10**6).rgb
    small = decode(store(data, Recipe(image_size=100)).image, max_pixels=10**6).rgb
    view = square_views(decode(data, max_pixels=10**6).rgb, small)[mode]
    again = decode(store(jpeg(Image.fromarray(view), 98), Recipe(image_size=100)).image, max_pixels=10**6).rgb
    assert np.abs(again.astype(int) - stored).mean() < 3


def test_the_aspect_that_is_shown() -> None:
    assert shown_aspect((100, 200), (300, 600)) == 2
    # The original's proportions are not rounded.
    assert shown_aspect((26, 256), (100, 1000)) == 10
    assert shown_aspect((256, 256), (300, 300)) == 1
    assert shown_aspect((256, 256), (300, 310)) == pytest.approx(31 / 30)
    assert shown_aspect((256, 256), (300, 400)) is None
