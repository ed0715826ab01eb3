"""Small models of each kind of tower and seeded batches for them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import open_clip
import torch

from trainer.batch import Batch
from trainer.config import TrainConfig
from trainer.losses import initial_logits
from trainer.step import TrainStep

CONTEXT, VOCABULARY, SIDE = 24, 300, 64
CPU = torch.device("cpu")
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": SIDE, "layers": 2, "width": 48, "head_width": 24, "patch_size": 16},
    "resnet": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 48, "heads": 2, "layers": 2}
Kind = Literal["vit", "resnet"]


def small_model(
    kind: Kind = "vit", loss: Literal["clip", "siglip"] = "clip", *, text: dict[str, Any] | None = None, **vision: Any
) -> open_clip.CLIP:
    """A model whose weights are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(32, {**VISION[kind], **vision}, {**TEXT, **(text or {})}, **initial_logits(loss))
        if kind == "resnet":  # these start at zero, which would hide what their blocks do
            for name, p in model.visual.named_parameters():
                if name.endswith("bn3.weight"):
                    torch.nn.init.uniform_(p, 0.5, 1.0)
    model.visual.preprocess_cfg = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "size": SIDE}
    return model


def small_batch(count: int, seed: int = 0) -> Batch:
    """Noise with texts of 3 to 24 tokens, lognormal; the end-of-text token is the highest."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.rint(rng.lognormal(math.log(8), 0.55, count)), 3, CONTEXT).astype(int)
    tokens = np.zeros((count, CONTEXT), np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = rng.integers(1, VOCABULARY - 1, length)
        row[length - 1] = VOCABULARY - 1
    images = rng.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    sources = torch.zeros(count, dtype=torch.int64)
    return Batch(torch.from_numpy(images), torch.from_numpy(tokens), sources, np.arange(count))


def part(batch: Batch, rank: int, world: int) -> Batch:
    """What process `rank` of `world` is given of a batch."""
    own = slice(rank, None, world)
    return Batch(batch.images[own], batch.tokens[own], batch.sources[own], batch.rows[own])


def small_config(**changes: Any) -> TrainConfig:
    """A recipe for tests."""
    return TrainConfig.model_validate({"model": "small", "batch": 16, "lr": 1e-3, **changes})


def make_step(model: open_clip.CLIP, **changes: Any) -> TrainStep:
    """A step on the CPU."""
    return TrainStep(model, small_config(**changes), device=CPU, steps=50)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """All weights' gradients as one vector; zero where there is none."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([g.flatten() for g in found])


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative difference of two vectors: the norm of their difference over the norm of `theirs`."""
    return float((ours - theirs).norm() / theirs.norm())
