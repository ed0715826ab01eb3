"""How much a training step has to compute, and how fast this machine could at best."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import TrainConfig
from trainer.model import ClipModel

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is timed
_PASSES = 3  # a backward pass costs about two forward ones


@dataclass(frozen=True, slots=True)
class Work:
    """Floating point operations of training: `image` a picture, `token` a text token; `rate` a second at best.

    Operations are those of a forward and a backward pass, however often activations are computed again; a locked
    tower has no backward pass. Attention, whose cost grows with the square of the length, counts as if all texts were
    as long as the context.
    """

    image: float
    token: float
    rate: float

    @classmethod
    def of(cls, model: ClipModel, context_length: int, config: TrainConfig, device: torch.device) -> Work:
        """Counted for `model`, and `rate` measured by products of large matrices in `config.precision`."""
        image, text = forward_flops(model, context_length)
        passes = [
            1 if locked and not unlocked else _PASSES
            for locked, unlocked in (
                (config.lock_image, config.lock_image_unlocked),
                (config.lock_text, config.lock_text_unlocked),
            )
        ]
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return cls(image * passes[0], text * passes[1] / context_length, matrix_rate(device, dtype))

    def utilisation(self, pairs: float, tokens: float, seconds: float) -> float:
        """The share of `rate` that `pairs` with `tokens` in `seconds` took: model FLOPs utilisation (MFU)."""
        return (self.image * pairs + self.token * tokens) / (seconds * self.rate)


def forward_flops(model: ClipModel, context_length: int) -> tuple[float, float]:
    """Floating point operations of the image tower for a picture, and of the text tower for a full context."""
    ghost = copy.deepcopy(model).to("meta").eval()  # shapes without numbers: nothing is computed
    size = ghost.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    counts = []
    for encode, given in (
        (ghost.encode_image, torch.zeros(1, 3, height, width, device="meta")),
        (ghost.encode_text, torch.zeros(1, context_length, dtype=torch.long, device="meta")),
    ):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            encode(given)
        counts.append(float(counter.get_total_flops()))
    return counts[0], counts[1]


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of large square matrices, the best of three."""
    side = _SIDE[device.type]
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):  # the first one also sets up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * side**3 / best
