"""How good maps are: what a match loses without what they leave out, and whether they point where they should.

Confidence drop and increase are those of Chattopadhay et al. (Grad-CAM++, WACV 2018), as M2IB reports them; the
pointing game is that of Zhang et al. (ECCV 2016); that maps must change with the weights is Adebayo et al. (NeurIPS
2018). `evaluation.roar` has the metrics that train.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from evaluation.frozen import frozen
from evaluation.m2ib import attribute
from evaluation.m2ib_towers import Side, check_layer, image_site
from evaluation.sites import blocks_of
from filters.errors import ConfigError, InputError
from trainer.model import ClipModel, can_truncate, text_tower
from trainer.texts import encode_cut, text_lengths

Values: TypeAlias = npt.NDArray[np.float64]
Box: TypeAlias = tuple[float, float, float, float]
_BATCH = 64
# What makes an embedding of the last block's output, in towers of every kind.
_HEADS = ("ln_post", "proj", "attn_pool", "attn_pool_contrastive", "attnpool", "head", "ln_final", "text_projection")


@dataclass(frozen=True, slots=True)
class Confidence:
    """Cosines of pairs, float64 [P]: `original`, and `masked` by their maps."""

    original: Values
    masked: Values

    @property
    def drop(self) -> float:
        """What is lost, in hundredths of a cosine: the mean of max(0, original − masked) · 100; less is better."""
        return float(np.maximum(0, self.original - self.masked).mean() * 100)

    @property
    def increase(self) -> float:
        """Percent of the pairs that match better with the mask than without; more is better."""
        return float((self.masked > self.original).mean() * 100)


def image_confidence(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, maps: torch.Tensor) -> Confidence:
    """Confidence of pairs whose preprocessed pictures [P, 3, H, W] are multiplied by their maps [P, H, W] in 0 to 1.

    What a map removes becomes 0, the mean colour of the model's training pictures. One map alone may be [H, W]; it is
    that of the one picture, and never of its columns. InputError for maps that are not the pictures'.
    """
    weights = picture_maps(maps, images).to(images)[:, None]
    return Confidence(cosines(model, images, tokens), cosines(model, images * weights, tokens))


def text_confidence(
    model: ClipModel,
    images: torch.Tensor,
    tokens: torch.Tensor,
    maps: torch.Tensor,
    *,
    fill: Literal["pad", "mean"] = "pad",
) -> Confidence:
    """Confidence of pairs whose texts [P, L] keep only the tokens above the median of their maps [P, L].

    Start and end tokens always stay, so that the embedding is taken where it was. In place of a dropped token stands
    the padding token (`pad`), or the mean of all tokens' embeddings (`mean`). M2IB's own script drops the ends too:
    its figures are others. InputError for maps that are not the texts'.
    """
    if fill not in ("pad", "mean"):
        raise ConfigError(f"fill {fill!r} is not known; it is 'pad' or 'mean'")
    dropped = content(model, tokens) & ~_above(model, tokens, maps, 50.0)
    original = cosines(model, images, tokens)
    if fill == "pad":
        return Confidence(original, cosines(model, images, tokens.masked_fill(dropped, padding(model))))
    return Confidence(original, cosines(model, images, tokens, dropped))


def picture_maps(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """`maps` as [P, H, W]; InputError unless they are one for each picture, and of its size."""
    found = maps[None] if maps.ndim == 2 else maps
    if tuple(found.shape) != (len(images), *images.shape[2:]):
        wanted = [len(images), *images.shape[2:]]
        raise InputError(f"maps are {list(maps.shape)}; there must be one a picture, of its size: {wanted}")
    return found


def content(model: ClipModel, tokens: torch.Tensor) -> torch.Tensor:
    """Which tokens carry the text, bool [P, L]: those between the first and the end token.

    Of a tower that does not take the feature at an end token, all that are no padding.
    """
    if not can_truncate(model):
        return tokens != padding(model)
    lengths = torch.from_numpy(text_lengths(model, tokens)).to(tokens.device)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return (places > 0) & (places < lengths[:, None] - 1)


def padding(model: ClipModel) -> int:
    """The token that fills texts up: 0 unless the text tower names another."""
    return int(getattr(text_tower(model), "pad_id", 0))


def important(model: ClipModel, tokens: torch.Tensor, maps: torch.Tensor, percentile: float) -> torch.Tensor:
    """Which content tokens are above the `percentile` of their text's content in its map [P, L]; bool [P, L]."""
    return content(model, tokens) & _above(model, tokens, maps, percentile)


def _above(model: ClipModel, tokens: torch.Tensor, maps: torch.Tensor, percentile: float) -> torch.Tensor:
    if maps.shape != tokens.shape:
        raise InputError(
            f"maps are {list(maps.shape)}; there must be one a text, of its length: {list(tokens.shape)}"
        )
    maps = maps.to(tokens.device, torch.float64)
    words = maps.masked_fill(~content(model, tokens), torch.nan)
    return maps > torch.nanquantile(words, percentile / 100, dim=1, keepdim=True)


def cosines(
    model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, averaged: torch.Tensor | None = None
) -> Values:
    """Cosine of each pair's embeddings, float64 [P].

    Tokens that are `averaged` (bool [P, L]) have the mean of the embedding table as their embedding.
    """
    if len(images) != len(tokens):
        raise InputError(f"{len(images)} images and {len(tokens)} texts are no pairs")
    found, weight = [], next(model.parameters())
    with frozen(model), torch.no_grad():
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            pixels = images[part].to(weight.device, next(model.visual.parameters()).dtype)
            replaced = None if averaged is None else averaged[part].to(weight.device)
            read = _read(model, tokens[part].to(weight.device), replaced)
            found.append(functional.cosine_similarity(model.encode_image(pixels).double(), read.double(), dim=-1))
    values: Values = torch.cat(found).cpu().numpy()
    return values


def _read(model: ClipModel, tokens: torch.Tensor, averaged: torch.Tensor | None) -> torch.Tensor:
    length = int(text_lengths(model, tokens).max())
    if averaged is None:
        return encode_cut(model, tokens, length)
    table = text_tower(model).token_embedding
    mean = table.weight.mean(0)

    def replace(_module: nn.Module, _inputs: object, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(averaged[:, : rows.shape[1], None], mean, rows)

    handle = table.register_forward_hook(replace)
    try:
        return encode_cut(model, tokens, length)
    finally:
        handle.remove()


def box_masks(boxes: Sequence[Sequence[Box]], size: tuple[int, int]) -> torch.Tensor:
    """The union of each picture's boxes (left, top, right, bottom, in pixels), bool [P, h, w]."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, given in zip(masks, boxes, strict=True):
        for left, top, right, bottom in given:
            mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return masks


def pointing_game(maps: torch.Tensor, targets: torch.Tensor, tolerance: int = 0) -> float:
    """Share of maps [P, H, W] whose highest pixel is in its target (bool [P, H, W]), or within `tolerance` pixels."""
    return float(on_target(maps, targets, tolerance).float().mean())


def on_target(maps: torch.Tensor, targets: torch.Tensor, tolerance: int = 0) -> torch.Tensor:
    """Whether each map's highest pixel is in its target or within `tolerance` pixels, as `pointing_game`; bool [P].

    The distance is the larger one of rows and columns. A map without a peak, being constant, misses.
    """
    _check_targets(maps, targets)
    near = targets.float()[:, None]
    if tolerance:
        near = functional.max_pool2d(near, 2 * tolerance + 1, stride=1, padding=tolerance)
    flat = maps.flatten(1)
    hit = near.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0] > 0
    return hit & (flat.amax(1) > flat.amin(1))


def intersection_over_union(maps: torch.Tensor, targets: torch.Tensor, threshold: float = 0.5) -> Values:
    """IoU of where each map [P, H, W] is above `threshold` with its target (bool [P, H, W]); float64 [P]."""
    _check_targets(maps, targets)
    marked = (maps > threshold).flatten(1)
    wanted = targets.flatten(1)
    union = (marked | wanted).sum(1)
    values: Values = ((marked & wanted).sum(1) / union).double().cpu().numpy()
    return values


def _check_targets(maps: torch.Tensor, targets: torch.Tensor) -> None:
    if maps.ndim != 3 or maps.shape != targets.shape or targets.dtype != torch.bool:
        raise InputError(
            f"maps {list(maps.shape)} and targets {list(targets.shape)} ({targets.dtype}) must both be [P, H, W], "
            "the targets bool"
        )
    empty = (~targets.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"target {empty[0]} marks no pixel ({len(empty)} of {len(targets)} do not)")


def randomisation_check(
    model: ClipModel,
    images: torch.Tensor,
    tokens: torch.Tensor,
    *,
    side: Side,
    blocks: Sequence[int] = (1, 2),
    layer: int | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[int, Values]:
    """Rank correlation [P] of maps with those of a model whose last `blocks` blocks are made anew, for each number.

    All that follows those blocks is made anew too. A map that explains a model falls from 1; one that shows the input
    alone does not. Weights are made anew by shuffling each tensor, which keeps its distribution. Noise is the same
    each time; `options` are those of `attribute`.
    """
    layer = check_layer(model, side, layer)
    given = options.pop("generator", None) or torch.Generator().manual_seed(seed)
    if side == "image":
        options["size"] = image_site(model, images[:1].to(next(model.parameters())), layer).grid

    def maps(of: ClipModel) -> Values:
        generator = torch.Generator(given.device)
        generator.set_state(given.get_state())
        found = attribute(of, images, tokens, side=side, layer=layer, generator=generator, **options).map
        values: Values = found.flatten(1).double().cpu().numpy()
        return values

    there = np.ones((len(images), 1), bool) if side == "image" else content(model, tokens).cpu().numpy()
    original = maps(model)
    return {count: _rank_correlation(original, maps(made_anew(model, side, count, seed)), there) for count in blocks}


def made_anew(model: ClipModel, side: Side, blocks: int, seed: int) -> ClipModel:
    """A copy of the model with the tensors of the last `blocks` blocks of a tower, and of what follows, shuffled."""
    made = copy.deepcopy(model)
    tower = made.visual if side == "image" else text_tower(made)
    count = len(blocks_of(tower))
    if not 1 <= blocks <= count:
        raise ConfigError(f"blocks {blocks}: the {side} tower has 1 to {count} that can be made anew")
    generator = torch.Generator().manual_seed(seed)
    parts = [*list(blocks_of(tower))[-blocks:], *(getattr(tower, name, None) for name in _HEADS)]
    with torch.no_grad():
        for part in parts:
            for weight in part.parameters() if isinstance(part, nn.Module) else [part] if part is not None else []:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return made


def _rank_correlation(ours: Values, theirs: Values, there: npt.NDArray[np.bool_]) -> Values:
    """Spearman's correlation of each row's values that are `there`; 0 where one side's are all equal."""
    found = []
    for a, b, keep in zip(ours, theirs, np.broadcast_to(there, ours.shape), strict=True):
        ranks = [rankdata(values[keep]) for values in (a, b)]
        spread = [np.ptp(rank) for rank in ranks]
        found.append(np.corrcoef(*ranks)[0, 1] if all(spread) else 0.0)
    return np.array(found)
