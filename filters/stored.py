"""From downloaded bytes to the picture that a shard holds, with the facts about it.

Pure functions of bytes and a recipe: no network, no files, no Ray. The bytes come from anywhere, so they run in a
process that may die (`pipelines.sandbox`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from filters.fast import decode_scaled, decode_webp, encode_jpeg, upright
from filters.pixels import (
    RGB,
    DecodeError,
    EncodeError,
    encode,
    exact,
    exif_json,
    exif_tags,
    frames_of,
    grey_levels,
    mime_of,
    opened,
    orientation_of,
    phash,
    pixel_hash,
)
from filters.resize import ResizeMode, Size, frame, framed_size, scaled_size, shrink

_FORMATS = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}
# The longest side in pixels that the encoders of a format take; a PNG's has no limit that a picture reaches.
_LONGEST = {"jpg": 65_500, "webp": 16_383}
# What imgur sends in place of a picture that was removed, as the lists of many downloaders have it.
IMGUR_REMOVED = "sha256:9b5936f4006146e4e1e9025b474c02863c0b5614132ad40db4b925a10e8bfbb9"
# Pillow's modes whose pixels a picture that is not encoded again keeps as they are.
_PLAIN_MODES = ("RGB", "L")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a picture is stored; part of the fingerprint of a shard.

    `image_size` is in pixels, `encode_quality` 1 to 100 (PNG has none). `exact_decode` decodes every JPEG whole and
    averages in one step (`filters.resize.shrink`), `skip_reencode` keeps the downloaded bytes where format, size and
    pixels are right already. Pictures whose shorter side has less than `min_image_size` pixels, whose sides differ by
    more than the factor `max_aspect_ratio`, or that have more than `max_pixels` pixels are refused; so are those
    whose hash (`sha256:` or `md5:` and hex) is one of `placeholder_hashes`.
    """

    image_size: int = 256
    resize_mode: ResizeMode = "keep_ratio_largest"
    encode_format: Literal["jpg", "webp", "png"] = "jpg"
    encode_quality: int = 95
    exact_decode: bool = False
    skip_reencode: bool = False
    min_image_size: int = 0
    max_aspect_ratio: float = math.inf
    max_pixels: int = 50_000_000
    placeholder_hashes: tuple[str, ...] = (IMGUR_REMOVED,)


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture as its shard holds it: `image` its bytes, the others as the shard's columns of the same names."""

    image: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    exif: str
    sha256: str
    mime: str
    phash: int
    pixel_hash: str
    frames: int | None
    original_bytes: int
    entropy: float
    contrast: float


def store(data: bytes, recipe: Recipe, hash_declared: str | None = None) -> Stored:
    """The picture in `data` as `recipe` stores it: upright, on white, never enlarged.

    A JPEG that will be shrunk is decoded at a reduced scale of at least twice the stored size on both sides, unless
    it is full of edges or the recipe says `exact_decode`. `phash` is that of the shrunk picture without border or
    crop; `pixel_hash` that of the pixels as they were decoded, so that of a JPEG that was shrunk equals that of an
    other file only where the recipe says `exact_decode` or the other is a JPEG of the same pixels. Raises
    DecodeError with reason `placeholder`, `hash_mismatch` (`hash_declared`: `sha256:` or `md5:` and hex), `decode`,
    or, by the header and before any pixel is decoded, `too_many_pixels`, `too_small`, `aspect_ratio`; an EncodeError
    with reason `too_many_pixels` where a side of the stored picture would be longer than its format allows.
    """
    digest = _checked(data, recipe, hash_declared)
    with opened(data, recipe.max_pixels) as image:
        _check_shape((image.height, image.width), recipe)
        tags = exif_tags(image)
        turned = orientation_of(tags)
        size = (image.width, image.height) if turned >= 5 else (image.height, image.width)
        target = scaled_size(size, recipe.image_size, recipe.resize_mode)
        _check_encoder(framed_size(size, recipe.image_size, recipe.resize_mode), recipe)
        rgb = _pixels(data, image, tags, size if recipe.exact_decode else target)
        kept = recipe.skip_reencode and target == size and turned == 1 and _is_plain(image, recipe)
        mime, frames = mime_of(image), frames_of(image)
    small = shrink(rgb, target, exact=recipe.exact_decode)
    final = small if target == size else frame(small, recipe.image_size, recipe.resize_mode)
    return Stored(
        image=data if kept else _encoded(final, recipe),
        width=final.shape[1],
        height=final.shape[0],
        original_width=size[1],
        original_height=size[0],
        exif=exif_json(tags),
        sha256=digest,
        mime=mime,
        phash=phash(small),
        pixel_hash=pixel_hash(rgb, size),
        frames=frames,
        original_bytes=len(data),
        **grey_levels(small),
    )


def facts(data: bytes, max_pixels: int) -> Stored:
    """What is to be known of a picture that is kept as it is: `image` is empty, sizes are those of `data`.

    Decoded whole. Raises DecodeError with reason `decode` or `too_many_pixels`.
    """
    with opened(data, max_pixels) as image:
        tags = exif_tags(image)
        size = (image.width, image.height) if orientation_of(tags) >= 5 else (image.height, image.width)
        rgb = _pixels(data, image, tags, size)
        mime, frames = mime_of(image), frames_of(image)
    height, width = size
    return Stored(
        image=b"",
        width=width,
        height=height,
        original_width=width,
        original_height=height,
        exif=exif_json(tags),
        sha256=hashlib.sha256(data).hexdigest(),
        mime=mime,
        phash=phash(rgb),
        pixel_hash=pixel_hash(rgb),
        frames=frames,
        original_bytes=len(data),
        **grey_levels(rgb),
    )


def _checked(data: bytes, recipe: Recipe, hash_declared: str | None) -> str:
    """SHA-256 of `data` in hex, if its hashes are neither those of a placeholder nor other than declared."""
    digest = hashlib.sha256(data).hexdigest()
    found = {"sha256": digest}
    if hash_declared is not None or any(known.startswith("md5:") for known in recipe.placeholder_hashes):
        found["md5"] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if any(f"{kind}:{value}" in recipe.placeholder_hashes for kind, value in found.items()):
        raise DecodeError("placeholder", "the bytes are those of a known error page")
    if hash_declared is not None:
        kind, _, value = hash_declared.partition(":")
        if found.get(kind) != value.lower():
            raise DecodeError("hash_mismatch", f"declared {hash_declared}, found {kind}:{found.get(kind)}")
    return digest


def _check_shape(size: Size, recipe: Recipe) -> None:
    short, long = min(size), max(size)
    if short < recipe.min_image_size:
        raise DecodeError("too_small", f"the shorter side has {short} pixels, less than {recipe.min_image_size}")
    if long > short * recipe.max_aspect_ratio:
        raise DecodeError("aspect_ratio", f"{long} to {short} pixels is more than {recipe.max_aspect_ratio} to 1")


def _check_encoder(size: Size, recipe: Recipe) -> None:
    longest = _LONGEST.get(recipe.encode_format)
    if longest is not None and max(size) > longest:
        raise EncodeError(
            "too_many_pixels", f"a side of a stored {recipe.encode_format} has at most {longest} pixels"
        )


def _pixels(data: bytes, image: Image.Image, tags: dict[int, object], target: Size) -> RGB:
    """The picture upright as uint8 [h, w, 3]: a JPEG at a scale that serves `target` (height, width)."""
    orientation = orientation_of(tags)
    rgb = None
    if image.format in ("JPEG", "MPO"):
        height, width = 2 * target[0], 2 * target[1]
        at_least = (width, height) if orientation >= 5 else (height, width)
        rgb = decode_scaled(data, (image.height, image.width), at_least)
    elif image.format == "WEBP" and image.mode == "RGB" and frames_of(image) == 1:
        rgb = decode_webp(data)
    if rgb is not None:
        return upright(rgb, orientation)
    image.load()
    return exact(image, tags)


def _is_plain(image: Image.Image, recipe: Recipe) -> bool:
    """Whether the file can be stored as it is: one opaque picture of 8 bits in the recipe's format."""
    return (
        image.format == _FORMATS[recipe.encode_format]
        and image.mode in _PLAIN_MODES
        and not image.has_transparency_data
        and frames_of(image) == 1
    )


def _encoded(rgb: RGB, recipe: Recipe) -> bytes:
    if recipe.encode_format == "jpg":
        return encode_jpeg(rgb, recipe.encode_quality)
    return encode(rgb, recipe.encode_format, recipe.encode_quality)
