"""A moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class WeightAverage:
    """Exponential moving average of all weights and running statistics of `model`; it starts at their values."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        with torch.no_grad():
            self._average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move by `1 - decay` of the way to the model's present weights; whole numbers are taken as they are."""
        present = self._model.state_dict()
        floats = [name for name, value in self._average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self._average[name] for name in floats], [present[name] for name in floats], 1 - self.decay
        )
        for name in self._average.keys() - set(floats):
            self._average[name].copy_(present[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights, by the model's own names: what a model folder is saved from."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from saved averages; KeyError if a weight is missing."""
        with torch.no_grad():
            for name, value in self._average.items():
                value.copy_(state[name])
