"""Lines of models trained on ImageNet, from which effective robustness is measured, and the models they go through.

Coefficients and models lie in `evaluation/data/`; its README names the sources and licences. Two sets of models:

- `std`: imagenet-testbed's models of standard training, of 55 % or more on ImageNet (75 % on a shift's classes);
- `std+low`: these and its low-accuracy checkpoints, from 2 %.

Models trained from little data stand at 5 to 36 %, where a line through `std` alone is an extrapolation that flatters
them. Below 28 % the line of `std+low` lies within 2 points of 96 of its checkpoints, and within about half a point of
their mean. No difference between figures against two sets means anything. ImageNet-A was chosen to defeat a
ResNet-50, so that its line has two pieces, below and above that model's accuracy.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from evaluation.lines import Axis, Floats, Line
from filters.errors import InputError

DATA = Path(__file__).parent / "data"
STD, LOW = "std", "std+low"
SWITCH = 0.55  # reference accuracy below which a model needs the low-accuracy checkpoints


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
    """The published line of `shift` ("v2", "r", "sketch", "objectnet" or "a") in `models` ("std" or "std+low").

    `x` is "val", or "val-on-" and the shift: ImageNet's pictures of the shift's classes; by default what
    `default_x` says. InputError for a combination that nobody published, naming those there are.
    """
    if models not in (STD, LOW) or axis not in get_args(Axis):
        raise InputError(f"no baseline set {models!r} on the {axis} axis; expected {STD} or {LOW}, probit or logit")
    wanted = (shift, x or default_x(shift, models), models, axis)
    found = _published().get(wanted)
    if found is None:
        known = "; ".join(f"{b.shift} on {b.x} ({b.set}, {b.axis})" for b in _published().values())
        raise InputError(f"no published line for {wanted[0]} on {wanted[1]} ({models}, {axis}); there are {known}")
    return found


def default_x(shift: str, models: str = LOW) -> str:
    """The reference of a shift's published line: the testbed takes the shift's classes for R, A and ObjectNet.

    With `std+low` it is always all of ImageNet's validation set, "val".
    """
    return f"val-on-{shift}" if models == STD and shift in ("r", "a", "objectnet") else "val"


def default_models(x: npt.ArrayLike) -> str:
    """`std+low` as soon as one of the accuracies x [n] on ImageNet is below 55 %, else `std`: one set for all."""
    return LOW if (np.asarray(x, np.float64) < SWITCH).any() else STD


@functools.cache
def _published() -> dict[tuple[str, str, str, str], Baseline]:
    pieces: dict[tuple[str, str, str, str], list[Line]] = {}
    for row in read_rows(DATA / "baselines.csv"):
        slope, intercept, r2, low, high = (float(row[name]) for name in ("slope", "intercept", "r2", "low", "high"))
        axis: Axis = "logit" if row["axis"] == "logit" else "probit"
        line = Line(slope, intercept, r2, int(row["n"]), low, high, axis)
        pieces.setdefault((row["shift"], row["x"], row["set"], axis), []).append(line)
    return {key: Baseline(*key[:3], tuple(lines)) for key, lines in pieces.items()}


def read_rows(path: Path) -> Sequence[dict[str, str]]:
    """The rows of a CSV file under `evaluation/data/`, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
