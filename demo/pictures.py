"""The pictures the demo web serves, drawn from the corpus: pure functions of a planted record.

A picture is one icon on a plain or coloured ground (64 to 256 px), or several different icons on a larger one (up to
1,200 px). Icons are scaled down or at most to 1.5 times their 128 px, never blown up to fill a picture.
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from demo.corpus import load_style
from demo.web_placeholders import PLACEHOLDER, placeholder_picture
from demo.web_record import Record
from filters.errors import InputError

MIME = {
    "jpeg": "image/jpeg",
    "png_rgba": "image/png",
    "png_palette": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
}
_WHITE = (255, 255, 255)
_PIL_FORMAT = {"image/jpeg": "jpeg", "image/webp": "webp", "image/gif": "gif"}


def render(record: Record) -> tuple[bytes, str]:
    """The bytes of the record's picture and their content type: the same for the same record, always."""
    if record.plant == PLACEHOLDER:
        return encode(placeholder_picture(), "png_rgba", 0), MIME["png_rgba"]
    if record.leak_style is not None and record.leak_concept is not None:
        data, content_type = corpus_bytes(record.leak_style, record.leak_concept), "image/webp"
    else:
        data, content_type = encode(compose(record), record.format, record.quality), MIME[record.format]
    if record.near_transform is not None:
        data, content_type = near_duplicate(
            data, record.near_scale, record.near_crop, record.near_quality, seed=record.seed
        )
    return data, content_type


def corpus_bytes(style: str, concept: str) -> bytes:
    """The corpus's own WebP file of a concept in a style; InputError when the style does not have it."""
    images = _style(style)
    if concept not in images:
        raise InputError(f"demo corpus: style {style!r} has no concept {concept!r}; plan with the committed corpus")
    return images[concept]


def compose(record: Record) -> Image.Image:
    """The record's picture before encoding: mode RGB, or RGBA on a transparent ground for format `png_rgba`."""
    rng = np.random.Generator(np.random.PCG64(record.picture_seed))
    size = (record.width, record.height)
    if record.format == "png_rgba":
        canvas = Image.new("RGBA", size, (0, 0, 0, 0))
    else:
        canvas = background(size, rng, is_plain=record.layout == "single" and rng.random() < 0.5)
    boxes = _single_box(size, rng) if record.layout == "single" else _grid_boxes(size, len(record.concepts), rng)
    for number, (x, y, side) in enumerate(boxes):
        # The first boxes name each concept once; further ones repeat them at random, as wallpapers do.
        index = number if number < len(record.concepts) else int(rng.integers(len(record.concepts)))
        icon = cut_out(record.style, record.concepts[index]).resize((side, side), Image.Resampling.BICUBIC)
        if rng.random() < 0.2:
            icon = icon.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
        if canvas.mode == "RGBA":
            canvas.alpha_composite(icon, (x, y))
        else:
            canvas.paste(icon, (x, y), icon)
    return canvas


def background(size: tuple[int, int], rng: np.random.Generator, is_plain: bool) -> Image.Image:
    """A ground of `size` (width, height): white if `is_plain`, else a soft colour, a gradient, stripes or grain."""
    if is_plain:
        return Image.new("RGB", size, _WHITE)
    kind = rng.choice(["colour", "gradient", "stripes", "grain"], p=[0.45, 0.3, 0.12, 0.13])
    corners = rng.integers(176, 256, size=(2, 2, 3), dtype=np.uint8)
    if kind == "gradient":
        return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)
    ground = Image.new("RGB", size, tuple(int(v) for v in corners[0, 0]))
    if kind == "colour":
        return ground
    width, height = size
    pixels = np.asarray(ground).copy()
    if kind == "stripes":
        step = int(rng.integers(12, 40))
        is_stripe = (np.arange(width) // step % 2).astype(bool)
        pixels[:, is_stripe] = corners[0, 1]
    else:
        tile = rng.integers(0, 14, size=(96, 96, 1), dtype=np.uint8)
        repeats = (math.ceil(height / 96), math.ceil(width / 96), 1)
        pixels -= np.tile(tile, repeats)[:height, :width]
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str, quality: int) -> bytes:
    """`image` in one of the formats of `MIME`; `quality` (1 to 100) matters to JPEG and WebP only."""
    out = io.BytesIO()
    if format == "jpeg":
        image.convert("RGB").save(out, "JPEG", quality=quality)
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, method=1)
    elif format == "gif":
        _paletted(image).save(out, "GIF")
    elif format == "png_palette":
        _paletted(image).save(out, "PNG", compress_level=3)
    else:
        image.save(out, "PNG", compress_level=3)
    return out.getvalue()


def near_duplicate(
    data: bytes, scale: float | None, crop: float | None, quality: int | None, *, seed: int
) -> tuple[bytes, str]:
    """A near duplicate of an encoded picture, and its content type.

    `crop` is the share of width and of height cut away in all, its place drawn from `seed`; `scale` multiplies the
    longest side; `quality` re-encodes as JPEG. Without `quality` the format stays, at a high quality.
    """
    original = Image.open(io.BytesIO(data))
    content_type = Image.MIME[original.format or "JPEG"]
    image: Image.Image = on_white(original) if quality is not None or original.mode == "P" else original
    if crop is not None:
        rng = np.random.Generator(np.random.PCG64([seed, 1]))
        width, height = (max(1, round(side * (1 - crop))) for side in image.size)
        left, top = (
            int(rng.integers(side - kept + 1)) for side, kept in zip(image.size, (width, height), strict=True)
        )
        image = image.crop((left, top, left + width, top + height))
    if scale is not None:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if quality is not None:
        return encode(image, "jpeg", quality), "image/jpeg"
    format = _PIL_FORMAT.get(content_type, "png_rgba")
    return encode(image, format, 95), content_type


def on_white(image: Image.Image) -> Image.Image:
    """`image` in mode RGB, with transparency laid over white."""
    if image.mode == "RGB":
        return image
    rgba = image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, _WHITE)
    ground.paste(rgba, (0, 0), rgba)
    return ground


def truncate(data: bytes, share: float) -> bytes:
    """The first `share` of the bytes, at least 16 of them."""
    return data[: max(16, int(len(data) * share))]


def html_page(host: str) -> bytes:
    """What a server sends that has a page about the picture instead of the picture."""
    body = f"<h1>{host}</h1>\n<p>This picture has moved. Please visit our home page.</p>"
    return f"<!DOCTYPE html>\n<html><head><title>{host}</title></head>\n<body>{body}</body></html>\n".encode()


@functools.lru_cache(maxsize=512)
def cut_out(style: str, concept: str) -> Image.Image:
    """The icon, 128x128 RGBA, with the white around it made transparent and its antialiased edge softened."""
    rgb = np.asarray(Image.open(io.BytesIO(corpus_bytes(style, concept))).convert("RGB"))
    is_light = rgb.min(axis=2) >= 250
    regions, _ = ndimage.label(is_light)
    at_border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    is_ground = np.isin(regions, at_border[at_border > 0])
    is_edge = ndimage.binary_dilation(is_ground) & ~is_ground
    # An edge pixel is a mix of icon and white; taking its darkness as cover leaves no light rim on a coloured ground.
    cover = np.where(is_edge, np.minimum(255, (255 - rgb.min(axis=2)) * 2), 255)
    alpha = np.where(is_ground, 0, cover).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, alpha]))


def _paletted(image: Image.Image) -> Image.Image:
    return on_white(image).quantize(128, Image.Quantize.FASTOCTREE)


def _single_box(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Where one icon goes: near the middle, filling most of the picture, at most 192 px."""
    side = min(192, round(min(size) * rng.uniform(0.78, 0.98)))
    free = np.subtract(size, side)
    x, y = (int(v) for v in np.round(free * rng.uniform(0.25, 0.75, size=2)))
    return [(x, y, side)]


def _grid_boxes(size: tuple[int, int], concepts: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Where several icons go: cells of a jittered grid, no fewer than `concepts`, in random order."""
    width, height = size
    cell = int(rng.integers(130, 230))
    columns, rows = max(1, round(width / cell)), max(1, round(height / cell))
    while columns * rows < concepts:
        columns, rows = (columns + 1, rows) if width / columns > height / rows else (columns, rows + 1)
    step_x, step_y = width / columns, height / rows
    side = min(192, int(min(step_x, step_y) * rng.uniform(0.72, 0.95)))
    filled = max(concepts, round(columns * rows * rng.uniform(0.7, 1.0)))
    boxes = []
    for place in rng.permutation(columns * rows)[:filled]:
        row, column = divmod(int(place), columns)
        x, y = np.round(np.multiply([step_x - side, step_y - side], rng.uniform(0, 1, size=2))).astype(int)
        boxes.append((int(column * step_x + x), int(row * step_y + y), side))
    return boxes


@functools.lru_cache(maxsize=16)
def _style(style: str) -> dict[str, bytes]:
    table = load_style(style)
    return dict(zip(table["concept"].to_pylist(), table["image"].to_pylist(), strict=True))
