"""Bytes of a picture to RGB pixels."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from filters.errors import InputError

# What Pillow raises for bytes that are not a whole picture; SyntaxError comes from its PNG and TIFF readers.
DECODE_ERRORS = (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def decode_rgb(data: bytes, side: int | None = None) -> Image.Image:
    """The first frame of an encoded picture as RGB, transparency composited on white.

    White is what a browser shows behind a transparent picture. With `side` given a JPEG may be decoded at a reduced
    scale (its shorter side stays at least `side`), which is several times as fast for large pictures. Raises
    InputError for bytes that are no whole picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if side is not None:
                image.draft("RGB", (side, side))
            image.load()
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, rgba).convert("RGB")
            return image.convert("RGB")
    except DECODE_ERRORS as error:
        raise InputError(f"{len(data)} bytes are not a whole picture: {error}") from error
