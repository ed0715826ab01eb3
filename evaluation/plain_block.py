"""open_clip's plain transformer block, in products that suit many small sequences, and for a single token.

`nn.MultiheadAttention` turns a batch of sequences on its side first, so that on a CPU its products are many small
ones; and it computes every token of the last block, of which most towers take one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional


def is_plain(block: Any) -> bool:
    """Whether the functions below give what the block gives: open_clip's own residual block, attending to itself."""
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention = block.attn
    if type(attention) is not nn.MultiheadAttention or not attention._qkv_same_embed_dim:
        return False
    return bool(attention.batch_first and attention.bias_k is None and not attention.add_zero_attn)


def whole_block(block: Any, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What `block` gives for `hidden` [N, T, D], up to rounding; itself where it is not plain.

    `mask` [T, T] or [N·heads, T, T] is added to the scores.
    """
    if not is_plain(block):
        result: torch.Tensor = block(hidden) if mask is None else block(hidden, attn_mask=mask)
        return result
    attention, (count, length, width) = block.attn, hidden.shape
    heads = attention.num_heads
    if mask is not None:
        mask = mask.to(hidden).view(-1, heads, length, length) if mask.dim() == 3 else mask.to(hidden)
    parts = functional.linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = parts.view(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
    found = functional.scaled_dot_product_attention(query, key, value, mask)
    attended = attention.out_proj(found.transpose(1, 2).reshape(count, length, width))
    return _after_attention(block, hidden, attended)


def pooled_block(
    block: Any, hidden: torch.Tensor, taken: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Row `taken[n]` of what a plain `block` gives for `hidden` [N, T, D]: [N, D], up to rounding.

    `visible` [N, T] says what each text's token attends to; all of them if None. Keys and values are never formed:
    with a single query, (h Wk) q is h (Wk q), and the mean of h Wv is (the mean of h) Wv. That is D² + H·T·D products
    a sample in place of T·D².
    """
    attention, rows = block.attn, torch.arange(len(hidden), device=hidden.device)
    heads, width = attention.num_heads, hidden.shape[-1]
    query, key, value = attention.in_proj_weight.view(3, heads, width // heads, width).unbind(0)
    biases = _biases(attention, heads, width)
    states = block.ln_1(hidden)
    asked = torch.einsum("ne,hde->hnd", states[rows, taken], query) + biases[0]
    # The bias of the keys adds the same to all scores of a query, which the softmax takes away again.
    scores = torch.bmm(asked / math.sqrt(width // heads), key).transpose(0, 1) @ states.transpose(1, 2)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, :], -math.inf)
    mixed = scores.softmax(dim=-1) @ states  # [N, H, D]
    found = torch.bmm(mixed.transpose(0, 1), value.transpose(1, 2)) + biases[2]  # [H, N, D / H]
    attended = attention.out_proj(found.transpose(0, 1).reshape(-1, width))
    return _after_attention(block, hidden[rows, taken], attended)


def _after_attention(block: Any, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    between = hidden + block.ls_1(attended)
    result: torch.Tensor = between + block.ls_2(block.mlp(block.ln_2(between)))
    return result


def _biases(attention: Any, heads: int, width: int) -> torch.Tensor:
    """Biases of query, key and value, [3, H, 1, D / H]; zeros where there are none."""
    bias = attention.in_proj_bias
    if bias is None:
        bias = attention.in_proj_weight.new_zeros(3 * width)
    parts: torch.Tensor = bias.view(3, heads, 1, width // heads)
    return parts
