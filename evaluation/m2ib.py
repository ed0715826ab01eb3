"""M2IB: which parts of a picture, and which tokens of its text, a CLIP model's match rests on.

Wang, Rudner and Wilson, "Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
Attribution" (NeurIPS 2023). After one block of a tower a bottleneck mixes each number x of its output with noise,
z = λ·x + (1 − λ)·ε with λ = sigmoid(α) and ε ~ N(0, 1), and α is found by Adam so that little information passes,
KL(N(λ·x, (1 − λ)²) || N(0, 1)), and the embedding still matches the other side's. What has to pass is what matters.

What comes before the bottleneck, and the other side, is computed once; pairs are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

from evaluation.frozen import frozen
from evaluation.m2ib_towers import Side, check_layer, image_site, text_site
from evaluation.sites import Site
from filters.errors import ConfigError, InputError, ModelError
from trainer.model import ClipModel
from trainer.packed import PackedLinear
from trainer.texts import encode_cut, length_chunks, text_lengths

INITIAL_ALPHA = 5.0
# Tokens of all samples of the pairs in one pass. Larger passes are no faster and hold more.
MOST_TOKENS = 8192
# Positions of pairs, and their capacity, alpha and losses.
_Found: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Attribution:
    """What was found for P pairs, on the model's device, in float32 (float64 if the model is).

    `map` in 0 to 1: [P, h, w] of pictures, [P, L] of texts, 0 after a text's end. `capacity` [P, T, D] is the KL in
    nats of each token and channel in the last forward pass, `alpha` [P, T, D] after the last step; both 0 after a
    text's own end. `losses` [P, steps, 3]: compression (nats, the mean over tokens and channels), fit (mean cosine),
    and beta · compression − fit. T counts all tokens that the tower sees after the block (class token included), or
    the places of a convolutional one, row by row.
    """

    map: torch.Tensor
    capacity: torch.Tensor
    alpha: torch.Tensor
    losses: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Search:
    """How α is searched for."""

    beta: float
    steps: int
    samples: int
    lr: float


def attribute(
    model: ClipModel,
    images: torch.Tensor,
    tokens: torch.Tensor,
    *,
    side: Side,
    layer: int | None = None,
    beta: float = 0.1,
    steps: int = 10,
    samples: int = 10,
    lr: float = 1.0,
    noise: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    size: int | tuple[int, int] | None = None,
) -> Attribution:
    """Attribute the match of P pairs to the patches of their pictures or to the tokens of their texts.

    `images` [P, 3, H, W] are preprocessed, `tokens` int64 [P, L] as the model's tokenizer gives them. `layer` is the
    block after which the bottleneck sits, from 0 (for a ResNet the stage, 0 is layer1; -1 stands for what enters the
    first block); None is ceil(blocks · 5 / 6) − 1, 9 of 12 and a ResNet's layer4. In a tower of five blocks or fewer
    that is the last, after which a class or end token decides alone: give a lower one there. `beta` weighs
    compression against fit; `samples` copies of a pair with noise of their own make a step. `size` of the maps of
    pictures is the input's unless given.

    Noise is `noise` [steps, P, samples, T, D], or drawn: at each step a pair of n tokens takes `torch.randn(samples,
    n, D)` in float32 from a copy of `generator` (torch's own if None) as it was at the call. So a pair's noise
    depends on the generator and on n, and not on the pairs beside it; pairs of the same n share theirs. Afterwards
    the generator is where the pair with most tokens left it.

    The model is left as it was, also after an exception. InputError, ConfigError or ModelError in one line for pairs
    or options that make no sense, and for towers that cannot be cut exactly at a block.
    """
    _check_pairs(images, tokens)
    search = _Search(beta, steps, samples, lr)
    _check_search(search, side)
    shape = _map_size(size, images)
    images, tokens = _on_device(model, images, tokens)
    with frozen(model):
        layer = check_layer(model, side, layer)
        source = _Noise(noise, generator, search, len(images))
        found, grid = _search_all(_groups(model, images, tokens, side, layer, samples), source, search)
    capacity, alpha, losses = _gathered(found)
    bad = ~(torch.isfinite(capacity).flatten(1).all(1) & torch.isfinite(losses).flatten(1).all(1))
    if bad.any():
        raise ModelError(
            f"the attribution of pair {int(bad.int().argmax())} is not finite ({int(bad.sum())} of {len(bad)}); "
            "try the model in fp32, or check its weights"
        )
    if side == "image":
        shown = _image_map(capacity.sum(-1), grid, shape)
    else:
        shown = _text_map(capacity.sum(-1), torch.from_numpy(text_lengths(model, tokens)), tokens.shape[1])
    return Attribution(shown, capacity, alpha, losses)


def _on_device(model: ClipModel, images: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs where the model is and as its image tower takes them; ModelError for a model without gradients."""
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise ModelError("the model is packed for inference and has no gradients; load it anew")
    device, dtype = next(model.parameters()).device, next(model.visual.parameters()).dtype
    # Tensors made in inference mode can take no part in what has gradients.
    images = images.detach().to(device, dtype, copy=images.is_inference())
    return images, tokens.to(device, copy=tokens.is_inference())


def _search_all(
    groups: Iterable[tuple[torch.Tensor, Site, torch.Tensor]], source: _Noise, search: _Search
) -> tuple[list[_Found], tuple[int, int]]:
    """What is found for each group of pairs, and the grid of their tokens, (1, 1) where there is none."""
    found, grid = [], None
    for group, site, target in groups:
        found.append((group, *_descend(site, target, source.of(group, site), search)))
        grid = site.grid
    source.finish()
    return found, grid or (1, 1)


def _groups(
    model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, side: Side, layer: int, samples: int
) -> Iterator[tuple[torch.Tensor, Site, torch.Tensor]]:
    """Positions of pairs (int64 [p]) that share a pass, where their bottleneck sits, and what to match [p, E].

    Texts of similar length are together.
    """
    lengths = text_lengths(model, tokens)
    if side == "text":
        sizes = lengths
    else:
        alone = image_site(model, images[:1], layer) if len(images) > 1 else None
        sizes = np.full(len(images), alone.hidden.shape[1] if alone else 1)
    for chunk in length_chunks(sizes, MOST_TOKENS // samples):
        group = torch.from_numpy(chunk)
        part_images, part_tokens = images[group], tokens[group]
        with torch.no_grad():
            if side == "text":
                site, target = text_site(model, part_tokens, layer), model.encode_image(part_images)
            else:
                site = image_site(model, part_images, layer)
                target = encode_cut(model, part_tokens, int(lengths[chunk].max()))
        yield group, site, target


def _descend(
    site: Site, target: torch.Tensor, draw: Callable[[int], torch.Tensor], search: _Search
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Capacity, alpha and losses of pairs whose bottleneck is at `site`; `target` [p, E] is the other side.

    The losses are summed over pairs and Adam works number by number, so that each pair goes its own way.
    """
    precision = torch.promote_types(site.hidden.dtype, torch.float32)
    x, target = site.hidden.to(precision), target.to(precision)[:, None]
    there = (torch.arange(x.shape[1]) < site.counts[:, None])[..., None].to(x)
    share = 1 / (site.counts.to(x) * x.shape[2])
    alpha = torch.full_like(x, INITIAL_ALPHA).requires_grad_()
    adam, losses = torch.optim.Adam([alpha], lr=search.lr), []
    for step in range(search.steps):
        kept, lost = alpha.sigmoid(), (-alpha).sigmoid()  # 1 - sigmoid would lose what is left of it near 1
        mean = kept * x
        capacity = there * ((mean.square() + lost.square() - 1) / 2 - functional.logsigmoid(-alpha))
        compression = share * capacity.sum((1, 2))
        values = torch.addcmul(mean[:, None], lost[:, None], draw(step).to(x))
        features = site.suffix(values.to(site.hidden.dtype)).to(precision)
        fit = functional.cosine_similarity(features, target, dim=-1, eps=1e-6).mean(1)
        total = search.beta * compression - fit
        [alpha.grad] = torch.autograd.grad(total.sum(), [alpha])
        adam.step()
        losses.append(torch.stack([compression, fit, total], dim=-1).detach())
    return capacity.detach(), alpha.detach() * there, torch.stack(losses, dim=1)


class _Noise:
    """Noise for groups of pairs: parts of what is given, or drawn by the rule that `attribute` states."""

    def __init__(
        self, given: torch.Tensor | None, generator: torch.Generator | None, search: _Search, pairs: int
    ) -> None:
        if given is not None and (given.ndim != 5 or given.shape[:3] != (search.steps, pairs, search.samples)):
            wanted = f"[{search.steps}, {pairs}, {search.samples}, T, D]"
            raise InputError(f"noise is {list(given.shape)}; it must be [steps, pairs, samples, T, D], here {wanted}")
        self._given, self._samples = given, search.samples
        self._generator = torch.default_generator if generator is None else generator
        self._state = self._generator.get_state()
        self._longest = (0, self._generator)

    def of(self, group: torch.Tensor, site: Site) -> Callable[[int], torch.Tensor]:
        """A function of the step, to be called for each in turn: [p, S, T, D], or [1, S, T, D] for all alike."""
        length, width = site.hidden.shape[1:]
        if self._given is not None:
            given = self._given
            if given.shape[3] < length or given.shape[4] != width:
                raise InputError(f"noise is {list(given.shape)}; these pairs have T = {length} tokens of D = {width}")
            return lambda step: given[step, group.to(given.device), :, :length]
        copies = {count: self._copy() for count in set(site.counts.tolist())}
        self._longest = max(self._longest, *copies.items(), key=lambda item: item[0])

        def draw(_step: int) -> torch.Tensor:
            drawn = {count: self._draw(copy, count, width) for count, copy in copies.items()}
            if len(drawn) == 1:
                return next(iter(drawn.values()))[None]
            padded = {n: functional.pad(value, (0, 0, 0, length - n)) for n, value in drawn.items()}
            return torch.stack([padded[int(count)] for count in site.counts])

        return draw

    def finish(self) -> None:
        """Leave the generator where the pair with most tokens did."""
        if self._given is None:
            self._generator.set_state(self._longest[1].get_state())

    def _copy(self) -> torch.Generator:
        copy = torch.Generator(self._generator.device)
        copy.set_state(self._state)
        return copy

    def _draw(self, copy: torch.Generator, count: int, width: int) -> torch.Tensor:
        return torch.randn(self._samples, count, width, generator=copy, device=copy.device)


def _gathered(found: list[_Found]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Capacity, alpha and losses of all groups in the order of the pairs, shorter texts filled up with zeros."""
    longest = max(capacity.shape[1] for _, capacity, _, _ in found)
    back = torch.cat([group for group, *_ in found]).argsort()

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts)[back.to(parts[0].device)]

    def filled(parts: list[torch.Tensor]) -> torch.Tensor:
        return joined([functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

    _, capacity, alpha, losses = zip(*found, strict=True)
    return filled(list(capacity)), filled(list(alpha)), joined(list(losses))


def _image_map(scores: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Maps [P, h, w] in 0 to 1 of scores [P, T], whose last tokens are the grid."""
    patches = scores[:, -grid[0] * grid[1] :].reshape(-1, 1, *grid)
    large = functional.interpolate(patches, size, mode="bilinear", align_corners=False)
    return unit_range(large.flatten(1)).view(-1, *size)


def _text_map(scores: torch.Tensor, counts: torch.Tensor, length: int) -> torch.Tensor:
    """Maps [P, length] in 0 to 1 of scores [P, T]; the lowest and highest are sought up to each text's end."""
    fitted = functional.pad(scores, (0, max(0, length - scores.shape[1])))[:, :length]
    return unit_range(fitted, (torch.arange(length) < counts[:, None]).to(scores.device))


def unit_range(values: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
    """`values` [P, N], floats, in 0 to 1 row by row: the lowest becomes 0, the highest 1.

    Only those `there` [P, N] count, and others become 0. A row of equal values becomes zeros.
    """
    there = torch.ones_like(values, dtype=torch.bool) if there is None else there
    low = values.masked_fill(~there, math.inf).amin(1, keepdim=True)
    high = values.masked_fill(~there, -math.inf).amax(1, keepdim=True)
    # Interpolation rounds: what differs by no more than that is equal.
    equal = high - low <= 8 * torch.finfo(values.dtype).eps * torch.maximum(low.abs(), high.abs())
    return torch.where(there & ~equal, (values - low) / (high - low), 0)


def _check_pairs(images: torch.Tensor, tokens: torch.Tensor) -> None:
    if images.ndim != 4 or tokens.ndim != 2 or len(images) != len(tokens) or len(images) == 0:
        shapes = f"images {list(images.shape)} and tokens {list(tokens.shape)}"
        raise InputError(f"{shapes} are no pairs; give [P, 3, H, W] and [P, L] of the same P, at least 1")
    if tokens.dtype != torch.int64:
        raise InputError(f"tokens are {tokens.dtype}; give int64, as the model's tokenizer does")
    bad = (~torch.isfinite(images).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"image {bad[0]} holds NaN or infinity ({len(bad)} of {len(images)} do)")


def _check_search(search: _Search, side: str) -> None:
    if side not in ("image", "text"):
        raise ConfigError(f"side {side!r} is not known; it is 'image' or 'text'")
    if search.steps < 1 or search.samples < 1:
        raise ConfigError(f"steps {search.steps} and samples {search.samples} must both be at least 1")
    if not (0 <= search.beta < math.inf and 0 < search.lr < math.inf):
        raise ConfigError(f"beta {search.beta} must be 0 or more, and lr {search.lr} more than 0")


def _map_size(size: int | tuple[int, int] | None, images: torch.Tensor) -> tuple[int, int]:
    if size is None:
        return images.shape[2], images.shape[3]
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ConfigError(f"size {size}: a map has at least 1 x 1 pixels")
    return height, width
