"""AdamW with open_clip's groups of weights, rates by layer, and the rate's course over a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from filters.errors import ModelError
from trainer.config import TrainConfig

# The number of a layer within its tower: open_clip's transformers and ResNets, timm's and Hugging Face's.
_LAYER = re.compile(r"\.(?:resblocks|blocks|stages|layers?)\.(\d+)\.|\.layer(\d+)\.")
# What lies above the last layer.
_HEADS = ("ln_post", "proj", "attnpool", "attn_pool", "ln_final", "text_projection", "head", "norm", "fc_norm")
Groups = list[dict[str, Any]]


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The rate of step `step` of `steps`: a linear rise over the warm-up, then a half cosine to 0.

    The warm-up has `config.warmup_samples / config.batch` steps, or else `config.warmup` of all.
    """
    warmup = warmup_steps(steps, config)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def warmup_steps(steps: int, config: TrainConfig) -> int:
    """Steps in which the rate rises."""
    if config.warmup_samples is not None:
        return round(config.warmup_samples / config.batch)
    return round(config.warmup * steps)


def parameter_groups(model: torch.nn.Module, wd: float, layer_decay: float = 1.0) -> Groups:
    """The trained weights as groups for AdamW, with `weight_decay` and `rate`, a factor of the learning rate.

    Gains, biases, everything named as a norm and the logit scale do not decay, all others do, as open_clip has it:
    with `layer_decay` 1 the two groups, and their order, are those of its optimiser. Below 1 each layer has groups
    of its own: rate `layer_decay` to the power of the layers above it in its tower. A tower's head has rate 1, its
    last layer `layer_decay`, its embeddings (stem) the least.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depths = _layers_above([name for name, _ in model.named_parameters()]) if layer_decay < 1 else {}
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {(0, True): [], (0, False): []}
    for name, p in named:
        groups.setdefault((depths.get(name, 0), _is_exempt(name, p)), []).append(p)
    return [
        {"params": params, "weight_decay": 0.0 if exempt else wd, "rate": layer_decay**depth}
        for (depth, exempt), params in groups.items()
    ]


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the model's trained weights, in one fused pass a step."""
    groups = parameter_groups(model, config.wd, config.layer_decay)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on from the moments in a saved state of the same weights, also one of open_clip_train's optimiser.

    Decay, rates and the like stay those of `optimizer`. Raises ModelError if the weights are not the same in number.
    """
    own = optimizer.state_dict()["param_groups"]
    sizes = [[len(group["params"]) for group in groups] for groups in (own, saved["param_groups"])]
    if sizes[0] != sizes[1]:
        raise ModelError(f"optimiser state: it has groups of {sizes[1]} weights, and the model needs {sizes[0]}")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its part of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def step_if(good: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step where `good`, a truth value on the weights' device, holds; nobody waits for it to be known.

    `optimizer` is one of `make_optimizer`: a fused one leaves weights, moments and step count as they were.
    """
    fused: Any = optimizer
    fused.found_inf = (~good).float()
    optimizer.step()


def _is_exempt(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def _layers_above(names: list[str]) -> dict[str, int]:
    """For each weight the number of layers between it and its tower's features; 0 for what belongs to no tower."""
    found, last = {}, {True: 0, False: 0}
    for name in names:
        match = _LAYER.search(f".{name}")
        is_image = name.startswith("visual.")
        if match:
            number = int(match[1] or match[2])
            # ResNets count their stages from 1, with the stem below.
            found[name] = number if match[2] else number + 1
            last[is_image] = max(last[is_image], found[name])
    return {
        name: last[name.startswith("visual.")] + 1 - found.get(name, 0)
        for name in names
        if not (name.startswith("logit_") or (name not in found and set(name.split(".")) & set(_HEADS)))
    }
