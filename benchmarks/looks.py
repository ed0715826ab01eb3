"""Seeded pictures by the million for the search by pixels: photograph-like noise with shapes on it, and drawings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from filters.pixels import RGB

Pairs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_BLOCK = 1 << 11
_SIDE, _LOOK = 32, 16  # pixels of a picture, and of its look
_CROP = 0.05  # of a side, at most


def looks(size: int, seed: int = 0) -> tuple[RGB, Pairs]:
    """Pictures uint8 [size, 16, 16, 3], and the pairs (i, j) where j shows i cropped: int64 [size / 50, 2], i < j."""
    out = np.empty((size, _LOOK, _LOOK, 3), np.uint8)
    planted = size // 50
    for start in range(0, size - planted, _BLOCK):
        count = min(_BLOCK, size - planted - start)
        whole = _drawn(np.random.default_rng([seed, start]), count)
        out[start : start + count] = _shrunk(whole)
        copied = np.arange(start, min(start + count, planted))
        out[size - planted + copied] = _shrunk(
            _cropped(np.random.default_rng([seed, start, 1]), whole[: len(copied)])
        )
    return out, np.stack([np.arange(planted), np.arange(size - planted, size)], axis=1)


def _drawn(rng: np.random.Generator, count: int) -> Floats:
    """Pictures float32 [count, 3, 32, 32], 0 to 255: a quarter shapes on white, the others shapes on noise."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE))
    frequency[0, 0] = 1
    white = rng.standard_normal((count, 1, _SIDE, _SIDE)) + rng.uniform(0.1, 0.6, (count, 1, 1, 1)) * (
        rng.standard_normal((count, 3, _SIDE, _SIDE))
    )
    power = rng.uniform(1.0, 2.2, (count, 1, 1, 1))
    noise = np.fft.irfft2(np.fft.rfft2(white) / frequency**power, (_SIDE, _SIDE))
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    noise *= rng.uniform(20, 70, (count, 1, 1, 1)) / noise.std(axis=(1, 2, 3), keepdims=True)
    drawing = rng.random((count, 1, 1, 1)) < 0.25
    light = rng.uniform(70, 190, (count, 1, 1, 1)) + rng.normal(0, 20, (count, 3, 1, 1))
    pictures = np.where(drawing, 255, noise + light)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    for _ in range(4):
        centre, axes = rng.uniform(0.2, 0.8, (2, count, 1, 1)) * _SIDE, rng.uniform(2, _SIDE / 3, (2, count, 1, 1))
        inside = ((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1
        pictures = np.where(inside[:, None], rng.uniform(0, 255, (count, 3, 1, 1)), pictures)
    return np.asarray(np.clip(pictures, 0, 255), np.float32)


def _cropped(rng: np.random.Generator, pictures: Floats) -> Floats:
    """Each picture without up to a twentieth of each side, as large as before."""
    at = (np.arange(_SIDE) + 0.5) / _SIDE
    for axis in (2, 3):
        low, high = rng.uniform(0, _CROP, (2, len(pictures), 1))
        place = np.clip((low + at * (1 - low - high)) * _SIDE - 0.5, 0, _SIDE - 1)
        weights = np.maximum(0, 1 - np.abs(place[:, :, None] - np.arange(_SIDE)))
        formula = "nij,ncjx->ncix" if axis == 2 else "nij,ncyj->ncyi"
        pictures = np.einsum(formula, weights.astype(np.float32), pictures, optimize=True)
    return pictures


def _shrunk(pictures: Floats) -> RGB:
    step = _SIDE // _LOOK
    means = pictures.reshape(len(pictures), 3, _LOOK, step, _LOOK, step).mean(axis=(3, 5))
    return np.asarray(np.rint(means).transpose(0, 2, 3, 1), np.uint8)
