"""A model's features for training: computed at the one position that each tower takes, where it takes one."""

from __future__ import annotations

import torch
from open_clip.transformer import VisionTransformer
from torch.nn import functional

from trainer.blocks import run_to, runs_plain
from trainer.model import ClipModel, can_truncate, text_tower
from trainer.texts import encode_cut, pooled_places


def encode_pixels(model: ClipModel, pixels: torch.Tensor) -> torch.Tensor:
    """The same as `model.encode_image(pixels)`, up to rounding: [N, embed_dim]."""
    visual = model.visual
    features: torch.Tensor
    if not _takes_the_first(visual):
        features = model.encode_image(pixels)
    else:
        features = visual.ln_post(run_to(visual.transformer, visual._embeds(pixels), None))
        if visual.proj is not None:
            features = features @ visual.proj
    return features


def encode_tokens(model: ClipModel, tokens: torch.Tensor, length: int) -> torch.Tensor:
    """The same as `model.encode_text(tokens)`, [N, embed_dim], from the first `length` tokens, if no text needs more.

    `tokens` int64 [N, context_length]. Models that need all of them (see `can_truncate`) take them all. On a CPU the
    gradient of the token embedding may be a sparse tensor.
    """
    tower = text_tower(model)
    if not (can_truncate(model) and runs_plain(tower.transformer)):
        return encode_cut(model, tokens, length)
    # A dense gradient of the whole vocabulary for each chunk of texts would take longer than a layer on a CPU.
    hidden = functional.embedding(tokens[:, :length], tower.token_embedding.weight, sparse=not tokens.is_cuda)
    hidden = hidden + tower.positional_embedding[:length]
    features: torch.Tensor = tower.ln_final(run_to(tower.transformer, hidden, pooled_places(model, tokens)))
    if isinstance(tower.text_projection, torch.nn.Linear):
        features = tower.text_projection(features)
    elif tower.text_projection is not None:
        features = features @ tower.text_projection
    return features


def _takes_the_first(visual: torch.nn.Module) -> bool:
    """Whether an image tower is open_clip's transformer whose features are those of its class token."""
    is_plain = type(visual) is VisionTransformer and runs_plain(visual.transformer)
    return bool(is_plain and visual.attn_pool is None and visual.pool_type == "tok" and not visual.output_tokens)
