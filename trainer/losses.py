"""Contrastive losses of this process's pairs against the pairs of all processes."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch.nn import functional

Loss: TypeAlias = Literal["clip", "siglip"]


class Features(NamedTuple):
    """Normalised features [n, D] of this process's pairs, and [N, D] those of all processes, one after the other."""

    image: torch.Tensor
    text: torch.Tensor
    all_images: torch.Tensor
    all_texts: torch.Tensor

    def rows(self, start: int, end: int) -> Features:
        """Some of this process's pairs, against all."""
        return self._replace(image=self.image[start:end], text=self.text[start:end])


def initial_logits(loss: Loss) -> dict[str, float]:
    """Arguments of `open_clip.create_model` that a new model needs for a loss; none for `clip`.

    SigLIP starts at temperature 1/10 and bias -10, so that the many pairs that do not match cost little at first.
    """
    return {"init_logit_scale": math.log(10), "init_logit_bias": -10.0} if loss == "siglip" else {}


def clip_losses(features: Features, scale: torch.Tensor, first: int) -> torch.Tensor:
    """Symmetric InfoNCE, [n]: the mean of the cross-entropies of finding a picture's text and a text's picture.

    `scale` multiplies the cosines. Pair i of this process is number `first + i` of all.
    """
    targets = torch.arange(first, first + len(features.image), device=features.image.device)
    by_image = scale * features.image @ features.all_texts.T
    by_text = scale * features.text @ features.all_images.T
    return (_entropies(by_image, targets) + _entropies(by_text, targets)) / 2


def siglip_losses(features: Features, scale: torch.Tensor, bias: torch.Tensor, first: int) -> torch.Tensor:
    """SigLIP's sigmoid loss (Zhai et al. 2023), [n]: of each picture, the sum over the texts of all processes.

    Each cosine becomes a logit, `scale` times it plus `bias`, of a yes or no of its own.
    """
    logits = scale * features.image @ features.all_texts.T + bias
    signs = torch.full_like(logits, -1.0)
    signs.diagonal(first).fill_(1.0)
    return -functional.logsigmoid(signs * logits).sum(dim=1)


def _entropies(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")
