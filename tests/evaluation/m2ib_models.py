"""Small models of each kind of tower, a plain float64 loop over one pair, and a model that only looks at red."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from evaluation.m2ib_towers import Side, image_site, text_site

SIDES: tuple[Side, ...] = ("image", "text")
LENGTHS = (5, 9, 7)  # tokens of the pairs that most tests are about
SIDE, CONTEXT, VOCABULARY, EMBED = 32, 12, 60, 16
END = VOCABULARY - 1
VIT = {"image_size": SIDE, "layers": 3, "width": 24, "head_width": 12, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 24, "heads": 2, "layers": 3}


def clip(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, kind: type = CLIP) -> Any:
    """A model in float64 whose weights are always the same."""
    more = {"multimodal_cfg": {**TEXT, "layers": 1}} if kind is CoCa else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(EMBED, vision_cfg={**VIT, **(vision or {})}, text_cfg={**TEXT, **(text or {})}, **more)
        for name, weight in model.named_parameters():
            if name.endswith("bn3.weight"):  # zero in a new ResNet, which would hide what its blocks do
                nn.init.uniform_(weight, 0.5, 1.0)
            elif weight.dim() == 1:  # gains and biases that are all alike would hide mistakes
                nn.init.normal_(weight, mean=float(weight.detach().mean()), std=0.2)
    return model.double().eval()


def resnet() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(EMBED, RESNET, TEXT)
        for name, weight in model.visual.named_parameters():
            if name.endswith("bn3.weight"):
                nn.init.uniform_(weight, 0.5, 1.0)
    return model.double().eval()


def timm_clip(trunk: Callable[[], nn.Module]) -> Any:
    """A model whose image tower has a trunk of timm's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = clip(kind=CustomTextCLIP)
        tower = TimmModel("test_vit", EMBED, image_size=SIDE, proj="linear", pool="")
        tower.trunk = trunk()
        tower.head = nn.Linear(tower.trunk.num_features, EMBED)
        model.visual = tower
    return model.double().eval()


_PLAIN: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "vit": clip,
    "vit of oblong pictures": lambda: clip({"image_size": (24, 40)}),
    "vit, avg": lambda: clip({"pool_type": "avg"}),
    "vit, norm after pooling": lambda: clip({"pool_type": "avg", "final_ln_after_pool": True}),
    "vit, attention pool": lambda: clip({"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}),
    "vit, custom blocks": lambda: clip({"qk_norm": True, "scale_attn": True}, {"scale_fc": True}, CustomTextCLIP),
    "vit, layer scale": lambda: clip({"ls_init_value": 0.5}, {"ls_init_value": 0.5}),
    "resnet": resnet,
    "timm vit without class token": lambda: timm_clip(
        lambda: VisionTransformer(**_PLAIN, class_token=False, global_pool="avg")
    ),
    "timm vit with a MAP head": lambda: timm_clip(
        lambda: VisionTransformer(**_PLAIN, class_token=False, global_pool="map")
    ),
    "timm vit with registers": lambda: timm_clip(
        lambda: VisionTransformer(**_PLAIN, reg_tokens=2, global_pool="token")
    ),
    "timm eva": lambda: timm_clip(lambda: Eva(**_PLAIN, use_rot_pos_emb=True, use_abs_pos_emb=False)),
    "timm convnext": lambda: timm_clip(
        lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=0)
    ),
    "text of its own module": lambda: clip(kind=CustomTextCLIP, text={"proj_bias": True}),
    "text, eos": lambda: clip(kind=CustomTextCLIP, text={"pool_type": "eos", "eos_id": END}),
    "text that sees all": lambda: clip(text={"no_causal_mask": True}),
    "text like SigLIP's": lambda: clip(
        kind=CustomTextCLIP, text={"no_causal_mask": True, "pool_type": "last", "pad_id": 0}
    ),
    "coca": lambda: clip(
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True},
        {"embed_cls": True, "output_tokens": True},
        CoCa,
    ),
}  # fmt: skip


def pairs(model: Any, lengths: Sequence[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise as pictures, float64 [P, 3, H, W], and texts of these numbers of tokens, zero padded."""
    generator = torch.Generator().manual_seed(seed)
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(len(lengths), 3, height, width, generator=generator, dtype=torch.float64)
    tokens = torch.zeros(len(lengths), CONTEXT, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(1, END, (length - 1,), generator=generator)
        row[length - 1] = END
    return images, tokens


def plain_loop(
    model: Any, image: torch.Tensor, tokens: torch.Tensor, block: nn.Module, side: str, noise: torch.Tensor,
    count: int, *, beta: float = 0.1, lr: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Capacity [n, D], alpha [n, D] and losses [steps, 3] of one pair, both towers whole at each step.

    `noise` is [steps, S, n, D]. A block's output is [S, T, D] or, of a convolutional tower, [S, C, H, W]; the first
    `count` = n of its tokens count.
    """
    steps, samples, _, width = noise.shape
    alpha = torch.full((count, width), 5.0, dtype=torch.float64, requires_grad=True)
    first, second = torch.zeros_like(alpha), torch.zeros_like(alpha)
    now: dict[str, Any] = {}

    def narrow(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        flat = output.flatten(2).transpose(1, 2) if output.dim() == 4 else output
        share = torch.sigmoid(alpha)
        mean, variance = share * flat[0, :count], (1 - share) ** 2
        now["kl"] = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
        mixed = torch.cat([mean + (1 - share) * noise[now["step"]], flat[:, count:]], dim=1)
        return mixed.transpose(1, 2).reshape(output.shape) if output.dim() == 4 else mixed

    handle, losses = block.register_forward_hook(narrow), []
    for step in range(steps):
        now["step"] = step
        seen = model.encode_image(image.expand(samples, -1, -1, -1))
        read = model.encode_text(tokens.expand(samples, -1))
        fit = functional.cosine_similarity(seen, read, dim=-1, eps=1e-6).mean()
        compression = now["kl"].mean()
        total = beta * compression - fit
        [slope] = torch.autograd.grad(total, [alpha])
        with torch.no_grad():  # Adam, written out
            first.mul_(0.9).add_(slope, alpha=0.1)
            second.mul_(0.999).addcmul_(slope, slope, value=0.001)
            small = first / (1 - 0.9 ** (step + 1))
            alpha -= lr * small / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        losses.append(torch.stack([compression, fit, total]).detach())
    handle.remove()
    return now["kl"].detach(), alpha.detach(), torch.stack(losses)


def planted() -> tuple[Any, torch.Tensor]:
    """A model whose picture's embedding depends on its one red patch and on no other, and a text that matches it.

    Of its three blocks the first two change nothing. In the last the class token attends to red, and what it finds
    there, it takes: its embedding is then that of the text, and any other value is further from it.
    """
    model: Any = clip().float()
    visual = model.visual
    tokens = pairs(model, [6])[1]
    with torch.no_grad():
        for block in visual.transformer.resblocks:
            for weight in block.parameters():
                weight.zero_()
            for norm in (block.ln_1, block.ln_2):
                norm.weight.fill_(1.0)
        visual.positional_embedding.zero_()
        visual.conv1.weight[0] = torch.tensor([1.0, -0.5, -0.5])[:, None, None] / 8  # a channel for red
        visual.ln_pre.weight.fill_(1.0)
        visual.ln_pre.bias.zero_()
        attention, width = visual.transformer.resblocks[-1].attn, VIT["width"]
        _, key, value = attention.in_proj_weight.view(3, width, width).unbind(0)
        for head in (0, width // 2):
            attention.in_proj_bias[head] = 20.0  # what each token asks for
            key[head, 0] = 3.0  # and what a red one answers
        value.copy_(torch.eye(width))
        attention.out_proj.weight.copy_(torch.eye(width))
        kept: list[torch.Tensor] = []
        handle = visual.ln_post.register_forward_hook(lambda _, __, output: kept.append(output[:, 0]))
        model.encode_image(red_patches([0]))
        handle.remove()
        [seen], text = kept[0], model.encode_text(tokens)[0]
        along = seen / seen.norm() ** 2
        aside = torch.randn(width, EMBED, generator=torch.Generator().manual_seed(0))
        visual.proj.copy_(torch.outer(along, text) + aside - torch.outer(along, seen @ aside))
    return model, tokens


def red_patches(places: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Grey noise [P, 3, 32, 32], float32, each with a red patch of 8 x 8 pixels at its place, and a blue one."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(places), 1, SIDE, SIDE, generator=generator).expand(-1, 3, -1, -1).clone() * 0.3
    for image, place in zip(images, places, strict=True):
        for at, colour in ((place, [3.0, -1.0, -1.0]), ((place + 5) % 16, [-1.0, -1.0, 3.0])):
            row, column = 8 * (at // 4), 8 * (at % 4)
            image[:, row : row + 8, column : column + 8] = torch.tensor(colour)[:, None, None]
    return images


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of the CPU."""
    return torch.Generator().manual_seed(seed)


def given_noise(model: Any, tokens: torch.Tensor, images: torch.Tensor, side: Side, layer: int) -> torch.Tensor:
    """Noise for 4 steps of 3 samples, float64."""
    site = image_site(model, images, layer) if side == "image" else text_site(model, tokens, layer)
    shape = (4, len(images), 3, *site.hidden.shape[1:])
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)
