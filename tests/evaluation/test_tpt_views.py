"""Views of a picture: the model's own first, then random crops that a generator alone decides, AugMix mixed in."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from torchvision.transforms import RandomResizedCrop

from benchmarks.drawings import draw
from evaluation import augmix
from evaluation.augmix import AUGMIX, DRAWS, OPERATIONS, chains, mixed, mixing_weights
from evaluation.tpt import views
from filters.errors import InputError, ModelError
from tests.trainer.small_models import small_model
from trainer.model import ClipModel

SIDE, MEAN, STD = 48, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
PHOTO = draw("photo", 90, 120, 1)


def model_of(**config: Any) -> ClipModel:
    model = small_model()
    model.visual.preprocess_cfg = {"size": SIDE, "mean": MEAN, "std": STD, **config}
    return model


MODEL = model_of()


def encoded(pixels: npt.NDArray[np.uint8] = PHOTO, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def made(seed: int = 0, model: ClipModel = MODEL, image: Any = None, **options: Any) -> torch.Tensor:
    return views(encoded() if image is None else image, model, np.random.default_rng(seed), **options)


def levels(found: torch.Tensor) -> npt.NDArray[np.float32]:
    """What was normalised, in 0 to 255."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return np.asarray(((found * std + mean) * 255).permute(0, 2, 3, 1).numpy(), np.float32)


@pytest.mark.parametrize("config", [{}, {"resize_mode": "longest", "interpolation": "bilinear"}, {"size": (40, 56)}])
def test_the_first_view_is_the_models_own_and_all_have_its_size(config: dict[str, Any]) -> None:
    model = model_of(**config)
    own = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    found = made(model=model, count=5)
    assert torch.equal(found[0], own(Image.fromarray(PHOTO)))
    assert found.shape == (5, *own(Image.fromarray(PHOTO)).shape)
    assert found.dtype == torch.float32


def test_sixty_four_views_none_like_another() -> None:
    found = made()
    assert found.shape == (64, 3, SIDE, SIDE)
    assert len({view.numpy().tobytes() for view in found}) == 64


@pytest.mark.parametrize("operations", [(), AUGMIX])
def test_the_generator_alone_decides(operations: tuple[str, ...]) -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    first = made(augmix=operations, count=12)
    assert torch.equal(made(augmix=operations, count=12), first)
    assert torch.equal(made(augmix=operations, count=7), first[:7])
    assert not torch.equal(made(1, augmix=operations, count=12), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


def test_crops_are_torchvisions_and_half_of_them_mirrored() -> None:
    # Columns that grow brighter to the right: the ends of a view tell where it was cut and whether it is mirrored.
    ramp = np.broadcast_to(np.linspace(0, 255, 200)[None, :, None], (160, 200, 3)).astype(np.uint8)
    found = levels(made(image=encoded(ramp), count=801)[1:])
    left, right = found[:, :, 0].mean(axis=(1, 2)), found[:, :, -1].mean(axis=(1, 2))
    assert abs((left > right).mean() - 0.5) < 0.06
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = torch.zeros(3, 160, 200)
        boxes = [RandomResizedCrop.get_params(whole, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(800)]
    widths = np.array([box[3] for box in boxes]) / 200 * 255 * (1 - 1 / SIDE)
    quantiles = np.linspace(0.1, 0.9, 9)
    theirs, ours = np.quantile(widths, quantiles), np.quantile(np.abs(left - right), quantiles)
    np.testing.assert_allclose(ours, theirs, atol=9)


def test_one_view_of_the_whole_is_what_pillow_makes_of_it() -> None:
    square = draw("photo", 100, 100, 2)
    found = levels(made(image=encoded(square), count=2, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)[1:])[0]
    expected = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_allclose(found, expected, atol=1.01)
    mirrored = levels(made(image=encoded(square), count=2, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)[1:])[0]
    np.testing.assert_allclose(mirrored, found[:, ::-1], atol=1e-3)


def test_pictures_may_be_decoded_and_transparent() -> None:
    assert torch.equal(made(image=Image.fromarray(PHOTO), count=4), made(count=4))
    clear = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    np.testing.assert_allclose(levels(made(image=clear, count=3)), 255, atol=1e-3)


def test_without_operations_a_view_is_the_plain_crop() -> None:
    """T11."""
    assert torch.equal(made(augmix=()), made())
    plain, with_mixing = made(), made(augmix=AUGMIX)
    assert torch.equal(with_mixing[0], plain[0])
    differences = (with_mixing - plain).abs().mean(dim=(1, 2, 3))[1:]
    assert differences.min() > 0
    assert differences.max() < 1  # of the same crops


def test_mixing_weights_add_up_to_one() -> None:
    """T11."""
    weights = np.array([mixing_weights(row) for row in np.random.default_rng(0).random((4000, DRAWS))])
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    # Beta(1, 1) for the picture, and of the rest a third for each chain, of Dirichlet(1, 1, 1)'s deviation.
    np.testing.assert_allclose(weights.mean(axis=0), [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.02)
    assert abs(weights[:, 0].std() - 12**-0.5) < 0.01
    shares = weights[:, 1:] / weights[:, 1:].sum(axis=1, keepdims=True)
    assert abs(shares.std() - 18**-0.5) < 0.01
    assert np.isfinite(mixing_weights(np.zeros(DRAWS))).all()


def test_a_mixture_lies_between_its_chains() -> None:
    """T11."""
    for row in np.random.default_rng(0).random((30, DRAWS)):
        ends = np.stack([PHOTO, *chains(PHOTO, row, AUGMIX)])
        found = mixed(PHOTO, row, AUGMIX)
        assert (found >= ends.min(axis=0) - 1e-3).all()
        assert (found <= ends.max(axis=0) + 1e-3).all()


def test_chains_have_one_to_three_operations_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float, int]] = []

    def spy(name: str) -> augmix.Operation:
        def note(pixels: Any, strength: float, sign: int) -> Any:
            calls.append((name, strength, sign))
            return pixels

        return note

    for name in AUGMIX:
        monkeypatch.setitem(OPERATIONS, name, spy(name))
    lengths = []
    for row in np.random.default_rng(0).random((500, DRAWS)):
        calls_before = len(calls)
        chains(PHOTO, row, AUGMIX)
        lengths.append(len(calls) - calls_before)
    assert (min(lengths), max(lengths)) == (3, 9)
    assert abs(np.mean(lengths) - 6) < 0.2
    names, strengths, signs = zip(*calls, strict=True)
    counts = [names.count(name) / len(names) for name in AUGMIX]
    np.testing.assert_allclose(counts, 1 / 9, atol=0.03)
    assert (min(strengths) >= 0.1, max(strengths) <= 1) == (True, True)
    assert abs(np.mean(signs)) < 0.06


def by_pillow(name: str, image: Image.Image, strength: float, sign: int) -> Image.Image:
    """AugMix's operations as its authors define them, by Pillow."""
    how = Image.Resampling.BILINEAR
    if name in ("autocontrast", "equalize"):
        return getattr(ImageOps, name)(image)  # type: ignore[no-any-return]
    if name == "posterize":
        return ImageOps.posterize(image, 4 - int(strength * 4 / 10))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - int(strength * 256 / 10))
    if name == "rotate":
        return image.rotate(sign * int(strength * 30 / 10), resample=how)
    shear, shift = sign * strength * 0.3 / 10, [sign * int(strength * side / 3 / 10) for side in image.size]
    data = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, shift[0], 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift[1]),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, data, resample=how)


@pytest.mark.parametrize("name", AUGMIX)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("strength", [0.1, 0.72, 1.0])
def test_operations_are_pillows(name: str, sign: int, strength: float) -> None:
    """T11: as the mean of the difference, 1e-2."""
    pixels = draw("foliage", 224, 192, 3)
    found = OPERATIONS[name](pixels, strength, sign)
    expected = np.asarray(by_pillow(name, Image.fromarray(pixels), strength, sign))
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(float) - expected).mean() / 255
    assert difference <= (1e-2 if name[:5] in ("rotat", "shear", "trans") else 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 0}, "count is 0"),
        ({"augmix": ("sharpen",)}, "no operation 'sharpen'; it has autocontrast"),
        ({"image": b"no picture"}, "10 bytes are not a whole picture"),
        ({"image": encoded()[:200]}, "not a whole picture"),
    ],
)
def test_what_cannot_be_viewed(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        made(**options)
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_say_how_it_wants_pictures() -> None:
    model = small_model()
    del model.visual.preprocess_cfg
    with pytest.raises(ModelError, match="no preprocess_cfg"):
        made(model=model)
