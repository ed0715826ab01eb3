"""A linear classifier on frozen features: few-shot, or on all there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from filters.errors import InputError

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = tuple[NDArray[np.float64], NDArray[np.float64]]
_STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # of the penalty, tried where none is given


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights float64 [C, E] and biases [C]; `strength` of the penalty that they were fitted with."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float

    def scores(self, features: Features) -> Features:
        """Logits [N, C], float32, of features [N, E]; InputError for another width or what is not a number."""
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise InputError(f"probe: features are {features.shape}, expected [N, {self.weight.shape[1]}]")
        if not np.isfinite(features).all():
            raise InputError("probe: features hold values that are not numbers; check the model's weights")
        found: Features = (features.astype(np.float64) @ self.weight.T + self.bias).astype(np.float32)
        return found


def few_shot(labels: Labels, shots: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of `shots` pictures of each class, drawn by `seed` alone, sorted.

    Fewer shots are a subset of more. InputError for a class that has not so many.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    order = rng.permutation(len(labels))
    found = []
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        if len(mine) < shots:
            raise InputError(f"few-shot: class {label} has {len(mine)} pictures, fewer than {shots}")
        found.append(mine[:shots])
    return np.sort(np.concatenate(found))


def fit_probe(
    features: Features,
    labels: Labels,
    classes: int,
    *,
    strength: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Probe:
    """Logistic regression of unit features [N, E] with an L2 penalty, by LBFGS in float64 to convergence.

    Minimised is the mean cross-entropy plus `strength` / 2 times the sum of the squared weights (biases are free).
    Without `strength` the one of 10^2 ... 10^-6 is taken that is best on a fifth of the pictures, drawn by `seed`
    and held back (weaker ones are left out after two that are worse), and all pictures are fitted with it.
    InputError for fewer than two classes, classes without a picture, and features that are not numbers or
    not one row a label.
    """
    if features.ndim != 2 or len(features) != len(labels):
        raise InputError(f"probe: features are {features.shape}, expected one row for each of {len(labels)} labels")
    if classes < 2 or len(np.unique(labels)) < classes:
        raise InputError(
            f"probe: {len(np.unique(labels))} of {classes} classes have pictures; all of two or more must"
        )
    if not np.isfinite(features).all():
        raise InputError("probe: features hold values that are not numbers; check the model's weights")
    start = None
    if strength is None:
        strength, start = _best_strength(features, labels, classes, seed, device)
    weight, bias = _fit(features, labels, classes, strength, device, start)
    return Probe(weight, bias, strength)


def _best_strength(
    features: Features, labels: Labels, classes: int, seed: int, device: str
) -> tuple[float, Weights | None]:
    """The strength, and weights near those that it has on all pictures.

    From the strongest down, each fit begins where the last one ended; two that are no better than the best end it.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    held = np.zeros(len(labels), dtype=bool)
    for label in range(classes):
        mine = rng.permutation(np.flatnonzero(labels == label))
        held[mine[: len(mine) // 5]] = True
    if not held.any():
        return 1e-3, None  # too few pictures to choose by
    best: tuple[float, float, Weights] | None = None
    start, worse = None, 0
    for strength in reversed(_STRENGTHS):
        start = _fit(features[~held], labels[~held], classes, strength, device, start)
        scores = torch.from_numpy(Probe(*start, strength).scores(features[held]))
        loss = float(functional.cross_entropy(scores.double(), torch.from_numpy(labels[held])))
        if best is None or loss < best[0]:
            best, worse = (loss, strength, start), 0
        elif (worse := worse + 1) == 2:
            break
    assert best is not None
    return best[1:]


def _fit(
    features: Features, labels: Labels, classes: int, strength: float, device: str, start: Weights | None = None
) -> Weights:
    inputs, targets = torch.from_numpy(features).to(device).double(), torch.from_numpy(labels).to(device)
    begin = start or (np.zeros((classes, inputs.shape[1])), np.zeros(classes))
    weight, bias = (torch.tensor(one, dtype=torch.float64, device=device, requires_grad=True) for one in begin)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets) + strength / 2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().cpu().numpy(), bias.detach().cpu().numpy()
