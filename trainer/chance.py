"""Random numbers that are a function of (seed, epoch, position) and nothing else."""

from __future__ import annotations

import numpy as np


class Chance:
    """The generators of an epoch's positions: Philox(key=[seed, epoch], counter=[0, 0, stream, position]).

    Streams are independent of each other. There is one generator, which is set anew for each position: that takes an
    eighth of the time in which a new one is made. Not safe for threads.
    """

    def __init__(self, seed: int, epoch: int, stream: int = 0) -> None:
        self._bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, stream, 0])
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._counter = self._state["state"]["counter"]

    def at(self, position: int) -> np.random.Generator:
        """The generator of a position, at its beginning; it is of use until the next is asked for."""
        self._counter[3] = position
        self._bits.state = self._state
        return self._generator

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was drawn since `at`."""
        now, before = self._bits.state, self._state
        is_same = now["buffer_pos"] == before["buffer_pos"] and now["has_uint32"] == before["has_uint32"]
        return is_same and bool(now["state"]["counter"][0] == 0)
