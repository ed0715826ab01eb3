"""open_clip's layers as they train fastest: the same weights and features, without detours.

Its attention copies a layer's input and its queries, keys and values to turn their axes, and hides from the kernels
that a mask is causal; its last layer gives all positions though one is taken. Up to rounding nothing changes.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class PlainBlock(ResidualAttentionBlock):  # type: ignore[misc]
    """A residual attention block of a sequence to itself."""

    def forward(
        self,
        q_x: torch.Tensor,
        k_x: torch.Tensor | None = None,
        v_x: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
        causal: bool = False,
        first: bool = False,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[N, L, W] to the same; `k_x` and `v_x` are None. `attn_mask` [L, L] is added; `causal` stands for one.

        With `first`, or `places` [N] that see none later, only what is at those positions, [N, W].
        """
        if first or places is not None:
            return self._at(q_x, places)
        attention = self.attn
        inward = functional.linear(self.ln_1(q_x), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = _heads(inward, 3, attention.num_heads)
        taken = _attend(query, key, value, attn_mask, causal=causal)
        hidden = q_x + self.ls_1(attention.out_proj(taken.transpose(1, 2).reshape(q_x.shape)))
        return self._after_attention(hidden)

    def _at(self, hidden: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        attention, normed = self.attn, self.ln_1(hidden)
        count, length, width = hidden.shape
        if places is None:
            own, normed_own, mask = hidden[:, 0], normed[:, 0], None
        else:
            rows = torch.arange(count, device=hidden.device)
            own, normed_own = hidden[rows, places], normed[rows, places]
            mask = (torch.arange(length, device=hidden.device) <= places[:, None])[:, None, None]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        (query,) = _heads(
            functional.linear(normed_own, weight[:width], bias[:width])[:, None], 1, attention.num_heads
        )
        key, value = _heads(functional.linear(normed, weight[width:], bias[width:]), 2, attention.num_heads)
        taken = _attend(query, key, value, mask)
        return self._after_attention(own + self.ls_1(attention.out_proj(taken.reshape(count, width))))

    def _after_attention(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = hidden + self.ls_2(self.mlp(self.ln_2(hidden)))
        return result


class PlainPatches(nn.Conv2d):
    """A convolution of patches that do not overlap: one product of matrices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, D, H / P, W / P]."""
        (high, wide), (count, channels, *_) = self.kernel_size, x.shape
        rows, columns = x.shape[2] // high, x.shape[3] // wide
        whole = x[:, :, : rows * high, : columns * wide]
        patches = whole.reshape(count, channels, rows, high, columns, wide).permute(0, 2, 4, 1, 3, 5)
        hidden = functional.linear(patches.reshape(count, rows * columns, -1), self.weight.flatten(1), self.bias)
        return hidden.transpose(1, 2).view(count, -1, rows, columns)


class PlainPool(AttentionPool2d):  # type: ignore[misc]
    """The ResNets' attention pooling, of which only the mean position's query is taken."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, D]."""
        hidden = x.flatten(2).transpose(1, 2)
        hidden = torch.cat([hidden.mean(dim=1, keepdim=True), hidden], dim=1)
        hidden = hidden + self.positional_embedding.to(hidden.dtype)
        (query,) = _heads(self.q_proj(hidden[:, :1]), 1, self.num_heads)
        (key,) = _heads(self.k_proj(hidden), 1, self.num_heads)
        (value,) = _heads(self.v_proj(hidden), 1, self.num_heads)
        taken = _attend(query, key, value)
        result: torch.Tensor = self.c_proj(taken.reshape(len(x), -1))
        return result


def use_plain_layers(model: nn.Module) -> None:
    """Make open_clip's own layers of `model`, in place, those of this module; others stay as they are."""
    for module in model.modules():
        if type(module) is ResidualAttentionBlock and _attends_to_itself(module):
            module.__class__ = PlainBlock
        elif type(module) is VisionTransformer:
            module.conv1.__class__ = PlainPatches
        elif type(module) is AttentionPool2d:
            module.__class__ = PlainPool


def runs_plain(transformer: Any) -> bool:
    """Whether a transformer consists of this module's blocks."""
    return type(transformer) is Transformer and all(isinstance(block, PlainBlock) for block in transformer.resblocks)


def run_to(transformer: Transformer, hidden: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """[N, L, W] to what the transformer gives at one position of each sequence, [N, W].

    With `places` [N] it is causal and gives those, without them it sees everything and gives the first.
    """
    causal = places is not None
    for block in transformer.resblocks[:-1]:
        if transformer.grad_checkpointing:
            hidden = checkpoint(block, hidden, causal=causal, use_reentrant=False)
        else:
            hidden = block(hidden, causal=causal)
    features: torch.Tensor = transformer.resblocks[-1](hidden, first=not causal, places=places)
    return features


def _attends_to_itself(block: ResidualAttentionBlock) -> bool:
    attention = block.attn
    is_self = not hasattr(block, "ln_1_kv") and attention._qkv_same_embed_dim and attention.batch_first
    return bool(is_self and attention.bias_k is None and attention.in_proj_bias is not None and not attention.dropout)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of [N, heads, L, D] under a mask that is true where it may look, or is added."""
    dtype, lift = query.dtype, query.device.type == "cpu" and query.dtype == torch.bfloat16
    if lift:  # on a CPU the backward pass in half precision takes 4 times that in full
        query, key, value = query.float(), key.float(), value.float()
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    with torch.autocast("cpu", enabled=False) if lift else nullcontext():
        taken = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    return taken.to(dtype)


def _heads(hidden: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """[N, L, parts · W] to `parts` of [N, heads, L, W / heads]."""
    count, length, width = hidden.shape
    return hidden.view(count, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)
