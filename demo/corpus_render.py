"""Rendering of one emoji icon: from the SVG body in an Iconify package to WebP bytes."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

SIZE = 128
# Method 4 comes within 1 % of the smallest files in a thirtieth of the time of method 6.
LOSSLESS = {"lossless": True, "quality": 80, "method": 4}
LOSSY = {"lossless": False, "quality": 90, "method": 6}


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """Return the SVG document of one icon, fitted into a square of `SIZE` pixels.

    Args:
        icons: the content of a package's `icons.json` (`icons`, `aliases`, default `width` and `height`).
        name: an icon or an alias; aliases may be mirrored (`hFlip`).
    """
    flips = []
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        flips.append(bool(alias.get("hFlip", False)))
        name = alias["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if sum(flips) % 2:
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{body}</svg>'
    )


def render(svg: str) -> Image.Image:
    """Render an SVG document to an RGB picture of `SIZE` x `SIZE` pixels on white."""
    # resvg_py comes with the `dev` extra only: readers of the committed corpus never render.
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def encode(image: Image.Image, *, lossless: bool) -> bytes:
    """Encode a picture as WebP with the corpus's fixed settings."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **(LOSSLESS if lossless else LOSSY))
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    """Decode WebP bytes of the corpus to an RGB picture."""
    return Image.open(io.BytesIO(data)).convert("RGB")
