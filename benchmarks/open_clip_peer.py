"""open_clip_train's own training step, with its flags, fed by tensors that are on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from open_clip import create_loss
from open_clip_train.params import parse_args
from open_clip_train.scheduler import cosine_lr
from open_clip_train.train import train_one_epoch
from torch import nn

Pairs = tuple[torch.Tensor, torch.Tensor]  # normalised pictures, float [N, 3, S, S], and tokens, int64 [N, L]


class _Recorded(nn.Module):
    """A loss that keeps what it found, without waiting for it."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.found: list[torch.Tensor] = []

    def forward(self, **features: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = self.loss(**features)
        self.found.append(torch.stack([value.detach() for value in losses.values()]).sum())
        return losses


class Peer:
    """`train_one_epoch` over `model`, everything else as `open_clip_train.main` makes it from command-line `flags`.

    `steps` is the length of the whole run, which decides the learning rate.
    """

    def __init__(self, model: Any, flags: Sequence[str], *, device: torch.device, steps: int) -> None:
        self.args = parse_args(["--device", str(device), *flags])
        self.args.distill, self.args.wandb, self.args.rank, self.args.world_size = False, False, 0, 1
        self.model = model.to(device)
        self.model.output_dict = True
        if self.args.lock_image:
            model.lock_image_tower(self.args.lock_image_unlocked_groups, self.args.lock_image_freeze_bn_stats)
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(device=device.type) if self.args.precision == "amp" else None
        self.scheduler = cosine_lr(self.optimizer, self.args.lr, self.args.warmup, steps)
        self.loss = _Recorded(create_loss(self.args))
        self._runs = torch.compile(model) if self.args.torchcompile else model
        self._done = 0

    def train(self, batches: Iterable[Pairs], count: int) -> list[float]:
        """Take the next `count` steps, one a batch; the loss of each."""
        # Of an epoch as long as what was done before and is done now, the last steps.
        loader = _Loader(batches, num_batches=max(1, self._done), num_samples=count * self.args.batch_size)
        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda _: None)}
        train_one_epoch(
            self._runs,
            data,
            self.loss,
            1 if self._done else 0,
            self.optimizer,
            self.scaler,
            self.scheduler,
            None,
            self.args,
        )
        self._done += count
        found, self.loss.found = self.loss.found, []
        return [float(value) for value in found]

    def _optimizer(self) -> torch.optim.AdamW:
        exempt: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        for name, p in self.model.named_parameters():
            small = p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
            if p.requires_grad:
                (exempt if small else decayed).append(p)
        groups: list[dict[str, Any]] = [
            {"params": exempt, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": self.args.wd},
        ]
        betas = (self.args.beta1, self.args.beta2)
        return torch.optim.AdamW(groups, lr=self.args.lr, betas=betas, eps=self.args.eps)


@dataclass(frozen=True, slots=True)
class _Loader:
    """Batches with what `train_one_epoch` asks of a loader."""

    batches: Iterable[Pairs]
    num_batches: int
    num_samples: int

    def __iter__(self) -> Iterator[Pairs]:
        return iter(self.batches)
