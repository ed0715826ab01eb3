"""Transformer layers for inference on a CPU, with their weights laid out once as oneDNN's matrix product wants them.

In 32 bits PyTorch multiplies with MKL, which uses about half of what other makers' processors can do: twice the speed
was measured on an AMD EPYC with AVX-512. Half precision goes through oneDNN anyway.
"""

from __future__ import annotations

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from trainer.model import ClipModel

# Rows for which the layout is chosen; other numbers give the same result.
_ROWS = 800


class PackedLinear(nn.Module):
    """`nn.Linear` without gradients, its `weight` in oneDNN's own layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return result


class PackedAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence to itself, as open_clip's blocks call it."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.inward = PackedLinear(attention.in_proj_weight, attention.in_proj_bias)
        self.outward = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """[N, L, D] to [N, L, D]; `key` and `value` are `query`. `attn_mask` [L, L] or [N·heads, L, L] is added."""
        count, length, width = query.shape
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.view(count, self.heads, length, length)
        parts = self.inward(query).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        taken = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask)
        return self.outward(taken.transpose(1, 2).reshape(count, length, width)), None


def pack_layers(model: ClipModel) -> None:
    """Pack the blocks of a model's transformers in place, where they are open_clip's plain ones in fp32.

    Features are the same up to rounding. The model then has no gradients and cannot be saved.
    """
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # a PyTorch without oneDNN
        return
    for block in model.modules():
        if type(block) is ResidualAttentionBlock and _is_plain(block):
            block.attn = PackedAttention(block.attn)
            for name in ("c_fc", "c_proj"):
                layer = getattr(block.mlp, name)
                setattr(block.mlp, name, PackedLinear(layer.weight, layer.bias))


def _is_plain(block: ResidualAttentionBlock) -> bool:
    attention = block.attn
    is_self = not hasattr(block, "ln_1_kv") and attention._qkv_same_embed_dim and attention.batch_first
    return bool(is_self and attention.bias_k is None and attention.in_proj_weight.dtype == torch.float32)
