"""Memory for batches that is used again: to get new pages of the system takes three times as long as to fill them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

Shape = tuple[tuple[int, ...], torch.dtype]


class Rooms:
    """Tensors of always the same shapes, in memory that comes back once nothing looks at it any more.

    Views of a tensor count as the tensor does: who keeps batches keeps their memory, and others get new. `pin` gives
    page-locked tensors; torch itself uses their memory again, once no copy to a GPU reads it.
    """

    def __init__(self, shapes: Sequence[Shape], pin: bool) -> None:
        self._shapes, self._pin = shapes, pin
        self._free: list[deque[npt.NDArray[Any]]] = [deque() for _ in shapes]

    def take(self) -> list[torch.Tensor]:
        """A tensor of each shape, with whatever is in it."""
        if self._pin:
            return [torch.empty(shape, dtype=dtype, pin_memory=True) for shape, dtype in self._shapes]
        return [_lend(free, shape) for free, shape in zip(self._free, self._shapes, strict=True)]


def _lend(free: deque[npt.NDArray[Any]], shape: Shape) -> torch.Tensor:
    """A tensor over memory that is free, or over new one, which is free again when the tensor's storage is gone."""
    try:
        memory = free.pop()
    except IndexError:
        memory = torch.empty(shape[0], dtype=shape[1]).numpy()
    view = memory[:]  # an object of its own, which the storage holds
    weakref.finalize(view, free.append, memory).atexit = False
    return torch.from_numpy(view)
