"""Pictures as bytes and as pixels: strict decoding, resizing, encoding and two hashes.

Every function is pure. Decoding is strict because a half-read picture must become a row with a reason, never a
sample with a grey lower half.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
import xxhash
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from filters.errors import HeadwaterError

RGB = npt.NDArray[np.uint8]
Reason = Literal["decode", "too_many_pixels", "too_small", "aspect_ratio", "hash_mismatch", "placeholder"]

Image.init()
# Others are refused: some of Pillow's readers start programs. Without an AVIF library it has no such entry.
FORMATS = tuple(f for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if f in Image.OPEN)
# What Pillow's parsers are known to raise on hostile or cut bytes.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    UserWarning,  # for programs that turn warnings into errors: Pillow warns of some damage
)
_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_VALUE_LENGTH = 200
_REDUCING_GAP = 4.0
# The eight lowest waves of the DCT (type II) of 32 values.
_COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))


class DecodeError(HeadwaterError):
    """Bytes that do not become a picture; `reason` is the schema's word for why."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(" ".join(text.split())[:200])
        self.reason: Reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Reason, str]]:
        return type(self), (self.reason, str(self))


class EncodeError(DecodeError):
    """A picture that the format in which it is to be stored cannot hold; the text is the same for all such."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: `rgb` uint8 [H, W, 3], its type by its own bytes, and its EXIF tags as a JSON object."""

    rgb: RGB
    mime: str
    exif_json: str


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode a whole picture of at most `max_pixels` pixels (width × height by its header).

    The first frame of an animation is taken, EXIF orientation applied, alpha laid on white, 16 bits rounded to 8.
    Colour profiles are not applied. Raises DecodeError with reason `decode` (no known picture format, cut or
    damaged bytes) or `too_many_pixels` (decided before any pixel is decoded).
    """
    with opened(data, max_pixels) as image:
        image.load()
        tags = exif_tags(image)
        return Picture(exact(image, tags), mime_of(image), exif_json(tags))


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The picture in `data` with its header read and no pixel decoded.

    What Pillow raises in the body of the `with` becomes a DecodeError, with the reasons of `decode`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                text = f"the header names {image.width} x {image.height} pixels; at most {max_pixels} are allowed"
                raise DecodeError("too_many_pixels", text)
            if image.format == "PNG":
                _check_png(data)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError("too_many_pixels", str(error)) from error
    except BROKEN as error:
        raise DecodeError("decode", describe(error, data)) from error


def _check_png(data: bytes) -> None:
    """Check the checksums of a PNG, which Pillow does only when asked; SyntaxError or OSError where one is wrong."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def exact(image: Image.Image, tags: Mapping[int, object]) -> RGB:
    """All pixels of an opened picture as uint8 [H, W, 3], upright by its EXIF `tags` and laid on white."""
    turn = _ORIENTATION.get(orientation_of(tags))
    return np.asarray(on_white(image if turn is None else image.transpose(turn)), dtype=np.uint8).copy()


def mime_of(image: Image.Image) -> str:
    """The type of an opened picture by its own bytes."""
    return "image/jpeg" if image.format == "MPO" else Image.MIME[str(image.format)]


def frames_of(image: Image.Image) -> int | None:
    """Frames of an opened picture, None where later ones are damaged; the views of an MPO are no frames.

    As Pillow counts them. Source and threshold are Headwater's: no published filter asks, the preset `not_animated`
    keeps pictures of 1 frame or of an unknown number, for of an animation only the first frame is stored.
    """
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except BROKEN:
        return None


def exif_json(tags: Mapping[int, object]) -> str:
    """EXIF tags by name as a JSON object with sorted keys; long values are cut."""
    named = {ExifTags.TAGS.get(tag, str(tag)): str(value)[:_EXIF_VALUE_LENGTH] for tag, value in tags.items()}
    return json.dumps(named, sort_keys=True)


def describe(error: BaseException, data: bytes) -> str:
    """What is wrong with `data`, from what Pillow raised; the same words each time."""
    if not data:
        return "the body is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a known format ({', '.join(FORMATS)}); it starts with {data[:12]!r}"
    return f"{type(error).__name__}: {error}"


def exif_tags(image: Image.Image) -> dict[int, object]:
    """The picture's EXIF tags; none where they cannot be read, because pixels with damaged tags are still good."""
    try:
        exif = image.getexif()
        tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except BROKEN:
        return {}
    return {tag: value for tag, value in tags.items() if not isinstance(value, bytes | dict)}


def orientation_of(tags: Mapping[int, object]) -> int:
    """EXIF orientation, 1 (upright) to 8; 1 where there is none or it makes no sense."""
    value = tags.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and value in _ORIENTATION else 1


def on_white(image: Image.Image) -> Image.Image:
    """A picture of any Pillow mode as RGB, alpha laid on white, 16 bits rounded to 8.

    ValueError for float pixels.
    """
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range")
    if image.mode.startswith("I"):
        # Integers of 16 bits and more hold 0..65535; 257 maps that range onto 0..255.
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        eight = ((grey + 128) // 257).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def resize_longest(rgb: RGB, longest: int) -> RGB:
    """`rgb` uint8 [H, W, 3] with its longer side at most `longest` pixels; the same pixels if it already is."""
    height, width = rgb.shape[:2]
    if max(height, width) <= longest:
        return rgb
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Pillow widens the bicubic kernel by the scale, so that shrinking does not alias.
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)


def encode(rgb: RGB, format: Literal["jpg", "webp", "png"], quality: int = 95) -> bytes:
    """Bytes of `rgb` uint8 [H, W, 3]; the same bytes each time under the same library versions.

    `quality` is 1 to 100; WebP at 100 is lossless, PNG always is. No metadata is written.
    """
    image, out = Image.fromarray(rgb), io.BytesIO()
    if format == "jpg":
        image.save(out, "JPEG", quality=quality)
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, lossless=quality == 100, method=4)
    else:
        image.save(out, "PNG", compress_level=6)
    return out.getvalue()


def phash(rgb: RGB) -> int:
    """64-bit DCT perceptual hash of `rgb` uint8 [H, W, 3], as an unsigned integer.

    The signs about the median of the 8 × 8 lowest DCT coefficients of the grey picture at 32 × 32 (the hash of
    imagehash.phash, after Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
    Transparent pictures must have been laid on white, as `decode` does: the hash of the colours under the
    transparency says nothing.
    """
    grey = ImageOps.grayscale(Image.fromarray(rgb))
    # The gap lets Pillow average whole blocks first, which is several times as fast.
    small = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP), np.float64)
    # Rounded, so that what is zero in a flat or symmetric picture is zero on every machine.
    low = np.round(_COSINES @ small @ _COSINES.T, 6)
    middle = np.sort(low, axis=None)[31:33].mean()  # the median, without what numpy checks for one
    return int.from_bytes(np.packbits(low > middle).tobytes(), "big")


def pixel_hash(rgb: RGB, size: tuple[int, int] | None = None) -> str:
    """128-bit XXH3 hash of shape and pixels of `rgb` uint8 [H, W, 3], as 32 hex digits.

    `size` is the height and width of the whole picture where `rgb` is a smaller decoding of it.
    """
    height, width = size or rgb.shape[:2]
    digest = xxhash.xxh3_128(struct.pack("<3q", height, width, rgb.shape[2]))
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


class GreyLevels(TypedDict):
    """What a picture's grey levels say: `entropy` in bits, 0 to 8, and their standard deviation, 0 to 0.5."""

    entropy: float
    contrast: float


def grey_levels(rgb: RGB) -> GreyLevels:
    """Shannon entropy and spread of the 256 grey levels (ITU-R BT.601) of uint8 [H, W, 3]; both 0 for one colour.

    Source: entropy after Shannon (1948), grey after ITU-R BT.601. There is no published threshold; Headwater's own
    are in the presets: blank is less than 1.5 bits and a standard deviation below 0.003 (`not_blank`: text has little
    entropy and much spread, so either will do), low entropy is less than 3 bits (`not_low_entropy`).
    """
    counts = cv2.calcHist([cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)], [0], None, [256], [0, 256])[:, 0]
    share = counts.astype(np.float64) / counts.sum()
    levels = np.arange(256) / 255
    mean = share @ levels
    present = share[share > 0]
    return GreyLevels(
        entropy=float(-(present * np.log2(present)).sum()) + 0.0,
        contrast=float(np.sqrt(max(0.0, share @ (levels - mean) ** 2))),
    )
