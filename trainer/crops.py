"""Random boxes of pictures, and the pixels of a box from as little decoding as serves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from filters.errors import InputError
from filters.fast import JpegHeader, decode_part, decode_webp, jpeg_header
from filters.pixels import RGB, DecodeError
from trainer.batch import Pixels
from trainer.images import decode_rgb
from trainer.resample import Box, Interpolation, resize, roughness

_TRIES = 10
BOX_DRAWS = 2 * _TRIES + 2
# A picture at a half of its scale or less lacks the highest waves, of which a resize from the whole leaves traces.
# Measured over 7,000 crops of photographs, drawings and text, that is an error of at most 0.14 times the roughness,
# less where more than one pixel becomes one: at most 4.5 levels, which is 35 dB.
_ROUGHEST = 32.0
# Of others, as 4:2:2, the decoder throws away half of the colours' columns or rows with the reduction.
_REDUCIBLE = ("444", "420", "Gray")
# Of larger pictures Pillow thinks that somebody wants to fill the memory; it shall say so itself.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or math.inf


def draw_box(
    height: int,
    width: int,
    *,
    uniform: npt.NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """A box of a random part of the area and random aspect ratio, distributed as torchvision's RandomResizedCrop's.

    Decided by `uniform` [22], each in [0, 1): ten tries of an area (uniform in `scale`) and a ratio (log-uniform in
    `ratio`), then the place. Where no try fits, the largest box in the middle whose ratio is within bounds.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw in uniform[: 2 * _TRIES].reshape(_TRIES, 2).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = uniform[2 * _TRIES : BOX_DRAWS].tolist()
            return Box(int(top * (height - rows + 1)), int(left * (width - columns + 1)), rows, columns)
    rows, columns = height, width
    if width < ratio[0] * height:
        rows = round(width / ratio[0])
    elif width > ratio[1] * height:
        columns = round(height * ratio[1])
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


def cropped(
    data: bytes, choose: Callable[[int, int], Box], side: int, interpolation: Interpolation = "bicubic"
) -> Pixels:
    """The box that `choose` names for a height and width, resized to uint8 [side, side, 3].

    The pixels are those of Pillow's whole decoding, crop and resize: within 55 dB, or, where a JPEG is decoded
    at a reduced scale, 35 dB. EXIF orientation is not applied, as open_clip does not; transparent pictures are
    laid on white, as `trainer.images.decode_rgb` does. InputError for bytes that are no whole picture.
    """
    header = jpeg_header(data)
    if header is not None and math.prod(header.size) <= _MOST_PIXELS:
        try:
            found = _from_jpeg(data, header, choose(*header.size), side, interpolation)
        except DecodeError as error:
            raise InputError(f"{len(data)} bytes are not a whole picture: {error}") from error
        if found is not None:
            return found
    rgb = _whole(data)
    return resize(rgb, choose(*rgb.shape[:2]), side, interpolation)


def _from_jpeg(data: bytes, header: JpegHeader, box: Box, side: int, interpolation: Interpolation) -> Pixels | None:
    """From the smallest scale at which the box has `side` pixels each way; None where Pillow has to decide."""
    short = min(box.height, box.width)
    parts = (8, 4, 2) if header.sampling in _REDUCIBLE else ()
    part = next((part for part in parts if short >= part * side), 1)
    rgb = decode_part(data, header.size, part)
    if rgb is not None and part > 1:
        bottom, right = -(-(box.top + box.height) // part), -(-(box.left + box.width) // part)
        shown = rgb[box.top // part : bottom, box.left // part : right]
        if roughness(shown) > _ROUGHEST * short / part / side:
            part, rgb = 1, decode_part(data, header.size)
    return None if rgb is None else resize(rgb, box, side, interpolation, part)


def _whole(data: bytes) -> RGB:
    """All pixels uint8 [h, w, 3]; InputError for bytes that are no whole picture."""
    # A lossy WebP without further parts: one opaque picture, its width and height at fixed places.
    if data[:4] == b"RIFF" and data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        rgb = decode_webp(data) if height * width <= _MOST_PIXELS else None
        if rgb is not None:
            return rgb
    return np.array(decode_rgb(data), dtype=np.uint8)
