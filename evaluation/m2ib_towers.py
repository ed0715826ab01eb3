"""The two towers of open_clip's models, cut in two at the output of one block.

The first half runs once over the inputs, the second as often as one likes over other values in place of its output.
Where one token is taken of the last block, that block is computed for it alone.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import nn

from evaluation.plain_block import is_plain, pooled_block, whole_block
from evaluation.sites import EMBEDDINGS, Site, all_count, as_planes, blocks_of, hooked_site, planes_site
from filters.errors import ConfigError, InputError, ModelError
from trainer.model import ClipModel, can_truncate, pool_type, text_tower
from trainer.texts import text_lengths

Side: TypeAlias = Literal["image", "text"]
_FINE = 7  # the grid of ViT-B/32 at 224 pixels; coarser maps show little


def count_blocks(model: ClipModel, side: Side) -> int:
    """How many blocks (of a ResNet or another convolutional tower: stages) a tower has; ModelError if unknown."""
    return len(blocks_of(model.visual if side == "image" else _text_tower(model)))


def default_layer(blocks: int) -> int:
    """The block after which M2IB sits unless told otherwise, counted from 0: 9 of 12, and layer4 of a ResNet."""
    return math.ceil(blocks * 5 / 6) - 1


def check_layer(model: ClipModel, side: Side, layer: int | None) -> int:
    """`layer`, or the default one if None; ConfigError for one that the tower does not have."""
    blocks = count_blocks(model, side)
    layer = default_layer(blocks) if layer is None else layer
    if not EMBEDDINGS <= layer < blocks:
        raise ConfigError(f"layer {layer}: the {side} tower has layers 0 to {blocks - 1}, and -1 for its embeddings")
    return layer


def shown_layer(model: ClipModel, side: Side, images: torch.Tensor) -> int:
    """`default_layer`, or the next one below it whose map can tell something, down to the embeddings (-1).

    That is one after which tokens still mix (after the last block of most transformers one token alone decides), and
    for pictures [P, 3, H, W] one of a grid no coarser than 7 x 7, if the tower has any.
    """
    blocks = count_blocks(model, side)
    layer = default_layer(blocks)
    if side == "image" and _is_staged(model.visual):
        layers = range(layer, EMBEDDINGS - 1, -1)
        rows = {at: min(image_site(model, images[:1], at).grid or (0, 0)) for at in layers}
        return max(at for at in layers if rows[at] >= min(_FINE, max(rows.values())))
    return min(layer, blocks - 2) if _takes_one(model, side) else layer


@torch.no_grad()
def image_site(model: ClipModel, images: torch.Tensor, layer: int) -> Site:
    """The site after block `layer` of the image tower, for images [P, 3, H, W].

    InputError for pictures of another size than the model's; ModelError for a tower that cannot be cut exactly.
    """
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    if tuple(images.shape[1:]) != (3, *size):
        raise InputError(f"images are {list(images.shape[1:])} a picture; the model takes {[3, *size]}")
    if isinstance(visual, VisionTransformer):
        return _vit_site(visual, images, layer)
    if isinstance(visual, ModifiedResNet):
        return _resnet_site(visual, images, layer)
    return hooked_site(visual, images, layer)


@torch.no_grad()
def text_site(model: ClipModel, tokens: torch.Tensor, layer: int) -> Site:
    """The site after block `layer` of the text tower, for tokens int64 [P, L].

    Where texts may be cut (`trainer.model.can_truncate`) T is the longest text up to its end-of-text token; elsewhere
    the tower sees all L positions (CoCa: and its own token after them), and all of them count. ModelError for a tower
    that is not open_clip's own.
    """
    tower, cut = _text_tower(model), can_truncate(model)
    counts = torch.from_numpy(text_lengths(model, tokens))
    if isinstance(tower, TextTransformer) and not cut:
        hidden, mask = tower._embeds(tokens)
        counts = all_count(hidden)
    else:
        length, dtype = int(counts.max()), tower.transformer.get_cast_dtype()
        hidden = tower.token_embedding(tokens[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
    for block in blocks_of(tower)[: layer + 1]:
        hidden = whole_block(block, hidden, mask)
    there = torch.arange(hidden.shape[1]) < counts[:, None]
    ends = counts - 1 if cut else None
    suffix = partial(_text_suffix, tower, tokens, mask, layer, ends)
    return Site(hidden * there[..., None].to(hidden), counts, suffix)


def _text_tower(model: ClipModel) -> Any:
    tower = text_tower(model)
    if not isinstance(tower, CLIP | TextTransformer):
        raise ModelError(
            f"the text tower is a {type(tower).__name__}, whose layers cannot be reached exactly; only open_clip's "
            "own text towers can be attributed (with side='image' the pictures of this model can)"
        )
    if pool_type(tower) == "none":
        raise ModelError("the text tower does not pool its tokens to one embedding, so that it cannot be attributed")
    return tower


def _takes_one(model: ClipModel, side: Side) -> bool:
    """Whether after the last block one token alone decides."""
    visual = model.visual
    if side == "text":
        return True
    if isinstance(visual, TimmModel):
        return bool(getattr(visual.trunk, "global_pool", "") == "token")
    return bool(visual.pool_type == "tok" and visual.attn_pool is None)


def _is_staged(visual: Any) -> bool:
    """Whether its blocks are stages, each with a grid of its own."""
    return isinstance(visual, ModifiedResNet) or (isinstance(visual, TimmModel) and hasattr(visual.trunk, "stages"))


def _vit_site(visual: Any, images: torch.Tensor, layer: int) -> Site:
    hidden = visual._embeds(images)
    for block in blocks_of(visual)[: layer + 1]:
        hidden = whole_block(block, hidden)
    return Site(hidden, all_count(hidden), partial(_vit_suffix, visual, layer), tuple(visual.grid_size))


def _vit_suffix(visual: Any, layer: int, values: torch.Tensor) -> torch.Tensor:
    hidden, rest = values.flatten(0, 1), list(blocks_of(visual))[layer + 1 :]
    alone = bool(rest) and visual.pool_type == "tok" and visual.attn_pool is None and is_plain(rest[-1])
    for block in rest[:-1] if alone else rest:
        hidden = whole_block(block, hidden)
    if alone:
        first = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
        pooled = visual.ln_post(pooled_block(rest[-1], hidden, first))
    else:
        pooled, _ = visual._pool(hidden)
    features: torch.Tensor = pooled if visual.proj is None else pooled @ visual.proj
    return features.view(*values.shape[:2], -1)


def _resnet_site(visual: Any, images: torch.Tensor, layer: int) -> Site:
    planes = visual.stem(images)
    for stage in blocks_of(visual)[: layer + 1]:
        planes = stage(planes)

    def suffix(values: torch.Tensor) -> torch.Tensor:
        hidden = as_planes(values.flatten(0, 1), planes)
        for stage in blocks_of(visual)[layer + 1 :]:
            hidden = stage(hidden)
        features: torch.Tensor = visual.attnpool(hidden)
        return features.view(*values.shape[:2], -1)

    return planes_site(planes, suffix)


def _text_suffix(
    tower: Any,
    tokens: torch.Tensor,
    mask: torch.Tensor | None,
    layer: int,
    ends: torch.Tensor | None,
    values: torch.Tensor,
) -> torch.Tensor:
    """`ends` [P] are the tokens that are taken, where no token sees a later one."""
    samples, length = values.shape[1], values.shape[2]
    hidden, rest = values.flatten(0, 1), list(blocks_of(tower))[layer + 1 :]
    if mask is not None and mask.dim() == 3:  # one for each text and head: for each of its samples, then
        mask = mask.view(len(tokens), -1, length, length).repeat_interleave(samples, 0).flatten(0, 1)
    alone = ends is not None and bool(rest) and is_plain(rest[-1])
    for block in rest[:-1] if alone else rest:
        hidden = whole_block(block, hidden, mask)
    if ends is not None and alone:
        end = ends.to(hidden.device).repeat_interleave(samples)
        visible = torch.arange(length, device=hidden.device) <= end[:, None]
        pooled = tower.ln_final(pooled_block(rest[-1], hidden, end, visible))
    elif getattr(tower, "cls_emb", None) is not None:
        pooled = tower.ln_final(text_global_pool(hidden, pool_type="last"))
    else:
        repeated = tokens.repeat_interleave(samples, 0)
        end_token = tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id
        pooled = text_global_pool(tower.ln_final(hidden), repeated, pool_type(tower), eos_token_id=end_token)
    features = _projected(tower.text_projection, pooled)
    return features.view(-1, samples, features.shape[-1])


def _projected(projection: Any, pooled: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = pooled
    if isinstance(projection, nn.Linear):
        features = projection(pooled)
    elif projection is not None:
        features = pooled @ projection
    return features
