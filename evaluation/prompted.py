"""Text features of many prompts as a function of the embeddings of their common context.

In a causal tower the positions up to the end of the context are the same for every class: they go through the
tower once, and of each class only its own tokens up to the end-of-text token do, without padding. Other towers of
open_clip get every text whole, cut after the longest where that is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn
from torch.nn import functional

from filters.errors import InputError, ModelError
from trainer.model import ClipModel, can_truncate, text_tower
from trainer.packed import PackedLinear
from trainer.texts import encode_cut, text_lengths

Indices = npt.NDArray[np.int64]


class Prompted(Protocol):
    """K prompts in a text tower: `context` [n, D] as tokenised, `costs` [K] the tokens that a class adds to a pass.

    `encode` gives features [B, k, E], not normalised, of the classes at the positions `classes` [k] under each of the
    contexts [B, n, D]; it can be differentiated with respect to these, for many derivatives of its result at once
    where it is `batched`.
    """

    context: torch.Tensor
    costs: Indices
    batched: bool

    def encode(self, contexts: torch.Tensor, classes: Indices) -> torch.Tensor: ...


def prompted(twin: ClipModel, tokens: torch.Tensor, context: range) -> Prompted:
    """The prompts `tokens` int64 [K, L], whose context stands at `context`, in the text tower of a `frozen_twin`.

    ModelError for a tower into which embeddings cannot be put, InputError for tokens that are not such prompts.
    """
    tower: ClipModel = twin if hasattr(twin, "token_embedding") else getattr(twin, "text", None)
    if not isinstance(getattr(tower, "token_embedding", None), nn.Embedding):
        raise ModelError(
            f"the text tower {type(tower).__name__} has no token embedding of open_clip's to put a context into; "
            "prompts can be tuned in open_clip's own text towers only"
        )
    if any(isinstance(part, PackedLinear) for part in tower.modules()):
        raise ModelError("the text tower is packed for inference and gives no gradients; load the model again")
    _check_tokens(twin, tower, tokens, context)
    if can_truncate(twin) and all(map(_is_plain, tower.transformer.resblocks)) and _sees_all_before(tower):
        return SharedPrefix(twin, tokens, context)
    return WholeTexts(twin, tokens, context)


class WholeTexts:
    """Each text as the tower takes it, with the context's embeddings in their place."""

    batched = False  # torch's own attention has no rule for it

    def __init__(self, twin: ClipModel, tokens: torch.Tensor, context: range) -> None:
        self._twin, self._tokens, self.costs = twin, tokens, text_lengths(twin, tokens)
        tower = text_tower(twin)
        self._given = tower.token_embedding = _GivenContext(tower.token_embedding, context)
        self.context = self._given.plain(tokens[0, context.start : context.stop])

    def encode(self, contexts: torch.Tensor, classes: Indices) -> torch.Tensor:
        """[B, k, E] of contexts [B, n, D] and class positions [k]."""
        self._given.contexts = contexts
        texts = self._tokens[torch.from_numpy(classes).to(self._tokens.device)].repeat(len(contexts), 1)
        features = encode_cut(self._twin, texts, int(self.costs[classes].max()))
        return features.view(len(contexts), len(classes), -1)


class _GivenContext(nn.Module):
    """A token embedding that puts `contexts` [B, n, D] in place of the tokens at some positions."""

    def __init__(self, plain: nn.Embedding, positions: range) -> None:
        super().__init__()
        self.plain, self.positions = plain, positions
        self.contexts = torch.empty(0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [B·k, L], the texts of one context side by side, to [B·k, L, D]."""
        found = self.plain(tokens)
        given = self.contexts.repeat_interleave(len(tokens) // len(self.contexts), dim=0).to(found.dtype)
        return torch.cat([found[:, : self.positions.start], given, found[:, self.positions.stop :]], dim=1)


@dataclass(frozen=True, slots=True)
class _Part:
    """The own tokens of some classes one after the other, those of one length side by side: T tokens of k classes.

    `hidden` [T, D] are their embeddings with their positions', `groups` how many classes have which length,
    `ends` [k] where each class ends, and `back` [k] the place of each class of the caller's among these.
    """

    hidden: torch.Tensor
    groups: list[tuple[int, int]]
    ends: torch.Tensor
    back: torch.Tensor


class SharedPrefix:
    """A causal tower in which the classes share what stands before their own tokens.

    Keys and values of the shared positions are computed once a context; softmax runs over both kinds of keys.
    """

    batched = True

    def __init__(self, twin: ClipModel, tokens: torch.Tensor, context: range) -> None:
        self._tower, self._context = text_tower(twin), context
        self._blocks = list(self._tower.transformer.resblocks)
        self._places = self._tower.positional_embedding
        self._tokens, self._own = tokens, text_lengths(twin, tokens) - context.stop
        self.costs = self._own
        self._before = self._tower.token_embedding(tokens[0, : context.start])
        self.context = self._tower.token_embedding(tokens[0, context.start : context.stop])

    def encode(self, contexts: torch.Tensor, classes: Indices) -> torch.Tensor:
        """[B, k, E] of contexts [B, n, D] and class positions [k]."""
        part = self._part(classes)
        before = self._before.expand(len(contexts), -1, -1)
        prefix = torch.cat([before, contexts.to(before.dtype)], dim=1) + self._places[: self._context.stop]
        own = part.hidden.unsqueeze(0)  # the same under every context as far as the first layer's keys and values
        for block in self._blocks[:-1]:
            shared, mine = _heads(block, prefix), _heads(block, own)
            prefix = _after(block, prefix, _attend(shared, shared, None, causal=True))
            own = _after(block, own, _by_length(mine, shared, part.groups))
        return self._last(self._blocks[-1], prefix, own, part)

    def _last(
        self, block: ResidualAttentionBlock, prefix: torch.Tensor, own: torch.Tensor, part: _Part
    ) -> torch.Tensor:
        """Of the last layer only the ends are taken, so that the others give keys and values alone."""
        found = _by_length(_heads(block, own), _heads(block, prefix), part.groups, only_ends=True)
        ends = self._tower.ln_final(_after(block, own[:, part.ends], found))[:, part.back]
        projection = self._tower.text_projection
        if isinstance(projection, nn.Linear):
            return _tensor(projection(ends))
        return ends if projection is None else _tensor(ends @ projection)

    def _part(self, classes: Indices) -> _Part:
        lengths = self._own[classes]
        order = np.argsort(lengths, kind="stable")
        values, counts = np.unique(lengths, return_counts=True)
        start, device = self._context.stop, self._tokens.device
        rows = self._tokens[torch.from_numpy(classes[order]).to(device)]
        hidden = [
            (self._tower.token_embedding(group[:, start : start + length]) + self._places[start : start + length])
            for group, length in zip(torch.split(rows, counts.tolist()), values.tolist(), strict=True)
        ]
        ends = torch.from_numpy(np.cumsum(lengths[order]) - 1).to(device)
        back = torch.from_numpy(np.argsort(order, kind="stable")).to(device)
        groups = list(zip(counts.tolist(), values.tolist(), strict=True))
        return _Part(torch.cat([each.flatten(0, 1) for each in hidden]), groups, ends, back)


def _heads(block: ResidualAttentionBlock, hidden: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values of [B, T, D]: [B, T, 3, heads, D / heads]."""
    attention = block.attn
    found = functional.linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
    return found.view(*hidden.shape[:2], 3, attention.num_heads, -1)


def _after(block: ResidualAttentionBlock, hidden: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """What a layer gives for its input [B, T, D] and what attention took for it, [B, T, heads, D / heads]."""
    hidden = hidden + block.ls_1(block.attn.out_proj(taken.flatten(-2)))
    return _tensor(hidden + block.ls_2(block.mlp(block.ln_2(hidden))))


def _by_length(
    mine: torch.Tensor, shared: torch.Tensor, groups: list[tuple[int, int]], *, only_ends: bool = False
) -> torch.Tensor:
    """What each own token takes of the shared ones and of its class's up to itself: [B, T, heads, d].

    `mine` [B or 1, T, 3, heads, d]; with `only_ends` it is of the last token of each class, [B, k, heads, d].
    """
    found = []
    mine = mine.expand(len(shared), *mine.shape[1:])
    parts = torch.split(mine, [count * length for count, length in groups], dim=1)
    for part, (count, length) in zip(parts, groups, strict=True):
        texts = part.reshape(len(part), count, length, *part.shape[2:])
        asking = texts[:, :, -1:] if only_ends else texts
        found.append(_attend(asking, texts, shared, causal=not only_ends).flatten(1, 2))
    return torch.cat(found, dim=1)


def _attend(asking: torch.Tensor, own: torch.Tensor, shared: torch.Tensor | None, *, causal: bool) -> torch.Tensor:
    """Attention of queries [..., m, h, d] to own keys [..., l, h, d] and shared ones [B, P, h, d]: [..., m, h, d].

    All three hold queries, keys and values at dimension -3. A product of matrices for each kind of keys, so that
    the shared ones need not be copied for each class.
    """
    query = asking.select(-3, 0) * asking.shape[-1] ** -0.5
    key, value = own.select(-3, 1), own.select(-3, 2)
    scores = torch.einsum("...mhd,...lhd->...hml", query, key)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if shared is None:
        return torch.einsum("...hml,...lhd->...mhd", _softmax(scores), value)
    keys, values = shared.select(-3, 1), shared.select(-3, 2)
    scores = torch.cat([torch.einsum("bkmhd,bphd->bkhmp", query, keys), scores], dim=-1)
    of_shared, of_own = torch.split(_softmax(scores), [keys.shape[1], key.shape[-3]], dim=-1)
    taken = torch.einsum("bkhml,bklhd->bkmhd", of_own, value)
    return taken + torch.einsum("bkhmp,bphd->bkmhd", of_shared, values)


def _tensor(found: torch.Tensor) -> torch.Tensor:
    """A result of open_clip's modules, which have no types."""
    return found


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=wide).to(scores.dtype)


def _is_plain(block: nn.Module) -> bool:
    """Whether a block is open_clip's usual one, whose parts `SharedPrefix` calls one by one."""
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and type(attention) is nn.MultiheadAttention
        and not hasattr(block, "ln_1_kv")
        and bool(attention._qkv_same_embed_dim)
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def _sees_all_before(tower: ClipModel) -> bool:
    return bool((tower.attn_mask.tril() == 0).all())


def _check_tokens(twin: ClipModel, tower: ClipModel, tokens: torch.Tensor, context: range) -> None:
    """InputError for tokens [K, L] that the tower does not read, or whose context is not where it is said to be."""
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise InputError(f"class tokens are {tokens.dtype} {list(tokens.shape)}; expected int64 [classes, length]")
    reads, length = int(tower.context_length), tokens.shape[1]
    if length > reads or (length < reads and not can_truncate(twin)):
        raise InputError(f"class tokens have {length} columns, but the model reads {reads}; use its own tokenizer")
    if len(tokens) < 2:
        raise InputError(f"{len(tokens)} class: a prompt can be tuned for two or more classes only")
    if tokens.min() < 0 or tokens.max() >= tower.token_embedding.num_embeddings:
        raise InputError(
            f"class tokens reach from {int(tokens.min())} to {int(tokens.max())}, but the model knows "
            f"{tower.token_embedding.num_embeddings} tokens; use its own tokenizer"
        )
    if context.step != 1 or not 0 <= context.start < context.stop <= length:
        raise InputError(f"a context at positions {context} is not within the {length} columns of the class tokens")
    other = (tokens[:, : context.stop] != tokens[0, : context.stop]).any(dim=0)
    if other.any():
        column = int(other.int().argmax())
        raise InputError(
            f"column {column} of the class tokens is not the same for all classes, but the context is said to end "
            f"at column {context.stop - 1}; if the tokenizer gives no start-of-text token, pass a range of positions"
        )
    short = text_lengths(twin, tokens) <= context.stop
    if short.any():
        raise InputError(f"class {int(short.argmax())}: its prompt ends within the context; it needs a name after it")
