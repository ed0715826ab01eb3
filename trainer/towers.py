"""A model's two towers as a training step uses them: what is locked, in what precision, from bytes and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from filters.errors import ConfigError
from trainer.allocator import keep_freed_memory
from trainer.blocks import use_plain_layers
from trainer.config import TrainConfig
from trainer.features import encode_pixels, encode_tokens
from trainer.floats import normalised
from trainer.model import ClipModel, text_tower


class Towers:
    """`model` on `device`, prepared as `config` asks; features are L2-normalised, in fp32 (or the model's fp64).

    The model is changed in place: locked, its layout, its layers compiled. Raises ConfigError for a lock or an
    option that it does not have.
    """

    def __init__(self, model: ClipModel, config: TrainConfig, device: torch.device) -> None:
        self.model, self.device, self._precision = model.to(device), device, config.precision
        if device.type == "cpu":
            keep_freed_memory()
        use_plain_layers(model)
        lock_towers(model, config)
        if config.checkpoint_activations:
            checkpoint_activations(model)
        if is_convolutional(model.visual):
            # Convolutions are faster with channels last: 1.6 times on the CPU.
            model.to(memory_format=torch.channels_last)
        if config.compile:
            compile_towers(model)
        self.image_trains, self.text_trains = (any(p.requires_grad for p in part) for part in _split(model))
        preprocess = model.visual.preprocess_cfg
        self._mean, self._std = preprocess["mean"], preprocess["std"]
        dtype = next(model.visual.parameters()).dtype
        mean, std = (torch.tensor(preprocess[key], dtype=torch.float64).view(3, 1, 1) for key in ("mean", "std"))
        self._factor, self._offset = (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)
        self._layout = torch.channels_last if is_convolutional(model.visual) else torch.contiguous_format

    def train(self) -> None:
        """Training mode; a tower that is locked as a whole stays in evaluation mode, its statistics untouched."""
        self.model.train()
        if not self.image_trains:
            self.model.visual.eval()
        if not self.text_trains:
            for module in _text_modules(self.model):
                module.eval()

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [n, 3, S, S] to the normalised floats that the model takes, on the device."""
        if self.device.type == "cpu" and self._offset.dtype == torch.float32:
            return normalised(images, self._mean, self._std)
        values = images.to(self.device, non_blocking=True).to(self._offset.dtype, memory_format=self._layout)
        return torch.addcmul(self._offset, values, self._factor)

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Features [n, D] of pictures, uint8 [n, 3, S, S]."""
        pixels = self.pixels(images)
        with self.autocast():
            features = encode_pixels(self.model, pixels)
        return _normalised(features)

    def texts(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        """Features [n, D] of texts, int64 [n, context_length], none of which needs more than `length` tokens."""
        tokens = tokens.to(self.device, non_blocking=True)
        with self.autocast():
            features = encode_tokens(self.model, tokens, length)
        return _normalised(features)

    def autocast(self) -> AbstractContextManager[object]:
        """Products in bf16 if the recipe says so."""
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def lock_towers(model: ClipModel, config: TrainConfig) -> None:
    """Take from training what `config` locks; the last groups of layers that it unlocks still train.

    Raises ConfigError for a ResNet, which can be locked as a whole only, and if nothing is left to train.
    """
    if config.lock_image:
        if config.lock_image_unlocked and isinstance(model.visual, ModifiedResNet):
            raise ConfigError(f"lock_image_unlocked: a ResNet can be locked as a whole only ({config.model})")
        model.lock_image_tower(unlocked_groups=config.lock_image_unlocked, freeze_bn_stats=False)
    if config.lock_text:
        model.lock_text_tower(unlocked_layers=config.lock_text_unlocked)
    if not any(p.requires_grad for part in _split(model) for p in part):
        raise ConfigError("lock_image, lock_text: both towers are locked as a whole, so nothing trains; unlock one")


def checkpoint_activations(model: ClipModel) -> None:
    """Let both towers keep each layer's input only and compute the layer again in the backward pass."""
    if isinstance(model.visual, ModifiedResNet):
        _checkpoint_stages(model.visual)
    model.set_grad_checkpointing()


def compile_towers(model: ClipModel) -> None:
    """Compile the layers of open_clip's transformers in place, for chunks of texts of any size."""
    # All layers share their compiled forms: of two towers, all positions or one, with gradients and without.
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    for tower, dynamic in ((model.visual, None), (text_tower(model), True)):
        for block in getattr(getattr(tower, "transformer", None), "resblocks", ()):
            block.compile(dynamic=dynamic)


def is_convolutional(visual: nn.Module) -> bool:
    """Whether an image tower is made of convolutions, rather than of a transformer with one for its patches."""
    return sum(isinstance(module, nn.Conv2d) for module in visual.modules()) > 1


@contextmanager
def steady_statistics(model: nn.Module) -> Iterator[None]:
    """Meanwhile BatchNorm layers in training use the batch's statistics, but do not add them to the running ones."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    # Not by `track_running_stats`: a layer of a checkpoint has to save as many tensors as the first time.
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """Running means and variances of the BatchNorm layers that are in training."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    return [value for m in layers for value in (m.running_mean, m.running_var) if value is not None]


def _normalised(features: torch.Tensor) -> torch.Tensor:
    return functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _checkpoint_stages(visual: ModifiedResNet) -> None:
    """open_clip offers it for transformers only."""
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        for block in stage:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _text_modules(model: ClipModel) -> list[nn.Module]:
    """What the text tower is made of: all but the image tower."""
    return [module for name, module in model.named_children() if name != "visual"]


def _split(model: ClipModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of the image tower and of the text tower."""
    named = [(name, p) for name, p in model.named_parameters() if not name.startswith("logit_")]
    image = [p for name, p in named if name.startswith("visual.")]
    return image, [p for name, p in named if not name.startswith("visual.")]
