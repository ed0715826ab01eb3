"""A text tower over concatenated captions, without a single token of padding: measured against length-sorted chunks.

Layers other than attention see one long row of tokens. Attention is torch.nn.attention.varlen on a GPU; elsewhere the
captions of one length are attended to together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch.nn import functional

from trainer.model import ClipModel, text_tower
from trainer.texts import text_lengths

try:
    from torch.nn.attention import varlen
except ImportError:  # PyTorch before 2.10
    varlen = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Packed:
    """Texts one after the other, shortest first: T tokens, their positions, where each text starts, its length."""

    tokens: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    lengths: list[int]
    order: torch.Tensor


def pack(model: ClipModel, tokens: torch.Tensor, device: torch.device) -> Packed:
    """`tokens` int64 [N, context_length], in the host's memory."""
    lengths = text_lengths(model, tokens)
    order = np.argsort(lengths, kind="stable")
    lengths, ordered = lengths[order], tokens[torch.from_numpy(order)]
    flat = torch.cat([row[:length] for row, length in zip(ordered, lengths.tolist(), strict=True)])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    flat, positions, starts = (part.to(device, non_blocking=True) for part in (flat, positions, starts))
    return Packed(flat, positions, starts, lengths.tolist(), torch.from_numpy(order))


def encode_packed(model: ClipModel, packed: Packed) -> torch.Tensor:
    """Features [N, embed_dim], not normalised, in the order of the tokens that were packed."""
    tower = text_tower(model)
    hidden = tower.token_embedding(packed.tokens) + tower.positional_embedding[packed.positions]
    for block in tower.transformer.resblocks:
        hidden = hidden + _attention(block, block.ln_1(hidden), packed)
        hidden = hidden + block.mlp(block.ln_2(hidden))
    features: torch.Tensor = tower.ln_final(hidden[packed.starts[1:] - 1]) @ tower.text_projection
    back = torch.empty_like(packed.order)
    back[packed.order] = torch.arange(len(back))
    return features[back.to(features.device)]


def _attention(block: ResidualAttentionBlock, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
    attention = block.attn
    heads, width = attention.num_heads, hidden.shape[-1]
    inward = functional.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
    parts = inward.view(-1, 3, heads, width // heads)
    found = _varlen(parts, packed) if hidden.is_cuda and varlen is not None else _by_length(parts, packed)
    result: torch.Tensor = attention.out_proj(found.reshape(-1, width))
    return result


def _varlen(parts: torch.Tensor, packed: Packed) -> Any:
    query, key, value = parts.unbind(1)
    starts, longest = packed.starts.to(torch.int32), packed.lengths[-1]
    return varlen.varlen_attn(query, key, value, starts, starts, longest, longest, window_size=(-1, 0))


def _by_length(parts: torch.Tensor, packed: Packed) -> torch.Tensor:
    found, start = [], 0
    for length, count in zip(*np.unique(packed.lengths, return_counts=True), strict=True):
        end = start + int(length) * int(count)
        group = parts[start:end].view(int(count), int(length), *parts.shape[1:])
        query, key, value = group.permute(2, 0, 3, 1, 4).unbind(0)
        taken = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        found.append(taken.transpose(1, 2).reshape(end - start, -1))
        start = end
    return torch.cat(found)
