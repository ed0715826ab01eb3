"""Fast decoding of JPEG and WebP: how near it is to the whole, and that damage is seen."""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.drawings import KINDS, draw
from filters.fast import decode_part, decode_scaled, decode_webp, encode_jpeg, jpeg_header, upright
from filters.pixels import RGB, DecodeError, decode
from filters.resize import Size, scaled_size, shrink
from tests.filters.mutations import originals, packed

CAP = 10**7
ALL = (10**6, 10**6)


@pytest.fixture(scope="module")
def photo() -> bytes:
    return packed(Image.fromarray(draw("photo", 300, 401, seed=2)), "JPEG", quality=90)


def rgb_of(data: bytes, at_least: Size) -> RGB:
    with Image.open(io.BytesIO(data)) as image:
        rgb = decode_scaled(data, (image.height, image.width), at_least)
    assert rgb is not None
    return rgb


def test_whole_decoding_is_that_of_pillow() -> None:
    for name, data in originals().items():
        if name.startswith("jpeg") and name not in ("jpeg", "jpeg-cmyk"):  # turned; not RGB
            assert np.array_equal(rgb_of(data, ALL), decode(data, max_pixels=CAP).rgb), name


def test_headers_of_what_can_be_decoded() -> None:
    files = originals()
    assert jpeg_header(files["jpeg"]) == ((120, 160), "420")
    assert jpeg_header(files["jpeg-444"]) == ((120, 160), "444")
    assert jpeg_header(files["jpeg-grey"]) == ((120, 160), "Gray")
    for name in ("jpeg-cmyk", "png", "webp", "gif"):
        assert jpeg_header(files[name]) is None, name
    for data in (b"", files["jpeg"][:100]):
        assert jpeg_header(data) is None


@pytest.mark.parametrize("part", [1, 2, 4, 8])
def test_a_part_of_the_scale(photo: bytes, part: int) -> None:
    rgb = decode_part(photo, (300, 401), part)
    assert rgb is not None
    assert rgb.shape == (-(-300 // part), -(-401 // part), 3)
    whole = decode_part(photo, (300, 401))
    assert whole is not None
    averaged = shrink(whole[:296, :400], (296 // part, 400 // part), exact=True)
    assert cv2.PSNR(rgb[: 296 // part, : 400 // part], averaged) > 33


@pytest.mark.parametrize(
    ("at_least", "shape"),
    [
        ((1, 1), (38, 51)),
        ((38, 51), (38, 51)),
        ((38, 52), (75, 101)),
        ((76, 1), (150, 201)),
        ((150, 201), (150, 201)),
        ((151, 1), (300, 401)),
        ((1, 202), (300, 401)),
        (ALL, (300, 401)),
    ],
)
def test_smallest_scale_that_is_large_enough(photo: bytes, at_least: Size, shape: Size) -> None:
    assert rgb_of(photo, at_least).shape[:2] == shape


def quality(sides: tuple[tuple[int, int], ...], image_size: int) -> Iterator[tuple[str, float]]:
    """Kind and PSNR in dB of pictures shrunk by way of a reduced scale, against whole decoding and area average."""
    for kind in KINDS:
        for number, (height, width) in enumerate(sides):
            sampling = 0 if number % 2 else 2
            image = Image.fromarray(draw(kind, height, width, seed=number))
            data = packed(image, "JPEG", quality=90, subsampling=sampling)
            target = scaled_size((height, width), image_size, "keep_ratio")
            reduced = shrink(rgb_of(data, (2 * target[0], 2 * target[1])), target)
            yield kind, cv2.PSNR(reduced, shrink(rgb_of(data, ALL), target, exact=True))


def test_reduced_scale_is_near_the_whole() -> None:
    found = list(quality(((540, 720), (700, 525), (820, 1100), (600, 1000), (1100, 830)), 128))
    values = [value for _, value in found]
    print(
        f"PSNR median {np.median(values):.1f}, 5th percentile {np.percentile(values, 5):.1f}, least {min(values):.1f}"
    )
    assert np.median(values) >= 40
    assert np.percentile(values, 5) >= 35


def test_pictures_full_of_edges_are_decoded_whole() -> None:
    for kind, reduced in (("photo", True), ("foliage", True), ("text", False), ("line art", False)):
        data = packed(Image.fromarray(draw(kind, 400, 400, seed=0)), "JPEG", quality=90)
        assert (rgb_of(data, (200, 200)).shape[0] == 200) == reduced, kind


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["jpeg", "jpeg-progressive", "jpeg-restart"])
def test_lost_pixels_are_an_error_at_every_scale(kind: str, share: float) -> None:
    data = originals()[kind]
    cut = data[: int(len(data) * share)] + b"\xff\xd9"  # an end marker, so that only the pixels tell
    with Image.open(io.BytesIO(data)) as image:
        size = (image.height, image.width)
    for at_least in (ALL, (50, 50), (20, 20)):
        with pytest.raises(DecodeError) as caught:
            decode_scaled(cut, size, at_least)
        assert caught.value.reason == "decode"


def test_what_it_is_not_sure_of_is_left_to_others(photo: bytes) -> None:
    assert decode_scaled(photo, (300, 400), (1, 1)) is None  # the header was read differently
    assert decode_scaled(originals()["jpeg-cmyk"], (120, 160), (1, 1)) is None
    assert decode_scaled(photo[:-2], (300, 401), ALL) is None  # only the end marker is missing
    assert decode_scaled(photo[:-2] + bytes(30) + photo[-2:], (300, 401), ALL) is None  # a habit of some cameras
    assert decode_scaled(b"", (1, 1), ALL) is None


def test_rubbish_before_the_end_is_damage(photo: bytes) -> None:
    with pytest.raises(DecodeError, match="extraneous"):
        decode_scaled(photo[:-2] + bytes(500) + photo[-2:], (300, 401), ALL)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_does(orientation: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image, exif = Image.fromarray(rgb), Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    with Image.open(io.BytesIO(packed(image, "PNG", exif=exif))) as tagged:
        expected = np.asarray(ImageOps.exif_transpose(tagged))
    assert np.array_equal(upright(rgb, orientation), expected)


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_encoding_is_that_of_pillow(quality: int) -> None:
    rgb = draw("photo", 61, 83, seed=0)
    mine = decode(encode_jpeg(rgb, quality), max_pixels=CAP).rgb
    pillows = decode(packed(Image.fromarray(rgb), "JPEG", quality=quality), max_pixels=CAP).rgb
    assert cv2.PSNR(mine, pillows) >= 40
    assert encode_jpeg(rgb, quality) == encode_jpeg(rgb.copy(), quality)


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_webp_has_the_pixels_that_pillow_finds(options: dict[str, int]) -> None:
    data = packed(Image.fromarray(draw("photo", 300, 401, seed=2)), "WEBP", **options)
    found = decode_webp(data)
    assert found is not None
    assert np.array_equal(found, decode(data, max_pixels=CAP).rgb)
    for part in (0.01, 0.5, 0.99):
        assert decode_webp(data[: int(part * len(data))]) is None
