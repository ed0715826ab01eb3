"""Lines of models trained on ImageNet, from which effective robustness is measured, fitted to published accuracies.

The accuracies lie in `evaluation/data/`; its README names the sources and licences. Two sets of models:

- `std`: imagenet-testbed's models of standard training, of 56 % or more on ImageNet;
- `std+low`: these and its low-accuracy checkpoints, from 2 %.

Models trained from little data stand at 5 to 36 %, where a line through `std` alone is an extrapolation that flatters
them. The line of `std+low` lies within 2.6 points of all low-accuracy checkpoints, and within 0.6 of their mean. No
difference between figures against two sets means anything. ImageNet-A was chosen to defeat a ResNet-50, so that its
line has two pieces, below and above that model's accuracy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from evaluation.accuracies import on_classes, read_csv
from evaluation.lines import Axis, Floats, Line, least_squares
from filters.errors import InputError

DATA = Path(__file__).parent / "data"
STD, LOW = "std", "std+low"
SWITCH = 0.55  # reference accuracy below which a model needs the low-accuracy checkpoints
SHIFTS = ("v2", "r", "sketch", "objectnet", "a")
_FILES = {STD: ("testbed_std.csv",), LOW: ("testbed_std.csv", "testbed_low.csv")}
# Accuracy under shift below which a model is left out: next to chance, where the axis stretches a few pictures.
_FLOOR = 0.002


@dataclass(frozen=True, slots=True)
class Baseline:
    """The line of a shift in a set of models: `pieces` in order of x, one unless it breaks."""

    shift: str
    x: str
    set: str
    pieces: tuple[Line, ...]

    @property
    def name(self) -> str:
        """What must be equal where two figures are compared."""
        return f"{self.set} ({self.axis}, {self.shift} on {self.x})"

    @property
    def axis(self) -> Axis:
        """The axis that the line is straight on."""
        return self.pieces[0].axis

    @property
    def low(self) -> float:
        """The least accurate of its models on x."""
        return self.pieces[0].low

    @property
    def high(self) -> float:
        """The most accurate of its models on x."""
        return self.pieces[-1].high

    def at(self, x: npt.ArrayLike) -> Floats:
        """Accuracies under the shift of standard models of accuracies x [n], beyond `low` and `high` too."""
        across = np.atleast_1d(np.asarray(x, np.float64))
        which = np.searchsorted([piece.low for piece in self.pieces[1:]], across, side="right")
        lines = np.stack([piece.at(across) for piece in self.pieces])
        return np.asarray(np.take_along_axis(lines, which[None], axis=0)[0], np.float64)


def find_baseline(shift: str, *, x: str | None = None, models: str = LOW, axis: Axis = "probit") -> Baseline:
    """The line of `shift` ("v2", "r", "sketch", "objectnet" or "a") through `models` ("std" or "std+low").

    `x` is "val", or "val-on-" and the shift: ImageNet's pictures of the shift's classes, which "a" always has; by
    default what `default_x` says. InputError where there is no such line, naming those that there are.
    """
    if models not in _FILES or axis not in get_args(Axis):
        raise InputError(f"no baseline set {models!r} on the {axis} axis; expected {STD} or {LOW}, probit or logit")
    wanted = (shift, x or default_x(shift, models))
    possible = [
        (name, ref) for name in SHIFTS for ref in ("val", on_classes("val", name)) if (name, ref) != ("a", "val")
    ]
    found = _fitted(*wanted, models, axis) if wanted in possible else None
    if found is None:
        known = ", ".join(f"{name} on {ref}" for name, ref in possible if _fitted(name, ref, models, axis))
        raise InputError(f"no line for {wanted[0]} on {wanted[1]} through {models}; there are {known}")
    return found


def default_x(shift: str, models: str = LOW) -> str:
    """The reference of a shift's line: the testbed takes the shift's classes for R, A and ObjectNet.

    With `std+low` it is always all of ImageNet's validation set, "val".
    """
    return f"val-on-{shift}" if models == STD and shift in ("r", "a", "objectnet") else "val"


def default_models(x: npt.ArrayLike) -> str:
    """`std+low` as soon as one of the accuracies x [n] on ImageNet is below 55 %, else `std`: one set for all."""
    return LOW if (np.asarray(x, np.float64) < SWITCH).any() else STD


@functools.cache
def _fitted(shift: str, x: str, models: str, axis: Axis) -> Baseline | None:
    """The line through all models that have both accuracies; None where a file of the set has no such model."""
    files = [read_csv(DATA / name) for name in _FILES[models]]
    both = [[score for score in scores if {x, shift} <= score.accuracy.keys()] for scores in files]
    if not all(both):
        return None
    points = [(score.accuracy[x], score.accuracy[shift]) for scores in both for score in scores]
    across, up = np.array([point for point in points if point[1] >= _FLOOR]).T
    breaks = [score.accuracy[x] for score in both[0] if score.model == "resnet50"] if shift == "a" else []
    piece = np.searchsorted(breaks, across, side="right")
    ends = pairwise([across.min(), *breaks, across.max()])
    lines = [least_squares(across[piece == i], up[piece == i], axis) for i in range(len(breaks) + 1)]
    pieces = [replace(line, low=float(low), high=float(high)) for line, (low, high) in zip(lines, ends, strict=True)]
    return Baseline(shift, x, models, tuple(pieces))
