"""The contrastive loss on pairs that a run does not train on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from filters.errors import InputError
from trainer.embed import Faults, embed_pairs
from trainer.losses import Features, clip_losses
from trainer.model import LoadedModel


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Encoded pictures with their captions and sources, in an order that never changes."""

    images: Sequence[bytes]
    captions: Sequence[str]
    sources: Sequence[str]


def held_out_loss(loaded: LoadedModel, pairs: HeldOut, batch: int) -> dict[str, object]:
    """Mean symmetric InfoNCE of whole batches of `batch` pairs, in nats, together and by source.

    Pictures are prepared as for inference. `broken` counts the pairs whose picture or caption cannot be embedded;
    they are left out before batches are made. InputError if there is no whole batch.
    """
    faults: tuple[Faults, Faults] = ({}, {})
    images, texts = embed_pairs(loaded, pairs.images, pairs.captions, min(batch, 256), faults)
    broken = set(faults[0]) | set(faults[1])
    sound = np.array([place for place in range(len(pairs.images)) if place not in broken])
    if len(sound) < batch:
        raise InputError(f"held-out pairs: {len(sound)} sound ones are less than one batch of {batch}")
    scale = loaded.model.logit_scale.detach().exp().float().cpu()
    losses: dict[str, list[float]] = {}
    for start in range(0, len(sound) - batch + 1, batch):
        chosen = sound[start : start + batch]
        image, text = torch.from_numpy(images[chosen]), torch.from_numpy(texts[chosen])
        each = clip_losses(Features(image, text, image, text), scale, 0)
        for place, loss in zip(chosen.tolist(), each.tolist(), strict=True):
            losses.setdefault(pairs.sources[place], []).append(loss)
    everything = [loss for part in losses.values() for loss in part]
    return {
        "loss": math.fsum(everything) / len(everything),
        "by_source": {name: math.fsum(part) / len(part) for name, part in sorted(losses.items())},
        "pairs": len(everything),
        "broken": len(broken),
    }
