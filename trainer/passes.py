"""Features of a batch, computed in pieces that may be computed twice so that only one is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import autograd

RandomState = tuple[torch.Tensor, ...]


@dataclass(slots=True)
class Piece:
    """Some of a batch's pictures or texts: their places, int64 [m], and what gives their features [m, D]."""

    rows: torch.Tensor
    encode: Callable[[], torch.Tensor]
    features: torch.Tensor | None = None
    random: RandomState = ()


class Passes:
    """The features of one tower's pieces, first forward, then, with their gradient, backward.

    With `twice`, they are first computed without gradient, and again, from the same random state, in `backward`: the
    memory is what one piece needs. The last piece keeps what it has and is computed once.
    """

    def __init__(self, pieces: Iterable[Piece], device: torch.device, *, trains: bool, twice: bool) -> None:
        self._pieces, self._device, self._trains, self._twice = list(pieces), device, trains, twice

    def forward(self) -> torch.Tensor:
        """Features of the whole batch in its own order, [n, D]: a leaf that takes a gradient if the tower trains."""
        found = []
        for number, piece in enumerate(self._pieces):
            keep = self._trains and (not self._twice or number == len(self._pieces) - 1)
            if self._trains and not keep:
                piece.random = _random_state(self._device)
            with torch.set_grad_enabled(keep):
                features = piece.encode()
            piece.features = features if keep else None
            found.append(features.detach())
        whole = torch.empty(sum(map(len, found)), found[0].shape[1], dtype=found[0].dtype, device=self._device)
        for piece, features in zip(self._pieces, found, strict=True):
            whole[piece.rows] = features
        return whole.requires_grad_(self._trains)

    def backward(self, gradient: torch.Tensor) -> None:
        """Add to the weights' gradients, given that of the features, [n, D]."""
        while self._pieces:
            piece = self._pieces.pop()
            features = piece.features
            if features is None:
                with _replayed(piece.random, self._device):
                    features = piece.encode()
            autograd.backward(features, gradient[piece.rows])


def _random_state(device: torch.device) -> RandomState:
    on_gpu = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_gpu)


@contextmanager
def _replayed(state: RandomState, device: torch.device) -> Iterator[None]:
    """Random numbers go on from `state`, and afterwards from where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        for on_gpu in state[1:]:
            torch.cuda.set_rng_state(on_gpu, device)
        yield
