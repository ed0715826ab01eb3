"""Bytes of a picture to RGB pixels."""

from __future__ import annotations

import io

from PIL import Image

from filters.errors import InputError
from filters.pixels import BROKEN, FORMATS, describe, on_white


def decode_rgb(data: bytes, side: int | None = None) -> Image.Image:
    """The first frame of an encoded picture as RGB, transparency composited on white.

    White is what a browser shows behind a transparent picture. With `side` given a JPEG may be decoded at a reduced
    scale (its shorter side stays at least `side`), which is several times as fast for large pictures. Raises
    InputError for bytes that are no whole picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if side is not None:
                image.draft("RGB", (side, side))
            image.load()
            return on_white(image)
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{len(data)} bytes are not a whole picture: {describe(error, data)}") from error
