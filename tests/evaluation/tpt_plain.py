"""Test-time prompt tuning as its description says it, one picture at a time in float64, for any tower.

The context gets into the text tower by another way than in `evaluation.tpt`: as rows of the embedding table, which
works where no class name holds one of the context's tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from torch.func import functional_call
from torch.nn import functional

from evaluation.tpt import Tuned
from trainer.model import ClipModel

LENGTH, VOCABULARY, SIDE, DIM = 16, 120, 32, 24
SOT, EOT = VOCABULARY - 2, VOCABULARY - 1
CONTEXT = (3, 4, 5, 6)
IDS = torch.tensor(CONTEXT)
FIELDS = [field.name for field in dataclasses.fields(Tuned)]
VISION = {"layers": 1, "width": 32, "image_size": SIDE, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": LENGTH, "width": 32, "heads": 2, "layers": 2, "vocab_size": VOCABULARY}
RESNET = {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}


@dataclass(frozen=True)
class Plain:
    """What tuning found for one picture."""

    logits: torch.Tensor
    zero_shot_logits: torch.Tensor
    selected: torch.Tensor
    context: torch.Tensor
    losses: torch.Tensor
    gradients: torch.Tensor


class _Texts(torch.nn.Module):
    """`encode_text` as a module's `forward`, so that a weight of the model can be a function of something."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model.encode_text(tokens)
        return found


def text_features(model: ClipModel, tokens: torch.Tensor, context: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Unit features [K, E] of tokens [K, L] whose context is tokens `ids` [n], with `context` [n, D] for them."""
    name = "model.token_embedding.weight" if isinstance(model, CLIP) else "model.text.token_embedding.weight"
    table = dict(_Texts(model).named_parameters())[name].detach().index_put((ids,), context)
    return functional.normalize(functional_call(_Texts(model), {name: table}, (tokens,)), dim=-1)


def tune_one(
    model: ClipModel,
    views: torch.Tensor,
    tokens: torch.Tensor,
    ids: torch.Tensor,
    *,
    keep: float = 0.1,
    steps: int = 1,
    lr: float = 5e-3,
    weight_decay: float = 0.01,
) -> Plain:
    """Views [V, 3, H, W] of one picture; AdamW is written out."""
    table = (model if isinstance(model, CLIP) else model.text).token_embedding.weight
    context = table.detach()[ids].clone()
    first, second = torch.zeros_like(context), torch.zeros_like(context)
    scale = model.logit_scale.detach().exp()
    with torch.no_grad():
        images = functional.normalize(model.encode_image(views), dim=-1)
        zero_shot = scale * images @ text_features(model, tokens, context, ids).T
    chances = zero_shot.softmax(dim=-1)
    selected = (-(chances * chances.log()).sum(dim=-1)).argsort()[: int(len(views) * keep)]
    losses, gradients = [], []
    for step in range(1, steps + 1):
        leaf = context.clone().requires_grad_()
        logits = scale * images[selected] @ text_features(model, tokens, leaf, ids).T
        mean = logits.softmax(dim=-1).mean(dim=0)
        loss = -(mean * mean.log()).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = (second / (1 - 0.999**step)).sqrt() + 1e-8
        context = context * (1 - lr * weight_decay) - lr * (first / (1 - 0.9**step)) / size
        losses.append(loss.detach())
        gradients.append(gradient)
    with torch.no_grad():
        logits = scale * images[:1] @ text_features(model, tokens, context, ids).T
    return Plain(logits[0], zero_shot, selected, context, torch.stack(losses), torch.stack(gradients))


def class_tokens(
    lengths: tuple[int, ...] = (1, 2, 3, 1, 5, 2, 1), *, sot: bool = True, seed: int = 0
) -> torch.Tensor:
    """int64 [K, LENGTH]: [SOT], the context, a name of so many tokens, a full stop, EOT, and padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), LENGTH, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        name = torch.randint(10, 100, (length,), generator=generator).tolist()
        text = [*([SOT] if sot else []), *CONTEXT, *name, 9, EOT]
        row[: len(text)] = torch.tensor(text)
    return tokens


def pictures(count: int, views: int, *, seed: int = 0) -> torch.Tensor:
    """float64 [count, views, 3, SIDE, SIDE]: noise with a common part, as views of one picture have."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return common + torch.randn(count, views, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def small(kind: Callable[..., ClipModel] = CLIP, *, vision: dict[str, Any] = VISION, **text: Any) -> ClipModel:
    """A float64 model of one kind in evaluation mode, always the same, whose classes differ well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(embed_dim=DIM, vision_cfg=vision, text_cfg={**TEXT, **text}, init_logit_scale=math.log(30))
        tower = model if isinstance(model, CLIP) else model.text
        for name in ("token_embedding", "positional_embedding"):
            weight = getattr(tower, name)
            torch.nn.init.normal_(getattr(weight, "weight", weight), std=0.1)
        for name, p in model.visual.named_parameters():
            if name.endswith("bn3.weight"):  # of a ResNet; these start at zero
                torch.nn.init.uniform_(p, 0.5, 1.0)
    return model.double().eval()


def coca(**config: Any) -> ClipModel:
    """CoCa: a causal tower that takes the feature of an appended token."""
    vision = {**config.pop("vision_cfg"), "output_tokens": True, "attentional_pool": True}
    text = {**config.pop("text_cfg"), "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": LENGTH, "width": 32, "heads": 2, "layers": 1}
    return CoCa(multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision, **config)


# Causal and of open_clip's plain blocks: their classes share a prefix.
SHARED: dict[str, Callable[[], ClipModel]] = {
    "CLIP": small,
    "ResNet": lambda: small(vision=RESNET),
    "custom text": lambda: small(CustomTextCLIP),
    "end-of-text by its number": lambda: small(CustomTextCLIP, pool_type="eos", eos_id=EOT),
    "linear projection": lambda: small(CustomTextCLIP, proj_bias=True),
    "no projection": lambda: small(CustomTextCLIP, proj_type="none", width=DIM, heads=2),
    "layer scale": lambda: small(ls_init_value=0.5),
    "one layer": lambda: small(layers=1),
}
WHOLE: dict[str, Callable[[], ClipModel]] = {
    "other blocks": lambda: small(CustomTextCLIP, block_type="custom", scale_attn=True, qk_norm=True),
    "sees all, takes the last": lambda: small(CustomTextCLIP, no_causal_mask=True, pool_type="last", proj_bias=True),
    "takes the last": lambda: small(CustomTextCLIP, pool_type="last"),
    "CoCa": lambda: small(coca),
}


def assert_same(found: Tuned, expected: Tuned, tolerance: float = 1e-10) -> None:
    """All that was found is the same."""
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance)


def part(tuned: Tuned, rows: Any) -> Tuned:
    """What was found for some of the pictures."""
    return Tuned(**{name: getattr(tuned, name)[rows] for name in FIELDS})


def plain(model: ClipModel, views: torch.Tensor, tokens: torch.Tensor, **recipe: Any) -> Tuned:
    """`tune_one` for each picture by itself."""
    each = [tune_one(model, one, tokens, IDS, **recipe) for one in views]
    return Tuned(**{name: torch.stack([getattr(one, name) for one in each]) for name in FIELDS})
