"""M2IB: attribution of pairs, against a plain loop over single pairs as the paper's code has it.

    python -m benchmarks.method_m2ib [--quick] [--gpu]

The plain loop runs both towers whole over ten copies of a pair at every step, 77 tokens a text, eagerly in fp32, with
the weights frozen and PyTorch's fused attention. Both sides get the same noise, and their results must be equal.
ViT-B/32 with random weights. The seconds are CPU seconds of one thread (of several they would count the waiting for
each other too), on a GPU those of the clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from torch.nn import functional

from evaluation.m2ib import Attribution, attribute, unit_range
from evaluation.m2ib_towers import Side, default_layer
from trainer.model import ClipModel
from trainer.texts import text_lengths

MODEL = "ViT-B-32"
CAPTIONS = (
    "a brown dog running along the beach", "two children in red coats build a snowman",
    "an old wooden boat on a calm lake at dusk", "a plate of pasta with tomatoes and basil on a white table",
)  # fmt: skip
GOALS = {"image_speed": 10.0, "text_speed": 5.0}
SIDES: tuple[Side, ...] = ("image", "text")
# What float32 may leave of maps in 0 to 1, of losses, and of alpha, relative to its norm: where the two terms of a
# slope cancel, Adam makes a step of what rounding left.
TOLERANCE = {"map": 1e-4, "losses": 1e-4, "alpha": 1e-4}


class Pairs(NamedTuple):
    """Pictures [P, 3, 224, 224], tokens [P, 77] and noise [steps, P, 10, T, D] for each side."""

    images: torch.Tensor
    tokens: torch.Tensor
    noise: dict[Side, torch.Tensor]


def plain(
    model: ClipModel, image: torch.Tensor, tokens: torch.Tensor, side: Side, noise: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Scores [n], alpha [n, D] and losses [steps, 3] of one pair with n tokens; `noise` is [steps, S, n, D]."""
    steps, samples, count, width = noise.shape
    blocks = (model.visual if side == "image" else model).transformer.resblocks
    alpha = torch.full((count, width), 5.0, device=image.device, requires_grad=True)
    adam, losses, now = torch.optim.Adam([alpha], lr=1.0), [], {}

    def narrow(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(alpha)
        mean, variance = share * output[:1, :count], (1 - share) ** 2
        now["kl"] = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
        return torch.cat([mean + (1 - share) * noise[now["step"]], output[:, count:]], dim=1)

    handle = blocks[default_layer(len(blocks))].register_forward_hook(narrow)
    for step in range(steps):
        now["step"] = step  # type: ignore[assignment]
        seen = model.encode_image(image.expand(samples, -1, -1, -1))
        read = model.encode_text(tokens.expand(samples, -1))
        fit = functional.cosine_similarity(seen, read, dim=-1, eps=1e-6).mean()
        compression = now["kl"].mean()
        total = 0.1 * compression - fit
        adam.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(torch.stack([compression, fit, total]).detach())
    handle.remove()
    return {"scores": now["kl"][0].sum(-1).detach(), "alpha": alpha.detach(), "losses": torch.stack(losses)}


def make_pairs(model: ClipModel, pairs: int, steps: int, device: torch.device) -> Pairs:
    """Noise as pictures, and captions."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(pairs, 3, 224, 224, generator=generator)
    tokens = open_clip.get_tokenizer(MODEL)(list(CAPTIONS[:pairs]))
    longest = int(text_lengths(model, tokens).max())
    sizes: dict[Side, tuple[int, int]] = {"image": (50, 768), "text": (longest, 512)}
    noise = {side: torch.randn(steps, pairs, 10, *size, generator=generator) for side, size in sizes.items()}
    return Pairs(images.to(device), tokens.to(device), {side: value.to(device) for side, value in noise.items()})


def compare(model: ClipModel, pairs: Pairs, side: Side, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds a pair of both ways in turn; AssertionError where their results differ."""
    steps, count = pairs.noise[side].shape[:2]
    lengths = text_lengths(model, pairs.tokens).tolist() if side == "text" else [50] * count
    attribute(model, pairs.images[:1], pairs.tokens[:1], side=side, steps=1)  # what is done only once
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for pair, length in enumerate(lengths):
        alone, noise = slice(pair, pair + 1), pairs.noise[side][:, pair, :, :length]
        start = clock()
        theirs = plain(model, pairs.images[alone], pairs.tokens[alone], side, noise)
        middle = clock()
        found = attribute(model, pairs.images, pairs.tokens, side=side, steps=steps, noise=pairs.noise[side])
        seconds["plain"].append(middle - start)
        seconds["ours"].append((clock() - middle) / count)
        check(side, theirs, found, pair, length)
    return seconds


def check(side: Side, theirs: dict[str, torch.Tensor], found: Attribution, pair: int, length: int) -> None:
    """AssertionError where the results of a pair, whose side has `length` tokens, differ by more than rounding."""
    from_first = int(side == "image")  # the class token has no place in a picture
    scores = (found.capacity[pair, :length].sum(-1), theirs["scores"])
    ours, plain_one = (unit_range(value[None, from_first:]) for value in scores)
    alpha = found.alpha[pair, :length] - theirs["alpha"]
    worst = {
        "map": float((ours - plain_one).abs().max()),
        "losses": float((found.losses[pair] - theirs["losses"]).abs().max()),
        "alpha": float(alpha.norm() / theirs["alpha"].norm()),
    }
    for name, most in TOLERANCE.items():
        assert worst[name] <= most, f"{side}, pair {pair}: {name} differs by {worst[name]}, more than {most}"


def run(quick: bool, gpu: bool) -> dict[str, Any]:
    """Figures, goals and whether they are met; prints the table.

    `quick`: two pairs and six steps instead of four and ten, so that what is done once weighs more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(quick, gpu)
    finally:
        torch.set_num_threads(threads)


def _measured(quick: bool, gpu: bool) -> dict[str, Any]:
    device = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config(MODEL)).eval().requires_grad_(False).to(device)
    pairs = make_pairs(model, 2 if quick else len(CAPTIONS), 6 if quick else 10, device)
    unit = "seconds" if gpu else "CPU seconds"
    where = torch.cuda.get_device_name() if gpu else "one thread"
    steps = len(pairs.noise["image"])
    print(f"M2IB, {MODEL}, {steps} steps of 10 samples, {len(pairs.images)} pairs at once; {where}")
    print(f"{'side':8s}{'plain':>18s}{'ours':>18s}{'faster':>9s}   {unit} a pair: median (least to most)")
    figures: dict[str, float] = {}
    for side in SIDES:
        seconds = compare(model, pairs, side, _clock(gpu))
        middle = {name: float(np.median(values)) for name, values in seconds.items()}
        figures[f"{side}_speed"] = round(middle["plain"] / middle["ours"], 2)
        figures |= {f"{side}_{name}_seconds": round(value, 4) for name, value in middle.items()}
        cells = [f"{middle[name]:.3f} ({min(v):.2f} to {max(v):.2f})" for name, v in seconds.items()]
        print(f"{side:8s}{cells[0]:>22s}{cells[1]:>22s}{figures[f'{side}_speed']:9.1f}")
    met = {name: figures[name] >= goal for name, goal in GOALS.items()}
    return {"figures": figures, "goals": GOALS, "met": met}


def _clock(gpu: bool) -> Callable[[], float]:
    def on_gpu() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return on_gpu if gpu else time.process_time


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.method_m2ib", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="two pairs and six steps")
    parser.add_argument("--gpu", action="store_true", help="on the first GPU")
    arguments = parser.parse_args(argv)
    print(f"PyTorch {torch.__version__}, open_clip {open_clip.__version__}, Python {platform.python_version()}")
    print(json.dumps({"benchmark": "method_m2ib", **run(arguments.quick, arguments.gpu)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
