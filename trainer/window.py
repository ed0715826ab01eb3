"""What a run sees between two lines of its log, and whether it still goes well."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainer.batch import Batch
from trainer.ranks import Ranks
from trainer.step import StepResult
from trainer.work import Work

_PATIENCE = 3  # log windows that a loss may be bad before the run is stopped


@dataclass
class Window:
    """Losses and seconds of this process since the last line of the log; numbers stay on their device."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds for the loader
    pairs: int = 0
    tokens: int = 0  # that texts need
    losses: list[torch.Tensor] = field(default_factory=list)
    norm: torch.Tensor | None = None
    by_source: torch.Tensor | None = None  # float64 [sources, 2]: sum of losses, number of pairs

    def add(self, batch: Batch, found: StepResult, sources: int, tokens: int) -> None:
        """Take in one step."""
        each = found.each.double()
        if self.by_source is None:
            self.by_source = torch.zeros(sources, 2, dtype=torch.float64, device=each.device)
        pairs = torch.stack([each, torch.ones_like(each)], dim=1)
        self.by_source.index_add_(0, batch.sources.to(each.device), pairs)
        self.losses.append(found.loss)
        self.norm = found.grad_norm
        self.pairs += len(batch)
        self.tokens += tokens

    def loss(self) -> float:
        """The mean over the window's steps; this waits for the device."""
        return float(torch.stack(self.losses).double().mean())

    def metrics(self, sources: Sequence[str], ranks: Ranks) -> dict[str, Any]:
        """Losses and the gradient's norm for the log; all processes call this together."""
        assert self.by_source is not None
        assert self.norm is not None
        ranks.sum_([self.by_source])
        sums = zip(sources, self.by_source.tolist(), strict=True)
        return {
            "loss": float(self.losses[-1]),
            "mean_loss": self.loss(),
            "loss_by_source": {name: total / count for name, (total, count) in sums if count},
            "grad_norm": float(self.norm),
        }

    def speed(self, work: Work, ranks: Ranks) -> dict[str, float]:
        """Seconds, samples a second of all processes, the share of time spent waiting for data, and MFU."""
        seconds = time.perf_counter() - self.started
        return {
            "seconds": round(seconds, 4),
            "samples_per_s": round(self.pairs * ranks.world / seconds, 2),
            "data_wait": round(self.waited / seconds, 4),
            "mfu": round(work.utilisation(self.pairs, self.tokens, seconds), 4),
        }


@dataclass
class Watch:
    """Whether a loss has fallen by a fifth and is since three windows above where it began: it will not come back."""

    first: float = math.inf
    best: float = math.inf
    bad: int = 0

    def diverged(self, loss: float) -> bool:
        """Take in a window's mean loss."""
        self.first = loss if math.isinf(self.first) else self.first
        self.best = min(self.best, loss)
        self.bad = self.bad + 1 if self.best < 0.8 * self.first < self.first < loss else 0
        return self.bad >= _PATIENCE
