"""Small drawings for the duplicate tests: families whose members differ in one detail, and near-copy transforms."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from filters.duplicates import Pictures
from filters.near import thumbnail
from filters.pixels import RGB, decode, encode, phash, pixel_hash, resize_longest

SIDE = 160


def clock(hour: int) -> Image.Image:
    """A clock face with its hand at `hour`."""
    image, draw = _blank((250, 245, 235))
    draw.ellipse((12, 12, 148, 148), (235, 235, 240), (90, 100, 110), 10)
    angle = hour / 12 * 2 * math.pi
    draw.line((80, 80, 80 + 50 * math.sin(angle), 80 - 50 * math.cos(angle)), (30, 30, 40), 7)
    return image


def smiley(mouth: int) -> Image.Image:
    """A yellow face with one of four mouths."""
    image, draw = _blank((255, 255, 255))
    draw.ellipse((10, 10, 150, 150), (255, 204, 60))
    for x in (55, 105):
        draw.ellipse((x - 8, 50, x + 8, 74), (90, 60, 20))
    if mouth == 0:
        draw.arc((50, 70, 110, 120), 20, 160, (90, 60, 20), 6)
    elif mouth == 1:
        draw.line((55, 110, 105, 110), (90, 60, 20), 6)
    elif mouth == 2:
        draw.arc((50, 100, 110, 140), 200, 340, (90, 60, 20), 6)
    else:
        draw.ellipse((66, 92, 94, 124), (90, 60, 20))
    return image


def flag(emblem: int) -> Image.Image:
    """A flag of three bands with one of four emblems."""
    image, draw = _blank((235, 240, 250))
    for band, colour in enumerate(((200, 30, 40), (245, 245, 245), (30, 60, 160))):
        draw.rectangle((10, 30 + 34 * band, 150, 63 + 34 * band), colour)
    if emblem == 1:
        draw.ellipse((66, 66, 94, 94), (220, 170, 30))
    elif emblem == 2:
        draw.rectangle((66, 66, 94, 94), (20, 110, 60))
    elif emblem == 3:
        draw.polygon((80, 62, 98, 96, 62, 96), (30, 30, 30))
    return image


FAMILIES: dict[str, Callable[[int], Image.Image]] = {"clock": clock, "smiley": smiley, "flag": flag}


def near_copy(image: Image.Image, scale: float, crop: float, quality: int) -> bytes:
    """JPEG bytes of `image` with the share `crop` cut off its left and top, then scaled."""
    width, height = image.size
    cut = image.crop((round(crop * width), round(crop * height), width, height))
    size = (round(cut.width * scale), round(cut.height * scale))
    return jpeg(cut.resize(size, Image.Resampling.BICUBIC), quality)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """JPEG bytes of `image`."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def row(uid: str, source: str, data: bytes) -> tuple[dict[str, object], RGB]:
    """A table row and a thumbnail, as a download makes them: from the decoded picture and from the stored one."""
    rgb = decode(data, max_pixels=10**7).rgb
    stored = decode(encode(resize_longest(rgb, 128), "jpg", 95), max_pixels=10**7).rgb
    values: dict[str, object] = {
        "uid": uid,
        "source": source,
        "sha256": sha256_of(data),
        "pixel_hash": pixel_hash(rgb),
        "phash": phash(rgb),
        "original_width": rgb.shape[1],
        "original_height": rgb.shape[0],
    }
    return values, thumbnail(stored)


def sha256_of(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("sha256", pa.string()),
        ("pixel_hash", pa.string()),
        ("phash", pa.uint64()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
    ]
)


def pictures(rows: list[tuple[dict[str, object], RGB]]) -> Pictures:
    """`rows` as the input of `verdicts`."""
    table = pa.Table.from_pylist([values for values, _ in rows], schema=SCHEMA)
    thumbs = np.stack([t for _, t in rows]) if rows else np.empty((0, 64, 64, 3), np.uint8)
    return Pictures(table, thumbs.__getitem__)


def as_evaluation(pool: Pictures, name: str) -> Pictures:
    """`pool` as pictures of an evaluation set `name`, its uids as item names."""
    table = pool.table.append_column("eval_set", pa.array([name] * len(pool.table), pa.string()))
    return Pictures(table.append_column("eval_item", pool.table["uid"]), pool.thumbs)


def _blank(colour: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), colour)
    return image, ImageDraw.Draw(image)
