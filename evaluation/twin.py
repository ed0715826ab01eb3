"""A second set of modules over a model's own weights: what a method does to them, the model does not feel."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from trainer.embed import each_core
from trainer.model import ClipModel
from trainer.packed import PackedLinear, pack_layers

# Pictures that make one pass: on a CPU so few that their activations stay in a core's cache.
_PART, _PART_ON_GPU = 16, 256
# Packing a tower's weights takes as long as some dozens of pictures.
_WORTH_PACKING = 128


def frozen_twin(module: ClipModel) -> ClipModel:
    """A copy of `module` with the storage of its weights and buffers, in evaluation mode and without gradients.

    Setting a mode, a hook or another submodule on the copy leaves the original as it is, whatever happens; writing
    into a weight does not, so nobody may. The copy is made in milliseconds and takes no memory to speak of.
    """
    shared: dict[int, object] = {}
    for part in module.modules():
        for value in part.parameters(recurse=False):
            shared[id(value)] = nn.Parameter(value.detach(), requires_grad=False)
        # Also tensors that are no parameters: those of packed layers cannot be copied at all.
        for value in (*part.buffers(recurse=False), *vars(part).values()):
            if isinstance(value, torch.Tensor):
                shared[id(value)] = value
    twin = copy.deepcopy(module, shared).eval()
    for part in twin.modules():
        if hasattr(part, "grad_checkpointing"):
            part.grad_checkpointing = False
    return twin


def image_features(twin: ClipModel, images: torch.Tensor) -> torch.Tensor:
    """Image features [N, E], L2-normalised, in float32 (or float64), of preprocessed `images` [N, 3, H, W].

    `twin` is a model's `frozen_twin`, whose image tower may be packed here for a CPU. Each core takes small parts
    of its own with one thread (as `trainer.embed` does), a GPU large ones one after the other.
    """
    weight = next(twin.visual.parameters())
    on_cpu = weight.device.type == "cpu"
    packed = any(isinstance(part, PackedLinear) for part in twin.visual.modules())
    if on_cpu and weight.dtype == torch.float32 and len(images) >= _WORTH_PACKING and not packed:
        pack_layers(twin.visual)

    def features(part: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return unit(twin.encode_image(part.to(weight.device, weight.dtype)))

    if not on_cpu:
        return torch.cat([features(part) for part in torch.split(images, _PART_ON_GPU)])
    size = max(1, min(_PART, math.ceil(len(images) / torch.get_num_threads())))
    return torch.cat(each_core(features, torch.split(images, size)))


def unit(features: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, in at least float32."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return nn.functional.normalize(wide, dim=-1)
