"""One training step of a CLIP model, the same whatever number of passes and processes a batch is divided among."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import autograd

from filters.errors import ConfigError, InputError
from trainer.batch import Batch
from trainer.config import TrainConfig
from trainer.ema import WeightAverage
from trainer.losses import Features, clip_losses, siglip_losses
from trainer.model import ClipModel
from trainer.optimizer import load_optimizer, make_optimizer, set_rate, step_if
from trainer.passes import Passes, Piece
from trainer.ranks import Ranks
from trainer.texts import text_lengths, training_chunks
from trainer.towers import Towers, running_statistics, steady_statistics

MAX_LOGIT_SCALE = math.log(100)  # the bound of the CLIP paper (Radford et al. 2021, §2.5)
# Numbers in the table of cosines that is in memory at a time.
_TABLE = 1 << 28
# Text lengths are rounded up to a multiple, which compiled layers and half precision like. What one more chunk of
# texts costs, in tokens: measured on a CPU, where it is mostly the addition of gradients; on a GPU a guess at what
# keeps it busy.
_MULTIPLE, _OVERHEAD = 8, {"cpu": 128, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found, on its device, so that reading it is what waits for it.

    `loss`: mean over the pairs of all processes, a scalar; `each`: the loss of each of this process's pairs, [n],
    whose mean over all processes is `loss`; `grad_norm`: of all weights' gradients together, before clipping, a
    scalar. Where `loss` or `grad_norm` is not finite, the step has left the weights as they were. All are fp32, or
    fp64 if the model is.
    """

    loss: torch.Tensor
    each: torch.Tensor
    grad_norm: torch.Tensor


class TrainStep:
    """Model, optimiser and moving average of a run of `steps` steps; calling it makes one step.

    `model` is prepared in place (see Towers) and trained in place. Process `r` of `R` is given the rows r::R of each
    batch, all as many; the gradient, and so the weights, are those of one process that has the whole batch. With
    `micro_batch` a tower has at most so many pairs in one pass, and the loss is still that of the whole batch.
    BatchNorm takes the statistics of each pass; its running statistics count each pass once and are the mean of all
    processes'.
    """

    def __init__(
        self, model: ClipModel, config: TrainConfig, *, device: torch.device, ranks: Ranks | None = None, steps: int
    ) -> None:
        if config.loss == "siglip" and model.logit_bias is None:
            raise ConfigError("loss: siglip needs a model with a logit bias; create it with losses.initial_logits")
        self.model, self.config, self.device, self.steps = model, config, device, steps
        self.ranks = ranks or Ranks()
        self.towers = Towers(model, config, device)
        self.optimizer = make_optimizer(model, config)
        self.average = WeightAverage(model, config.ema) if config.ema else None
        self._weights = [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Batch, lr: float) -> StepResult:
        """Train on this process's part of a batch at learning rate `lr`.

        Pictures may lie anywhere; tokens are best in the host's memory, where their lengths are found.
        """
        if not len(batch):
            raise InputError("a training step needs at least one pair; this process's part of the batch is empty")
        self.towers.train()
        self.optimizer.zero_grad()
        twice = self.config.micro_batch is not None and len(batch) > self.config.micro_batch
        towers = self.towers
        image = Passes(self._image_pieces(batch), self.device, trains=towers.image_trains, twice=twice)
        text = Passes(self._text_pieces(batch), self.device, trains=towers.text_trains, twice=twice)
        # Weights are converted to half precision once for all passes whose graphs are kept.
        with nullcontext() if twice else towers.autocast():
            leaves = (image.forward(), text.forward())
        each, gradients = self._losses(*leaves)
        with steady_statistics(self.model):
            for passes, gradient in zip((image, text), gradients, strict=True):
                if gradient is not None:
                    passes.backward(gradient)
        return self._update(each, lr)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser and of the moving average; the weights are the model's own."""
        average = self.average.state_dict() if self.average else {}
        return {"optimizer": self.optimizer.state_dict(), "ema": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["ema"])

    def _image_pieces(self, batch: Batch) -> Iterator[Piece]:
        size = self.config.micro_batch or len(batch)
        for start in range(0, len(batch), size):
            rows = torch.arange(start, min(start + size, len(batch)))
            images = batch.images[start : start + size]
            yield Piece(rows.to(self.device), partial(self.towers.images, images))

    def _text_pieces(self, batch: Batch) -> Iterator[Piece]:
        context = batch.tokens.shape[1]
        lengths = text_lengths(self.model, batch.tokens)
        most = min(self.config.micro_batch or len(batch), len(batch)) * context
        overhead = _OVERHEAD[self.device.type]
        chunks = training_chunks(lengths, context, most_tokens=most, multiple=_MULTIPLE, overhead=overhead)
        for chunk, length in chunks:
            rows = torch.from_numpy(chunk)
            tokens = batch.tokens[rows.to(batch.tokens.device)]
            yield Piece(rows.to(self.device), partial(self.towers.texts, tokens, length))

    def _losses(
        self, image: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor | None, torch.Tensor | None]]:
        """The losses [n] of this process's pairs, and the gradients [n, D] of all pairs' loss by its features."""
        model, ranks, count = self.model, self.ranks, len(image)
        is_siglip, total, parts = self.config.loss == "siglip", count * ranks.world, []
        # The sigmoid loss asks of each picture which texts are its own, and not the other way round.
        all_images = image.detach() if is_siglip else ranks.gather(image).requires_grad_(image.requires_grad)
        all_texts = ranks.gather(text).requires_grad_(text.requires_grad)
        features = Features(image, text, all_images, all_texts)
        rows = max(1, _TABLE // total)
        for start in range(0, count, rows):
            part, first = features.rows(start, start + rows), ranks.rank * count + start
            scale = model.logit_scale.exp()
            if is_siglip:
                each = siglip_losses(part, scale, model.logit_bias, first)
            else:
                each = clip_losses(part, scale, first)
            autograd.backward(each.sum() / total)
            parts.append(each.detach())
        return torch.cat(parts), (self._gradient(image, all_images), self._gradient(text, all_texts))

    def _gradient(self, local: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor | None:
        """Of one tower's features: what this process's pairs say, and what all processes' pairs say of them."""
        if not local.requires_grad:
            return None
        gradient = local.grad
        if gathered.grad is not None:
            of_all = self.ranks.reduce_scatter(gathered.grad)
            gradient = of_all if gradient is None else gradient + of_all
        return gradient

    @torch.no_grad()
    def _update(self, each: torch.Tensor, lr: float) -> StepResult:
        loss = each.sum() / (len(each) * self.ranks.world)
        for p in self._weights:
            if p.grad is not None and p.grad.is_sparse:
                p.grad = p.grad.to_dense()
        gradients = [p.grad for p in self._weights if p.grad is not None]
        self.ranks.sum_([loss, *gradients])
        statistics = running_statistics(self.model)
        self.ranks.sum_(statistics)
        if self.ranks.world > 1 and statistics:
            torch._foreach_div_(statistics, self.ranks.world)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(self._weights, self.config.clip, norm)
        set_rate(self.optimizer, lr)
        step_if(torch.isfinite(loss) & torch.isfinite(norm), self.optimizer)
        self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if self.average:
            self.average.update()
        return StepResult(loss, each, norm)
