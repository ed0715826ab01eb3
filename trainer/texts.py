"""Text towers over captions cut where they end: a caption of 15 tokens need not cost 77."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from trainer.model import ClipModel, can_truncate, pool_type, text_tower


def text_lengths(model: ClipModel, tokens: torch.Tensor) -> npt.NDArray[np.int64]:
    """How many of each text's tokens (int64 [N, context_length]) the model has to see, int64 [N].

    Where `can_truncate(model)` holds: those up to the one whose feature it takes. Elsewhere all.
    """
    if not can_truncate(model):
        return np.full(len(tokens), tokens.shape[1], np.int64)
    lengths: npt.NDArray[np.int64] = (pooled_places(model, tokens) + 1).cpu().numpy()
    return lengths


def length_chunks(lengths: npt.NDArray[np.int64], max_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of the texts in chunks of similar length, each text in one chunk, shortest first.

    A chunk padded to its longest text has at most `max_tokens` tokens (one text alone may have more). What is padded
    is the difference to the longest text of a chunk, instead of to the longest of all.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
            yield order[start:end]
            start = end


def training_chunks(
    lengths: npt.NDArray[np.int64], context: int, *, most_tokens: int, multiple: int, overhead: int
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Positions of the texts in chunks, each text in one, and the length to which each chunk is padded.

    The chunks are those that together cost least, if one costs its padded tokens and `overhead` more; they are then
    cut where one has more than `most_tokens`. Lengths are rounded up to a `multiple`, at most `context`: a compiled
    layer sees few of them.
    """
    padded = np.minimum(-(-lengths // multiple) * multiple, context)
    order = np.argsort(padded, kind="stable")
    values, counts = np.unique(padded, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    best, cuts = np.zeros(len(ends), np.int64), [0]
    for end in range(1, len(ends)):
        costs = best[:end] + overhead + values[end - 1] * (ends[end] - ends[:end])
        cuts.append(int(costs.argmin()))
        best[end] = costs[cuts[-1]]
    end, found = len(values), []
    while end:
        found.append((order[ends[cuts[end]] : ends[end]], int(values[end - 1])))
        end = cuts[end]
    for rows, length in reversed(found):
        parts = -(-len(rows) // max(1, most_tokens // length))
        yield from ((part, length) for part in np.array_split(rows, parts))


def encode_cut(model: ClipModel, tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Text features [N, embed_dim], not normalised, of tokens int64 [N, context_length] from their first `length`.

    The same as `model.encode_text(tokens)` up to rounding, if no text needs more (see `text_lengths`).
    """
    features: torch.Tensor
    if length == tokens.shape[1]:
        features = model.encode_text(tokens)
        return features
    tower = text_tower(model)
    dtype = tower.transformer.get_cast_dtype()
    hidden = tower.token_embedding(tokens[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
    # The norm is one of each position alone: only the one that is taken needs it.
    features = tower.ln_final(hidden[torch.arange(len(tokens), device=tokens.device), pooled_places(model, tokens)])
    if isinstance(tower.text_projection, torch.nn.Linear):
        features = tower.text_projection(features)
    elif tower.text_projection is not None:
        features = features @ tower.text_projection
    return features


def pooled_places(model: ClipModel, tokens: torch.Tensor) -> torch.Tensor:
    """The position whose feature the model takes, int64 [N]: the first of the highest token, or of its own EOS."""
    tower = text_tower(model)
    if pool_type(tower) == "argmax":
        return tokens.argmax(dim=-1)
    end: int = tower.text_eos_id if tower is model else tower.eos_id
    return (tokens == end).int().argmax(dim=-1)
