"""Decoding, resizing, encoding and hashing of single pictures."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib

import imagehash
import numpy as np
import pytest
from PIL import Image

from filters.pixels import RGB, DecodeError, decode, encode, phash, pixel_hash, resize_longest

CAP = 1_000_000


@pytest.fixture(scope="module")
def rgb() -> RGB:
    """A smooth picture of 90 x 120 pixels with a hard-edged square."""
    small = np.random.default_rng(5).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((120, 90), Image.Resampling.BICUBIC)).copy()
    picture[20:50, 30:80] = (20, 120, 220)
    return picture


def packed(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("format", "mime", "tolerance"),
    [
        ("PNG", "image/png", 0),
        ("BMP", "image/bmp", 0),
        ("TIFF", "image/tiff", 0),
        ("JPEG", "image/jpeg", 6),
        ("MPO", "image/jpeg", 6),
        ("WEBP", "image/webp", 8),
        ("GIF", "image/gif", 12),
    ],
)
def test_decode_reads_every_format(rgb: RGB, format: str, mime: str, tolerance: float) -> None:
    picture = decode(packed(Image.fromarray(rgb), format), max_pixels=CAP)
    assert picture.mime == mime
    assert picture.rgb.shape == rgb.shape
    assert picture.rgb.dtype == np.uint8
    assert np.abs(picture.rgb.astype(int) - rgb).mean() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr", "I", "I;16"])
def test_decode_turns_every_mode_into_rgb(mode: str) -> None:
    format = {"CMYK": "TIFF", "YCbCr": "JPEG", "PA": "PNG", "I": "TIFF"}.get(mode, "PNG")
    white_left = np.zeros((20, 30), np.uint8)
    white_left[:, :15] = 255
    if mode in ("I", "I;16"):
        values = white_left.astype(np.int32) * 257
        image = Image.fromarray(values if mode == "I" else values.astype(np.uint16))
    elif mode == "PA":
        image = Image.fromarray(white_left).convert("LA")
    else:
        image = Image.fromarray(white_left).convert("RGB").convert(mode)
    decoded = decode(packed(image, format), max_pixels=CAP).rgb
    assert decoded.shape == (20, 30, 3)
    assert decoded[10, 3].min() >= 253
    assert decoded[10, 27].max() <= 2


@pytest.mark.parametrize("value", [0, 1, 128, 129, 32768, 65535])
def test_sixteen_bits_are_rounded_to_eight(value: int) -> None:
    data = packed(Image.fromarray(np.full((2, 2), value, np.uint16)), "PNG")
    assert decode(data, max_pixels=CAP).rgb[0, 0].tolist() == [round(value / 257)] * 3


def test_float_pixels_are_refused() -> None:
    data = packed(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(DecodeError, match="float pixels"):
        decode(data, max_pixels=CAP)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(format: str) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (255, 0, 0, 255)
    rgba[4:, 4:] = (0, 0, 0, 128)
    decoded = decode(packed(Image.fromarray(rgba), format, lossless=True), max_pixels=CAP).rgb
    assert decoded[0, 0].tolist() == [255, 0, 0]
    assert decoded[0, 7].tolist() == [255, 255, 255]
    assert decoded[7, 7] == pytest.approx([127, 127, 127], abs=1)


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    decoded = decode(packed(image, "GIF", transparency=0), max_pixels=CAP).rgb
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[3, 3].tolist() == [0, 0, 255]


def test_transparent_colour_of_rgb_png_is_white() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    decoded = decode(packed(image, "PNG", transparency=(10, 20, 30)), max_pixels=CAP).rgb
    assert (decoded == 255).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue")]
    data = packed(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data, max_pixels=CAP).rgb[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (24, 16), "white")
    upright.paste((255, 0, 0), (0, 0, 8, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    picture = decode(packed(stored, "PNG", exif=exif), max_pixels=CAP)
    assert picture.rgb.shape == (16, 24, 3)
    assert picture.rgb[2, 2].tolist() == [255, 0, 0]
    assert json.loads(picture.exif_json) == {"Make": "maker", "Orientation": str(orientation)}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture(rgb: RGB) -> None:
    data = packed(Image.fromarray(rgb), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    picture = decode(data, max_pixels=CAP)
    assert picture.rgb.shape == rgb.shape
    assert picture.exif_json == "{}"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_errors(rgb: RGB, format: str, share: float) -> None:
    data = packed(Image.fromarray(rgb), format)
    with pytest.raises(DecodeError) as caught:
        decode(data[: int(len(data) * share)], max_pixels=CAP)
    assert caught.value.reason == "decode"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>gone</body></html>", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%PDF-1.7", "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, r"\w+"),
    ],
)
def test_other_bodies_are_errors(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        decode(data, max_pixels=CAP)
    assert caught.value.reason == "decode"


@pytest.mark.parametrize("side", [1001, 20_000, 2**31 - 1])
def test_header_that_names_too_many_pixels(side: int) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    with pytest.raises(DecodeError) as caught:
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""), max_pixels=CAP)
    assert caught.value.reason == "too_many_pixels"


def test_pixel_cap_is_inclusive(rgb: RGB) -> None:
    data = packed(Image.fromarray(rgb), "PNG")
    assert decode(data, max_pixels=90 * 120).rgb.shape == (90, 120, 3)
    with pytest.raises(DecodeError):
        decode(data, max_pixels=90 * 120 - 1)


def test_decode_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("too_many_pixels", "two\nlines")))
    assert (error.reason, str(error)) == ("too_many_pixels", "two lines")


@pytest.mark.parametrize("longest", [1, 7, 60, 119, 120, 121, 5000])
def test_resize_never_enlarges_and_keeps_proportions(rgb: RGB, longest: int) -> None:
    small = resize_longest(rgb, longest)
    assert max(small.shape[:2]) == min(120, longest)
    assert small.shape[0] == max(1, round(90 * min(1, longest / 120)))
    if longest >= 120:
        assert np.array_equal(small, rgb)


def test_resize_keeps_at_least_one_pixel() -> None:
    assert resize_longest(np.zeros((1, 1000, 3), np.uint8), 10).shape == (1, 10, 3)


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((100, 100, 3), np.uint8)
    stripes[:, ::2] = 255
    assert resize_longest(stripes, 25)[5:-5, 5:-5] == pytest.approx(np.full((15, 15, 3), 127.5), abs=3)


@pytest.mark.parametrize(("format", "quality"), [("jpg", 95), ("webp", 90), ("webp", 100), ("png", 95)])
def test_encode_is_deterministic_and_decodes(rgb: RGB, format: str, quality: int) -> None:
    data = encode(rgb, format, quality)  # type: ignore[arg-type]
    assert data == encode(rgb.copy(), format, quality)  # type: ignore[arg-type]
    error = np.abs(decode(data, max_pixels=CAP).rgb.astype(int) - rgb).mean()
    assert error == 0 if format == "png" or quality == 100 else error < 5


def test_phash_hardly_changes_under_re_encoding(rgb: RGB) -> None:
    value = phash(rgb)
    assert 0 <= value < 2**64
    for data in (encode(rgb, "png"), encode(rgb, "webp", 100)):
        assert phash(decode(data, max_pixels=CAP).rgb) == value
    for data in (encode(rgb, "jpg", 60), encode(rgb, "webp", 75)):
        assert (phash(decode(data, max_pixels=CAP).rgb) ^ value).bit_count() <= 4


@pytest.mark.parametrize("shape", [(32, 32), (90, 120), (500, 700), (20, 1000)])
def test_phash_is_that_of_imagehash(rgb: RGB, shape: tuple[int, int]) -> None:
    large = np.asarray(Image.fromarray(rgb).resize(shape[::-1], Image.Resampling.BICUBIC))
    theirs = int(str(imagehash.phash(Image.fromarray(large).convert("L"))), 16)
    # Bits differ where large pictures are averaged in two steps; both lie near the median then.
    assert (phash(large) ^ theirs).bit_count() <= (0 if min(shape) < 200 else 2)


def test_phash_of_flat_and_symmetric_pictures_is_no_noise() -> None:
    for level in (0, 1, 77, 255):
        assert phash(np.full((40, 40, 3), level, np.uint8)) == (2**63 if level else 0)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 16:48] = 200
    rows = phash(stripes).to_bytes(8, "big")
    assert rows[1:] == bytes(7)  # nothing varies from top to bottom


def test_pixel_hash_names_shape_and_pixels(rgb: RGB) -> None:
    value = pixel_hash(rgb)
    assert len(value) == 32
    assert value == pixel_hash(np.asfortranarray(rgb))
    assert value != pixel_hash(rgb.reshape(120, 90, 3))
    changed = rgb.copy()
    changed[0, 0, 0] ^= 1
    assert value != pixel_hash(changed)


def test_golden_pixel_hash() -> None:
    ramp = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    assert pixel_hash(ramp) == "7a5d63e0d9af949d29e0c249375b5b8e"
