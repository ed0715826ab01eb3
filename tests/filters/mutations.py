"""Pictures of every format, and seeded ways to damage their bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Change = Callable[[bytearray, np.random.Generator], bytearray]


def packed(image: Image.Image, format: str, **options: object) -> bytes:
    """`image` as a file of `format`."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def originals(seed: int = 0, size: tuple[int, int] = (160, 120)) -> dict[str, bytes]:
    """Good files by name: each format and pixel mode that the downloader meets."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 4), dtype=np.uint8)
    rgba = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    deep = Image.fromarray(np.asarray(rgb.convert("L"), np.uint16) * 257)
    frames = [rgb.rotate(90), rgb.rotate(180)]
    return {
        "jpeg": packed(rgb, "JPEG", quality=90, exif=exif),
        "jpeg-restart": packed(rgb, "JPEG", quality=80, restart_marker_rows=1),
        "jpeg-progressive": packed(rgb, "JPEG", quality=90, progressive=True),
        "jpeg-444": packed(rgb, "JPEG", quality=95, subsampling=0),
        "jpeg-grey": packed(rgb.convert("L"), "JPEG"),
        "jpeg-cmyk": packed(rgb.convert("CMYK"), "JPEG"),
        "png": packed(rgb, "PNG"),
        "png-alpha": packed(rgba, "PNG"),
        "png-palette": packed(rgb.quantize(32), "PNG", transparency=3),
        "png-16": packed(deep, "PNG"),
        "png-animated": packed(rgb, "PNG", save_all=True, append_images=frames),
        "webp": packed(rgb, "WEBP", quality=80, exif=exif),
        "webp-alpha": packed(rgba, "WEBP", lossless=True),
        "webp-animated": packed(rgb, "WEBP", save_all=True, append_images=frames),
        "gif": packed(rgb.quantize(64), "GIF"),
        "gif-animated": packed(rgb, "GIF", save_all=True, append_images=frames),
        "bmp": packed(rgb, "BMP"),
        "tiff": packed(rgb, "TIFF"),
        "tiff-lzw": packed(rgba, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": packed(rgb, "TIFF", compression="jpeg"),
    }


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(data), rng.integers(1, 20)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _header(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, min(len(data), 700), rng.integers(1, 12)):
        data[place] = int(rng.choice((0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256)))))
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def _remove(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 200))
    del data[start : start + length]
    return data


def _insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(0, len(data)))
    data[start:start] = rng.bytes(int(rng.integers(1, 200)))
    return data


def _repeat(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(0, len(data)))
    data[start:start] = data[start : start + int(rng.integers(1, 400))]
    return data


def _fill(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 400))
    end = min(len(data), start + length)
    data[start:end] = bytes([int(rng.choice([0, 255]))]) * (end - start)
    return data


CHANGES: tuple[Change, ...] = (_flip, _header, _cut, _remove, _insert, _repeat, _fill)


def mutated(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files with the names of their originals, the same for the same seed."""
    rng = np.random.default_rng(seed)
    files = list(originals(seed).items())
    for number in range(count):
        name, data = files[number % len(files)]
        if rng.random() < 0.1:  # the head of one file before the tail of another
            other = files[int(rng.integers(len(files)))][1]
            yield name, data[: int(rng.integers(len(data)))] + other[int(rng.integers(len(other))) :]
            continue
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            if damaged:
                damaged = CHANGES[int(rng.integers(len(CHANGES)))](damaged, rng)
        yield name, bytes(damaged)
