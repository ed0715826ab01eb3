"""The two formats of photographs, faster than Pillow: JPEG at a reduced scale, WebP without a canvas for animations.

A JPEG holds 8 x 8 blocks of cosine coefficients. A decoder that leaves out the high ones gives a picture of an
eighth, a quarter or half of the size for a part of the work, and makes the later shrinking cheaper still.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import simplejpeg

from filters.pixels import RGB, DecodeError

Size: TypeAlias = tuple[int, int]
# Warnings of libjpeg-turbo that tell of lost pixels; it goes on after them with grey or garbage. A few bytes too many
# before a marker are the habit of some cameras; many are what is left where the decoder lost its way.
_DAMAGE = re.compile(
    "premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST|progression sequence"
    r"|\d{3,} extraneous bytes"
)
# Root mean square of the Laplacian of the green channel, above which a reduced decoding is too far from the whole:
# photographs have 5 to 60 and differ by 40 dB and more, text and line art have 100 and more and differ by some 34 dB.
_MAX_DETAIL = 80.0
_TURNS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}


class JpegHeader(NamedTuple):
    """Of a JPEG: `size` is height and width, `sampling` says how fine its colours are (444, 420, Gray, ...)."""

    size: Size
    sampling: str


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG; None for other bytes and for colour spaces that need care (CMYK)."""
    try:
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return JpegHeader((height, width), sampling) if colours in ("YCbCr", "RGB", "Gray") else None


def decode_part(data: bytes, size: Size, part: int = 1, *, smooth: bool = True) -> RGB | None:
    """A JPEG of `size` by `jpeg_header` at 1/`part` of its scale (1, 2, 4, 8), rounded up: uint8 [h, w, 3].

    Pixels are in the orientation of the file. Without `smooth` colours come in steps of two pixels where the file
    has half of them. None where this decoder is not sure, so that a more patient one should decide: harmless
    oddities in the file. DecodeError `decode` where pixels are lost.
    """
    rows, columns = (-(-side // part) for side in size) if part > 1 else (0, 0)
    try:
        rgb = simplejpeg.decode_jpeg(
            data, "RGB", min_height=rows, min_width=columns, min_factor=min(part, 2), fastupsample=not smooth
        )
    except ValueError as error:
        if _DAMAGE.search(str(error)):
            raise DecodeError("decode", str(error)) from error
        return None
    return np.asarray(rgb, dtype=np.uint8)


def decode_scaled(data: bytes, size: Size, at_least: Size) -> RGB | None:
    """The pixels of a JPEG as uint8 [h, w, 3], in the orientation of the file.

    `size` (height, width) is what the caller read in the header. Of an eighth, a quarter and a half of it the
    smallest that has `at_least` (height, width) pixels is decoded, else all of it (other eighths take longer than
    half, or even than the whole); all of it also where the picture turns out to be full of edges, as text and line
    art are. None and DecodeError as by `decode_part`, None also for unusual colour spaces.
    """
    header = jpeg_header(data)
    if header is None or header.size != size:
        return None
    parts = (part for part in (8, 4, 2, 1) if all(-(-s // part) >= a for s, a in zip(size, at_least, strict=True)))
    part = next(parts, None)
    if part is not None and part > 1:
        rgb = decode_part(data, size, part)
        if rgb is None or _detail(rgb) <= _MAX_DETAIL:
            return rgb
    # Colours in steps of two pixels are as good as smooth ones where two pixels and more become one.
    return decode_part(data, size, smooth=part is None)


def decode_webp(data: bytes) -> RGB | None:
    """The pixels of a still, opaque WebP as uint8 [h, w, 3]; None where OpenCV cannot read it.

    Pillow draws each frame on a canvas with alpha, which takes twice as long.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if rgb is None else np.asarray(rgb, dtype=np.uint8)


def _detail(rgb: RGB) -> float:
    laplacian = cv2.Laplacian(cv2.extractChannel(rgb, 1), cv2.CV_16S, ksize=1)
    return math.sqrt(cv2.norm(laplacian, cv2.NORM_L2SQR) / laplacian.size)


def encode_jpeg(rgb: RGB, quality: int) -> bytes:
    """JPEG bytes of `rgb` uint8 [H, W, 3] with halved colour planes; `quality` is 1 to 100."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "420"))


def upright(rgb: RGB, orientation: int) -> RGB:
    """`rgb` uint8 [H, W, 3] turned and mirrored as EXIF `orientation` (1 to 8) says."""
    if orientation in _TURNS:
        return np.asarray(cv2.rotate(rgb, _TURNS[orientation]), dtype=np.uint8)
    if orientation in (2, 4):
        return np.asarray(cv2.flip(rgb, 1 if orientation == 2 else 0), dtype=np.uint8)
    if orientation in (5, 7):
        across = np.asarray(cv2.transpose(rgb), dtype=np.uint8)
        return across if orientation == 5 else upright(across, 3)
    return rgb
