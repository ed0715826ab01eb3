"""A model that is looked into and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Meanwhile `model` is in evaluation mode and none of its weights asks for a gradient.

    Afterwards every module's training flag and every weight's `requires_grad` are what they were, also after an
    exception. Gradients of other tensors work inside, whatever mode the caller is in.
    """
    training = [(module, module.training) for module in model.modules()]
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        model.eval()
        for weight in asking:
            weight.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)
        for module, flag in training:
            module.training = flag
