"""ROAR+: take away what maps call important, and see how much harder the pairs become to match.

The corruption is M2IB's as AdaIB describes it: pixels above the 75th percentile of a map become their picture's mean
colour, tokens above the 90th percentile become padding. `fine_tuned` fits the model anew to clean and to corrupted
pairs (Hooker et al., ROAR, NeurIPS 2019); `retrieval` asks the model as it is, which costs nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.nn import functional

from evaluation.attribution_metrics import important, padding, picture_maps
from evaluation.frozen import frozen
from filters.errors import ConfigError, InputError
from trainer.losses import Features, clip_losses, siglip_losses
from trainer.model import ClipModel
from trainer.texts import encode_cut, text_lengths


@dataclass(frozen=True, slots=True)
class Roar:
    """Loss on pairs held out, of a model fitted to clean pairs on clean ones, and to corrupted on corrupted ones."""

    clean: float
    corrupted: float

    @property
    def increase(self) -> float:
        """By how many percent of the clean loss the corrupted one is higher; more is better."""
        return 100 * (self.corrupted - self.clean) / self.clean


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Share of pictures that find their text first among P (`to_text`), and of texts that find their picture."""

    to_text: float
    to_image: float

    def lost(self, corrupted: Retrieval) -> Retrieval:
        """(this − corrupted) / this, for both ways; 0 where there was nothing to lose."""
        ways = ((self.to_text, corrupted.to_text), (self.to_image, corrupted.to_image))
        return Retrieval(*(0.0 if before == 0 else (before - after) / before for before, after in ways))


def corrupt_images(images: torch.Tensor, maps: torch.Tensor, percentile: float = 75.0) -> torch.Tensor:
    """Pictures [P, 3, H, W] whose pixels above the `percentile` of their map [P, H, W] have their mean colour."""
    _check_percentile(percentile)
    flat = picture_maps(maps, images).to(images.device, torch.float64).flatten(1)
    high = (flat > flat.quantile(percentile / 100, dim=1, keepdim=True)).view(-1, 1, *images.shape[2:])
    return torch.where(high, images.mean((2, 3), keepdim=True), images)


def corrupt_tokens(
    model: ClipModel, tokens: torch.Tensor, maps: torch.Tensor, percentile: float = 90.0
) -> torch.Tensor:
    """Texts [P, L] whose content tokens above the `percentile` of their map [P, L] are padding; the ends stay."""
    _check_percentile(percentile)
    return tokens.masked_fill(important(model, tokens, maps, percentile), padding(model))


def retrieval(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor) -> Retrieval:
    """How often pairs find each other first; of equal scores the first counts."""
    _check_pairs(images, tokens, 1)
    with frozen(model), torch.no_grad():
        parts = [_features(model, images[i : i + 64], tokens[i : i + 64]) for i in range(0, len(images), 64)]
    seen, read = (torch.cat(side) for side in zip(*parts, strict=True))
    scores, own = seen @ read.T, torch.arange(len(seen), device=seen.device)
    return Retrieval(*(float((way.argmax(1) == own).float().mean()) for way in (scores, scores.T)))


def fine_tuned(
    model: ClipModel,
    clean: tuple[torch.Tensor, torch.Tensor],
    corrupted: tuple[torch.Tensor, torch.Tensor],
    *,
    epochs: int = 1,
    batch: int = 32,
    lr: float = 1e-5,
    held_out: float = 0.2,
    seed: int = 0,
) -> Roar:
    """Fit copies of the model to clean and to corrupted (images [P, 3, H, W], tokens [P, L]) in the same way.

    AdamW with the model's own loss, over batches in an order of `seed`, which also chooses the `held_out` share. The
    model itself is left alone. InputError for fewer than two batches of pairs, one of them held out.
    """
    for images, tokens in (clean, corrupted):
        _check_pairs(images, tokens, 2 * batch)
    if len(clean[0]) != len(corrupted[0]) or not 0 < held_out < 1:
        raise InputError("clean and corrupted pairs must be the same pairs, and held_out a share between 0 and 1")
    count = len(clean[0])
    kept = min(count - batch, max(batch, round(count * (1 - held_out))))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    options = {"epochs": epochs, "batch": batch, "seed": seed}
    losses = []
    for images, tokens in (clean, corrupted):
        fitted = copy.deepcopy(model)
        _fit(fitted, images[order[:kept]], tokens[order[:kept]], lr, **options)
        losses.append(_loss(fitted, images[order[kept:]], tokens[order[kept:]], batch))
    return Roar(*losses)


def _fit(
    model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, lr: float, *, epochs: int, batch: int, seed: int
) -> None:
    """Whole batches only: a small last one would be another task."""
    model.train()
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            adam.zero_grad()
            _batch_loss(model, images[chosen], tokens[chosen]).backward()  # type: ignore[no-untyped-call]
            adam.step()


def _loss(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, batch: int) -> float:
    starts = range(0, len(images) - batch + 1, batch)
    with frozen(model), torch.no_grad():
        found = [_batch_loss(model, images[i : i + batch], tokens[i : i + batch]) for i in starts]
    return float(torch.stack(found).mean())


def _batch_loss(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    seen, read = _features(model, images, tokens)
    features, scale = Features(seen, read, seen, read), model.logit_scale.exp()
    bias = getattr(model, "logit_bias", None)
    losses = clip_losses(features, scale, 0) if bias is None else siglip_losses(features, scale, bias, 0)
    return losses.mean()


def _features(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = next(model.visual.parameters())
    tokens = tokens.to(weight.device)
    seen = model.encode_image(images.to(weight))
    read = encode_cut(model, tokens, int(text_lengths(model, tokens).max()))
    return functional.normalize(seen, dim=-1), functional.normalize(read, dim=-1)


def _check_pairs(images: torch.Tensor, tokens: torch.Tensor, least: int) -> None:
    if len(images) != len(tokens) or len(images) < least:
        raise InputError(f"{len(images)} images and {len(tokens)} texts; there must be at least {least} pairs")


def _check_percentile(percentile: float) -> None:
    if not 0 <= percentile <= 100:
        raise ConfigError(f"percentile {percentile} must be in 0 to 100")
