"""From bytes of any kind to a stored picture with its facts, or to a reason."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.drawings import draw
from filters.pixels import DecodeError, EncodeError, decode, encode, phash, pixel_hash
from filters.resize import ResizeMode, framed_size
from filters.stored import Recipe, facts, store
from tests.filters.mutations import originals, packed

CAP = 10**7
FILES = originals()


def reason_of(data: bytes, recipe: Recipe | None = None, hash_declared: str | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        store(data, recipe or Recipe(), hash_declared)
    return caught.value.reason


def rgb_of(data: bytes) -> Any:
    return decode(data, max_pixels=CAP).rgb


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_stored(name: str) -> None:
    data = FILES[name]
    original = decode(data, max_pixels=CAP)
    stored = store(data, Recipe(image_size=40, encode_format="png"))
    height, width = original.rgb.shape[:2]
    assert (stored.original_width, stored.original_height) == (width, height)
    assert (stored.width, stored.height) == ((30, 40) if height > width else (40, 30))
    assert (stored.mime, stored.exif) == (original.mime, original.exif_json)
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    picture = rgb_of(stored.image)
    assert picture.shape == (stored.height, stored.width, 3)
    exact = cv2.resize(original.rgb, (stored.width, stored.height), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(picture, exact) >= 40
    assert (stored.phash ^ phash(original.rgb)).bit_count() <= 4


@pytest.mark.parametrize("name", FILES)
def test_facts_are_of_the_whole_picture(name: str) -> None:
    rgb = rgb_of(FILES[name])
    found = facts(FILES[name], CAP)
    assert found.image == b""
    assert (found.height, found.width) == (found.original_height, found.original_width) == rgb.shape[:2]
    assert (found.phash, found.pixel_hash) == (phash(rgb), pixel_hash(rgb))
    unshrunk = store(FILES[name], Recipe(image_size=1000))
    assert (unshrunk.phash, unshrunk.pixel_hash, unshrunk.sha256) == (found.phash, found.pixel_hash, found.sha256)


def test_exact_decode_is_the_area_average_of_the_whole() -> None:
    data = packed(Image.fromarray(draw("photo", 300, 400, seed=0)), "JPEG", quality=90)
    exact = store(data, Recipe(image_size=64, exact_decode=True, encode_format="png"))
    expected = cv2.resize(rgb_of(data), (64, 48), interpolation=cv2.INTER_AREA)
    assert np.array_equal(rgb_of(exact.image), expected)
    assert exact.pixel_hash == pixel_hash(rgb_of(data))
    fast = store(data, Recipe(image_size=64, encode_format="png"))
    assert fast.image != exact.image
    assert fast.pixel_hash != exact.pixel_hash
    assert cv2.PSNR(rgb_of(fast.image), rgb_of(exact.image)) >= 40


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("no", (120, 160)),
        ("keep_ratio", (40, 53)),
        ("keep_ratio_largest", (30, 40)),
        ("center_crop", (40, 40)),
        ("border", (40, 40)),
    ],
)
@pytest.mark.parametrize("format", ["jpg", "webp", "png"])
def test_modes_and_formats(mode: ResizeMode, shape: tuple[int, int], format: Any) -> None:
    stored = store(FILES["png"], Recipe(image_size=40, resize_mode=mode, encode_format=format))
    picture = decode(stored.image, max_pixels=CAP)
    assert picture.rgb.shape[:2] == (stored.height, stored.width) == shape
    assert picture.mime == {"jpg": "image/jpeg", "webp": "image/webp", "png": "image/png"}[format]
    assert framed_size((120, 160), 40, mode) == shape
    assert stored == store(FILES["png"], Recipe(image_size=40, resize_mode=mode, encode_format=format))


def test_border_is_white_and_not_in_the_hash() -> None:
    border = store(FILES["png"], Recipe(image_size=40, resize_mode="border", encode_format="png"))
    assert (rgb_of(border.image)[:5] == 255).all()
    assert (rgb_of(border.image)[35:] == 255).all()
    assert border.phash == store(FILES["png"], Recipe(image_size=40)).phash


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_size", [30, 200])
def test_a_jpeg_is_stored_upright(orientation: int, image_size: int) -> None:
    upright = Image.fromarray(draw("photo", 120, 200, seed=1))
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # by Pillow's numbers; those of 6 and 8 are each other's
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright if undo is None else upright.transpose(Image.Transpose(undo))
    stored = store(packed(turned, "JPEG", quality=95, exif=exif), Recipe(image_size=image_size, encode_format="png"))
    plain = store(packed(upright, "JPEG", quality=95), Recipe(image_size=image_size, encode_format="png"))
    assert (stored.width, stored.original_width) == (plain.width, 200)
    assert cv2.PSNR(rgb_of(stored.image), rgb_of(plain.image)) >= 35
    assert json.loads(stored.exif) == {"Orientation": str(orientation)}


def test_right_bytes_are_kept_when_asked() -> None:
    recipe = Recipe(image_size=200, skip_reencode=True)
    for name in ("jpeg-444", "jpeg-grey", "jpeg-progressive"):
        assert store(FILES[name], recipe).image == FILES[name]
    for name in ("jpeg", "jpeg-cmyk", "png"):  # turned, other colours, another format
        assert store(FILES[name], recipe).image != FILES[name]
    assert store(FILES["jpeg-444"], Recipe(image_size=50, skip_reencode=True)).width == 50
    png = Recipe(image_size=200, skip_reencode=True, encode_format="png")
    kept = {name for name in FILES if name.startswith("png") and store(FILES[name], png).image == FILES[name]}
    assert kept == {"png"}


def test_limits_of_shape() -> None:
    wide = packed(Image.new("RGB", (90, 30)), "PNG")
    assert store(wide, Recipe(min_image_size=30, max_aspect_ratio=3, max_pixels=2700)).width == 90
    assert reason_of(wide, Recipe(min_image_size=31)) == "too_small"
    assert reason_of(wide, Recipe(max_aspect_ratio=2.99)) == "aspect_ratio"
    assert reason_of(wide, Recipe(max_pixels=2699)) == "too_many_pixels"
    with pytest.raises(DecodeError) as caught:
        facts(wide, 2699)
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize(("format", "longest"), [("jpg", 65_500), ("webp", 16_383)])
def test_what_the_format_cannot_hold_is_refused_by_the_header(format: Any, longest: int) -> None:
    fits, long = (packed(Image.new("L", (side, 2), 99), "PNG") for side in (longest, longest + 1))
    recipe = Recipe(resize_mode="no", encode_format=format)
    assert store(fits, recipe).width == longest
    with pytest.raises(EncodeError, match=rf"a side of a stored {format} has at most {longest} pixels") as caught:
        store(long, recipe)
    assert caught.value.reason == "too_many_pixels"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (EncodeError, str(caught.value))
    # The shorter side is small enough already, so that nothing is shrunk or cropped.
    modes: tuple[ResizeMode, ...] = ("keep_ratio", "center_crop")
    for mode in modes:
        assert reason_of(long, Recipe(resize_mode=mode, encode_format=format)) == "too_many_pixels"
    for kept in (Recipe(resize_mode="border", encode_format=format), Recipe(resize_mode="no", encode_format="png")):
        assert store(long, kept).original_width == longest + 1


def test_hashes_declared_and_known() -> None:
    data = FILES["jpeg"]
    sha256, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
    for declared in (f"sha256:{sha256}", f"md5:{md5}", f"md5:{md5.upper()}"):
        assert store(data, Recipe(), declared).sha256 == sha256
    for declared in (f"sha256:{sha256[:-1]}0", f"md5:{sha256}", "sha256:", "crc32:00"):
        assert reason_of(data, hash_declared=declared) == "hash_mismatch"
    assert reason_of(b"not a picture", hash_declared=f"md5:{md5}") == "hash_mismatch"
    for known in (f"sha256:{sha256}", f"md5:{md5}"):
        recipe = Recipe(placeholder_hashes=("md5:0", known))
        assert reason_of(data, recipe) == "placeholder"
        assert reason_of(data, recipe, "sha256:other") == "placeholder"


@pytest.mark.parametrize(
    "data", [b"", b"<html>gone</html>", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"]
)
def test_other_bodies(data: bytes) -> None:
    assert reason_of(data) == "decode"


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("tiff") and not n.endswith("animated")])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_files_are_errors(name: str, share: float) -> None:
    assert reason_of(FILES[name][: int(len(FILES[name]) * share)]) == "decode"


def test_flipped_bit_in_the_pixels_of_a_png_is_an_error() -> None:
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 1
    assert reason_of(bytes(data)) == "decode"
    with pytest.raises(DecodeError):
        decode(bytes(data), max_pixels=CAP)


def test_harmless_oddities_are_not_errors() -> None:
    jpeg = FILES["jpeg-444"]
    for data in (jpeg + b"tail of a careless server", jpeg[:-2] + bytes(30) + jpeg[-2:]):
        assert np.array_equal(rgb_of(data), rgb_of(jpeg))
        assert store(data, Recipe(image_size=30)).width == 30


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = packed(Image.new("1", (12_000, 12_000)), "PNG")  # 144 megapixels in 18 KB
    jpeg = bytearray(packed(Image.new("L", (16, 16)), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 pixels, it says
    assert reason_of(bomb) == reason_of(bytes(jpeg)) == "too_many_pixels"


def test_encoders_of_both_paths_agree() -> None:
    rgb = draw("photo", 50, 70, seed=4)
    data = packed(Image.fromarray(rgb), "PNG")
    assert store(data, Recipe(encode_format="webp", encode_quality=90)).image == encode(rgb, "webp", 90)
    assert store(data, Recipe(encode_format="png")).image == encode(rgb, "png")
    with Image.open(io.BytesIO(store(data, Recipe()).image)) as jpeg:
        assert jpeg.format == "JPEG"
        assert not jpeg.getexif()
