"""A tower cut in two at the output of one block: what the first half gives, and the second half as a function.

Nothing in a model is replaced. A trunk of timm's, whose parts have no names in common, is cut by a forward hook; then
it is checked that the second half gives what the whole tower gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn

from filters.errors import ModelError

EMBEDDINGS = -1  # the layer before the first block


@dataclass(frozen=True, slots=True)
class Site:
    """Where a bottleneck sits, for P inputs of one side.

    `hidden` [P, T, D] is the block's output in the model's precision, 0 where an input has no token; of input p the
    first `counts[p]` of its T tokens count (int64 [P], on the CPU). `suffix` makes embeddings [P, S, E] of values
    [P, S, T, D] in its place. Of a picture's tokens the last `grid[0] * grid[1]` are its patches, row by row.
    """

    hidden: torch.Tensor
    counts: torch.Tensor
    suffix: Callable[[torch.Tensor], torch.Tensor]
    grid: tuple[int, int] | None = None


def blocks_of(tower: Any) -> Sequence[nn.Module]:
    """A tower's blocks in order, or the stages of a convolutional one; ModelError where they are not known."""
    if isinstance(tower, ModifiedResNet):
        return [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    found: Sequence[nn.Module] = ()
    if isinstance(tower, TimmModel):
        found = list(getattr(tower.trunk, "blocks", getattr(tower.trunk, "stages", ())))
    elif getattr(getattr(tower, "transformer", None), "batch_first", False):
        found = tower.transformer.resblocks
    if not found:
        kind = type(getattr(tower, "trunk", tower)).__name__
        raise ModelError(f"{kind}: its blocks are not where they can be found, so that it cannot be cut exactly")
    return found


def all_count(hidden: torch.Tensor) -> torch.Tensor:
    """The counts of a site whose tokens [P, T, D] all count."""
    return torch.full((hidden.shape[0],), hidden.shape[1])


def planes_site(planes: torch.Tensor, suffix: Callable[[torch.Tensor], torch.Tensor]) -> Site:
    """The site of a convolutional tower, [P, C, H, W]: its tokens are the H·W places, its width the C channels."""
    hidden = planes.flatten(2).transpose(1, 2)
    return Site(hidden, all_count(hidden), suffix, (planes.shape[2], planes.shape[3]))


def as_planes(tokens: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """[N, H·W, C] as [N, C, H, W], with the H and W of `planes`."""
    return tokens.transpose(1, 2).reshape(-1, *planes.shape[1:]).contiguous()


def hooked_site(visual: Any, images: torch.Tensor, layer: int) -> Site:
    """The site after block `layer` of a trunk of timm's, for images [P, 3, H, W].

    The second half is the whole tower over one picture, whatever it shows: what its block gives is put aside for the
    values, and only what comes after sees all of them. ModelError where that is not the same.
    """
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    whole = _swapped(visual, layer, images, keep)
    [planes] = kept

    def suffix(values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(0, 1)
        given = flat if planes.ndim == 3 else as_planes(flat, planes)
        return _swapped(visual, layer, images[:1], lambda _: given).view(*values.shape[:2], -1)

    if planes.ndim == 4:
        site = planes_site(planes, suffix)
    else:
        site = Site(planes, all_count(planes), suffix, _grid(visual.trunk, planes.shape[1]))
    again = suffix(site.hidden[:, None])[:, 0]
    if again.shape != whole.shape or not _same(again, whole):
        raise ModelError(f"{type(visual.trunk).__name__}: what follows block {layer} depends on more than its output")
    return site


def _swapped(
    visual: Any, layer: int, images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The tower's features of `images` with `change` applied to what its block `layer` gives."""
    block = blocks_of(visual)[max(layer, 0)]
    if layer == EMBEDDINGS:
        handle = block.register_forward_pre_hook(lambda _, inputs: (change(_tensor(inputs[0])), *inputs[1:]))
    else:
        handle = block.register_forward_hook(lambda _, __, output: change(_tensor(output)))
    try:
        features: torch.Tensor = visual(images)
    finally:
        handle.remove()
    return features


def _tensor(value: Any) -> torch.Tensor:
    if not (isinstance(value, torch.Tensor) and value.ndim in (3, 4)):
        raise ModelError("a block of the image tower gives neither tokens nor planes, so that it cannot be cut")
    return value


def _grid(trunk: Any, tokens: int) -> tuple[int, int]:
    """The grid of patches; the tokens before them are the trunk's own."""
    rows, columns = getattr(getattr(trunk, "patch_embed", None), "grid_size", None) or (0, 0)
    if not rows * columns or rows * columns != tokens - getattr(trunk, "num_prefix_tokens", 0):
        raise ModelError(f"{type(trunk).__name__}: {tokens} tokens are no known grid of patches")
    return rows, columns


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal up to rounding of their precision."""
    loose = 50 * torch.finfo(theirs.dtype).eps ** 0.75
    return bool((ours - theirs).norm() <= loose * theirs.norm())
