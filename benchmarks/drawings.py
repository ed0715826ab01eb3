"""Seeded pictures of the kinds that a downloader meets: photographs, foliage, text, line art, screens."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from filters.pixels import RGB

KINDS = ("photo", "texture", "foliage", "captioned", "screen", "text", "line art")


def draw(kind: str, height: int, width: int, seed: int) -> RGB:
    """One picture of `kind`, uint8 [height, width, 3]."""
    rng = np.random.default_rng([seed, KINDS.index(kind), height, width])
    if kind == "photo":
        return _photo(height, width, rng)
    if kind == "texture":
        return _noise(height, width, 1.2, rng)
    if kind == "foliage":
        return _foliage(height, width, rng)
    if kind == "captioned":
        image = Image.fromarray(_photo(height, width, rng))
        font = ImageFont.load_default(height / 15)
        ImageDraw.Draw(image).text((width / 10, height / 2), "A caption over a photograph", "white", font)
        return np.asarray(image, np.uint8)
    if kind == "screen":
        return _screen(height, width, rng)
    return _text(height, width, rng) if kind == "text" else _line_art(height, width, rng)


def _noise(height: int, width: int, power: float, rng: np.random.Generator) -> RGB:
    """Noise whose amplitude falls with frequency to the `power`, as in natural pictures (1.0 to 1.6)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    base = rng.normal(size=(height, width))
    planes: list[npt.NDArray[np.float64]] = []
    for _ in range(3):
        white = 0.8 * base + 0.4 * rng.normal(size=(height, width))
        plane = np.fft.irfft2(np.fft.rfft2(white) / frequency**power, (height, width))
        planes.append((plane - plane.mean()) / plane.std())
    return np.asarray(np.clip(np.stack(planes, 2) * 45 + 120, 0, 255), np.uint8)


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def _photo(height: int, width: int, rng: np.random.Generator) -> RGB:
    rgb = _noise(height, width, 1.6, rng)
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, width // 4)), int(rng.integers(8, height // 4)))
        cv2.ellipse(rgb, centre, axes, float(rng.integers(180)), 0, 360, _colour(rng), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.8), np.uint8)


def _foliage(height: int, width: int, rng: np.random.Generator) -> RGB:
    rgb = np.asarray(_noise(height, width, 1.2, rng) * np.array([0.4, 0.7, 0.3]), np.uint8)
    for _ in range(height * width // 400):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        green = int(rng.integers(60, 230))
        axes = (int(rng.integers(3, 22)), int(rng.integers(2, 7)))
        leaf = (green // 3, green, green // 4)
        cv2.ellipse(rgb, centre, axes, float(rng.integers(180)), 0, 360, leaf, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.8), np.uint8)


def _screen(height: int, width: int, rng: np.random.Generator) -> RGB:
    rgb = np.full((height, width, 3), 240, np.uint8)
    for _ in range(60):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        corner = (left + int(rng.integers(5, 200)), top + int(rng.integers(5, 100)))
        cv2.rectangle(rgb, (left, top), corner, _colour(rng), -1)
    return rgb


def _text(height: int, width: int, rng: np.random.Generator) -> RGB:
    image = Image.new("RGB", (width, height), _colour(rng, 200))
    pen, top = ImageDraw.Draw(image), 5
    while top < height:
        size = int(rng.integers(12, 60))
        line = "".join(map(chr, rng.integers(33, 127, 200).tolist()))
        pen.text((5, top), line, _colour(rng, 0, 100), ImageFont.load_default(size))
        top += round(size * 1.3)
    return np.asarray(image, np.uint8)


def _line_art(height: int, width: int, rng: np.random.Generator) -> RGB:
    rgb = np.full((height, width, 3), 255, np.uint8)
    for _ in range(150):
        x0, y0, x1, y1 = rng.integers(0, max(height, width), 4).tolist()
        cv2.line(rgb, (x0, y0), (x1, y1), _colour(rng, 0, 180), int(rng.integers(1, 6)), cv2.LINE_AA)
    for _ in range(40):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(rgb, centre, int(rng.integers(10, height // 3)), (0, 0, 0), int(rng.integers(1, 5)), cv2.LINE_AA)
    return rgb
