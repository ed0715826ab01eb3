"""AugMix (Hendrycks et al., 2020) at severity 1, as TPT uses it: a picture mixed with three chains of small changes.

No change of colour is among the operations but those of single channels' levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from trainer.batch import Pixels

Uniform = npt.NDArray[np.float64]
# uint8 [H, W, 3], a strength in 0.1 to 1 and a sign.
Operation = Callable[[Pixels, float, int], Pixels]

_CHAINS, _LONGEST = 3, 3
_OF_CHAIN = 1 + 3 * _LONGEST  # its length; kind, strength and sign of each operation
DRAWS = _CHAINS + 1 + _CHAINS * _OF_CHAIN


def mixed(pixels: Pixels, uniform: Uniform, operations: Sequence[str]) -> npt.NDArray[np.float32]:
    """float32 [H, W, 3] in levels: uint8 `pixels` mixed with its chains, a function of `uniform` [34] in [0, 1).

    Mixing levels is the same as mixing normalised values, since the weights add up to 1.
    """
    weights = mixing_weights(uniform)
    result: npt.NDArray[np.float32] = pixels * weights[0]
    for weight, changed in zip(weights[1:], chains(pixels, uniform, operations), strict=True):
        result += weight * changed
    return result


def mixing_weights(uniform: Uniform) -> npt.NDArray[np.float32]:
    """Weights [4] of the picture and its chains: Beta(1, 1), and the rest by Dirichlet(1, 1, 1)."""
    shares = -np.log1p(-uniform[:_CHAINS])  # exponential numbers in proportion to their sum
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(_CHAINS, 1 / _CHAINS)
    of_picture = uniform[_CHAINS]
    return np.array([of_picture, *(1 - of_picture) * shares], np.float32)


def chains(pixels: Pixels, uniform: Uniform, operations: Sequence[str]) -> list[Pixels]:
    """The ends of three chains of one to three `operations` (names of OPERATIONS), each uint8 [H, W, 3]."""
    found = []
    for draws in uniform[_CHAINS + 1 :].reshape(_CHAINS, _OF_CHAIN):
        changed, length = pixels, 1 + int(draws[0] * _LONGEST)
        for kind, strength, sign in draws[1:].reshape(_LONGEST, 3)[:length].tolist():
            operation = OPERATIONS[operations[int(kind * len(operations))]]
            changed = operation(changed, 0.1 + 0.9 * strength, 1 if sign < 0.5 else -1)
        found.append(changed)
    return found


def _autocontrast(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return np.asarray(ImageOps.autocontrast(Image.fromarray(pixels)))


def _equalize(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return np.asarray(ImageOps.equalize(Image.fromarray(pixels)))


def _posterize(pixels: Pixels, strength: float, sign: int) -> Pixels:
    kept = 4 - int(strength * 4 / 10)
    return pixels & np.uint8(256 - (1 << (8 - kept)))


def _solarize(pixels: Pixels, strength: float, sign: int) -> Pixels:
    bright = pixels >= 256 - int(strength * 256 / 10)
    return np.where(bright, 255 - pixels, pixels)


def _rotate(pixels: Pixels, strength: float, sign: int) -> Pixels:
    angle = math.radians(sign * int(strength * 30 / 10))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    return _affine(pixels, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def _shear_x(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return _affine(pixels, (1, sign * strength * 0.03, 0), (0, 1, 0))


def _shear_y(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return _affine(pixels, (1, 0, 0), (sign * strength * 0.03, 1, 0))


def _translate_x(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return _affine(pixels, (1, 0, sign * int(strength * pixels.shape[1] / 30)), (0, 1, 0))


def _translate_y(pixels: Pixels, strength: float, sign: int) -> Pixels:
    return _affine(pixels, (1, 0, 0), (0, 1, sign * int(strength * pixels.shape[0] / 30)))


def _affine(pixels: Pixels, to_x: tuple[float, float, float], to_y: tuple[float, float, float]) -> Pixels:
    """Each pixel from the place that the two rows name for its own, bilinear; from outside comes black.

    Places are of the pixels' upper left corners, as in Pillow; OpenCV counts from their centres.
    """
    rows = [(a, b, c + (a + b - 1) / 2) for a, b, c in (to_x, to_y)]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(cv2.warpAffine(pixels, np.array(rows), size, flags=flags), dtype=np.uint8)


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "rotate": _rotate,
    "solarize": _solarize,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
AUGMIX = tuple(OPERATIONS)
