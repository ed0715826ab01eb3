"""The training view: a function of bytes and generator, open_clip's with a crop, the fitted whole without."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from benchmarks.drawings import draw
from filters.errors import InputError
from tests.filters.mutations import packed
from trainer.augment import augment
from trainer.augment import draws as batch_draws
from trainer.batch import Pixels
from trainer.config import AugmentConfig
from trainer.images import decode_rgb
from trainer.views import DRAWS, TrainView, fit

ALL = AugmentConfig(crop=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.5, grey=0.3, flip=0.5)


def generator(position: int, seed: int = 0, epoch: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, position]))


def views(view: TrainView, data: bytes, count: int = 12) -> list[Pixels]:
    return [view(data, generator(position)) for position in range(count)]


@pytest.fixture(scope="module")
def photo() -> bytes:
    return packed(Image.fromarray(draw("photo", 200, 260, seed=2)), "JPEG", quality=90)


def test_a_view_is_a_function_of_bytes_and_generator(photo: bytes) -> None:
    view = TrainView(64, ALL)
    first = views(view, photo)
    np.random.seed(5)  # which must not matter
    for a, b in zip(first, views(pickle.loads(pickle.dumps(view)), photo), strict=True):
        assert np.array_equal(a, b)
        assert a.shape == (64, 64, 3)
        assert a.dtype == np.uint8
        assert a.flags.c_contiguous
    assert len({a.tobytes() for a in first}) == len(first)


def test_a_view_takes_the_same_numbers_or_none(photo: bytes) -> None:
    """So that the loader may keep the views that took none."""
    for config, count in (
        (AugmentConfig(), 0),
        (AugmentConfig(flip=0.5, zoom=0.1), 0),
        (AugmentConfig(grey=0.1), DRAWS),
        (AugmentConfig(crop=(0.9, 1.0)), DRAWS),
        (ALL, DRAWS),
    ):
        rng, expected = generator(7), generator(7)
        TrainView(32, config)(photo, rng)
        expected.random(count)
        assert rng.random() == expected.random()


def test_one_change_moves_no_other(photo: bytes) -> None:
    plain = views(TrainView(64, AugmentConfig(crop=(0.5, 1.0))), photo)
    flipped = views(TrainView(64, AugmentConfig(crop=(0.5, 1.0), flip=1.0)), photo)
    greyed = views(TrainView(64, AugmentConfig(crop=(0.5, 1.0), grey=1.0)), photo)
    for a, b, c in zip(plain, flipped, greyed, strict=True):
        assert np.array_equal(a[:, ::-1], b)
        assert np.ptp(c, axis=2).max() == 0
        assert np.abs(c[..., 0] - a @ [0.299, 0.587, 0.114]).max() <= 1.01


def test_chances(photo: bytes) -> None:
    plain = views(TrainView(16, AugmentConfig(crop=(1.0, 1.0))), photo, 400)
    some = views(TrainView(16, AugmentConfig(crop=(1.0, 1.0), flip=0.25)), photo, 400)
    assert 70 <= sum(not np.array_equal(a, b) for a, b in zip(plain, some, strict=True)) <= 130


@pytest.mark.parametrize("size", [(200, 260), (90, 31), (700, 500)])
def test_without_a_crop_the_whole_picture_is_fitted(size: tuple[int, int]) -> None:
    data = packed(Image.fromarray(draw("captioned", max(64, size[0]), max(64, size[1]), seed=1)), "JPEG")
    view = TrainView(64, AugmentConfig(flip=0.5, zoom=0.2))(data, generator(1))
    assert np.array_equal(view, fit(decode_rgb(data, 64), 64))


def test_the_fitted_picture_is_padded_with_white() -> None:
    pixels = fit(Image.new("RGB", (60, 30), (0, 0, 0)), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels[:8].min() == pixels[24:].min() == 255
    assert pixels[8:24].max() == 0


def test_colours_are_the_views_with_or_without_a_crop(photo: bytes) -> None:
    config = AugmentConfig(jitter=(0.8, 0.8, 0.8, 0.2))
    plain, changed = views(TrainView(64, AugmentConfig()), photo), views(TrainView(64, config), photo)
    assert all(not np.array_equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert all(np.ptp(view, axis=2).max() == 0 for view in views(TrainView(64, AugmentConfig(grey=1.0)), photo))


def test_what_is_left_for_the_batch() -> None:
    assert TrainView(32, ALL).after == AugmentConfig()
    mixed = ALL.model_copy(update={"zoom": 0.1, "erase": 0.2})
    assert TrainView(32, mixed).after == AugmentConfig(zoom=0.1, erase=0.2)
    whole = AugmentConfig(zoom=0.1, grey=0.3, flip=0.5, jitter=(0.1, 0.1, 0.1, 0.0), jitter_prob=0.5)
    assert TrainView(32, whole).after == AugmentConfig(zoom=0.1, flip=0.5)


def test_the_toy_recipes_changes_are_all_left_for_the_batch(photo: bytes) -> None:
    """Pixels of a recipe without crop are those of before there were views."""
    import torch

    config = AugmentConfig(zoom=0.2, shift=0.1, rotate=20, flip=0.5, tint=0.3, contrast=0.3, permute=0.2)
    view = TrainView(32, config)
    assert view.after == config
    planes = torch.from_numpy(view(photo, generator(3)).copy()).permute(2, 0, 1)[None].float() / 255
    whole = torch.from_numpy(fit(decode_rgb(photo, 32), 32).copy()).permute(2, 0, 1)[None].float() / 255
    uniform = batch_draws(0, 0, np.array([3]))
    assert torch.equal(augment(planes, uniform, view.after), augment(whole, uniform, config))


@pytest.mark.parametrize("config", [AugmentConfig(), ALL])
@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBPVP8 "])
def test_no_picture_is_an_error(config: AugmentConfig, data: bytes) -> None:
    with pytest.raises(InputError, match=f"{len(data)} bytes are not a whole picture"):
        TrainView(32, config)(data, generator(0))
