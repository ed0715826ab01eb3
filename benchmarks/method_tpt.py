"""Test-time prompt tuning: `evaluation.tpt` against a loop over pictures as the paper's code has it.

The loop is eager and in fp32, with frozen weights and PyTorch's own attention: of one picture after the other the
64 views go through the image tower once for the tuning step and view 0 once more for the prediction, and all prompts
of 77 tokens go through the text tower for each of these, with gradients for the step. ViT-B/32 with random weights.

The goals are for the text side: tuning and prediction, with all that is not the image tower. The 64 views have to go
through that tower on both sides alike, so that the ratio of the total, shown beside it, is less; whoever keeps the
features of the views (`Tuner.features`) has the text side alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from torch.nn import functional

from benchmarks.drawings import KINDS, draw
from benchmarks.score import random_model
from evaluation.prompts import ClassPrompts, class_prompts
from evaluation.tpt import Tuned, Tuner, views
from trainer.embed import without_tf32
from trainer.model import LoadedModel

NAMES = Path(__file__).with_name("class_names.txt")
GOAL, GPU_GOAL, EQUAL_GOAL = 4.0, 10.0, 1e-3
VIEWS, KEEP, LR, DECAY = 64, 0.1, 5e-3, 0.01


@dataclass(slots=True)
class Clock:
    """Seconds, and CPU seconds of the process, that the image tower and all the rest took; waits for a GPU."""

    device: torch.device
    image: list[float] = field(default_factory=lambda: [0.0, 0.0])
    text: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @contextmanager
    def of(self, part: list[float]) -> Iterator[None]:
        """Add what is done meanwhile to `image` or `text`."""
        before = self._now()
        yield
        for i, now in enumerate(self._now()):
            part[i] += now - before[i]

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def usual_loop(loaded: LoadedModel, prompts: ClassPrompts, pictures: torch.Tensor, clock: Clock) -> Tuned:
    """One picture of [B, V, 3, H, W] after the other."""
    each = [_usual_picture(loaded, prompts, one, clock) for one in pictures]
    return Tuned(*(torch.stack(parts) for parts in zip(*each, strict=True)))


def _usual_picture(
    loaded: LoadedModel, prompts: ClassPrompts, pictures: torch.Tensor, clock: Clock
) -> tuple[torch.Tensor, ...]:
    """Logits, zero-shot logits, kept views, context, losses and gradients, in the order of `Tuned`."""
    model, tokens = loaded.model, prompts.tokens.to(clock.device)
    scale, places = model.logit_scale.exp(), prompts.context
    with clock.of(clock.text):
        embedded = model.token_embedding(tokens)
        context = embedded[0, places.start : places.stop].clone().requires_grad_()
        optimizer = torch.optim.AdamW([context], lr=LR, weight_decay=DECAY)

    def texts() -> torch.Tensor:
        given = context.expand(len(tokens), -1, -1)
        hidden = torch.cat([embedded[:, : places.start], given, embedded[:, places.stop :]], dim=1)
        hidden = model.transformer(hidden + model.positional_embedding, attn_mask=model.attn_mask)
        ends = model.ln_final(hidden)[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
        return functional.normalize(ends @ model.text_projection, dim=-1)

    with clock.of(clock.image), torch.no_grad():
        images = model.encode_image(pictures, normalize=True)
    with clock.of(clock.text):
        zero_shot = scale * images @ texts().T
        log = zero_shot.log_softmax(dim=-1)
        selected = (-(log.exp() * log).sum(dim=-1)).argsort()[: int(len(pictures) * KEEP)]
        mean = log[selected].logsumexp(dim=0) - math.log(len(selected))
        loss = -(mean.exp() * mean).sum()
        loss.backward()
        optimizer.step()
    with clock.of(clock.image), torch.no_grad():
        first = model.encode_image(pictures[:1], normalize=True)
    with clock.of(clock.text), torch.no_grad():
        logits = (scale * first @ texts().T)[0]
    assert context.grad is not None
    return logits, zero_shot.detach(), selected, context.detach(), loss.detach()[None], context.grad[None]


def ours(loaded: LoadedModel, prompts: ClassPrompts, pictures: torch.Tensor, clock: Clock) -> Tuned:
    """All pictures at once; the zero-shot text features are computed within the clock too."""
    with clock.of(clock.text):
        tuner = Tuner(loaded.model, prompts.tokens, context_length_tokens=prompts.context)
    with clock.of(clock.image):
        features = tuner.features(pictures)
    with clock.of(clock.text):
        return tuner.tune(features, keep=KEEP, lr=LR, weight_decay=DECAY)


def make_pictures(count: int, loaded: LoadedModel) -> torch.Tensor:
    """Views [count, 64, 3, H, W] of drawings, on the model's device."""
    pictures = [Image.fromarray(draw(KINDS[i % len(KINDS)], 375, 500, i)) for i in range(count)]
    each = [views(picture, loaded.model, np.random.default_rng(i), count=VIEWS) for i, picture in enumerate(pictures)]
    return torch.stack(each).to(loaded.device)


def difference(found: Tuned, expected: Tuned) -> float:
    """The largest of two runs' logits; an AssertionError if they are not the same run."""
    torch.testing.assert_close(found.zero_shot_logits, expected.zero_shot_logits, rtol=0, atol=EQUAL_GOAL)
    assert torch.equal(found.selected, expected.selected), "other views were kept"
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=1e-4)
    # A step goes by the sign of each number: only where it is plain must both contexts be the same.
    plain = expected.gradients[:, 0].abs() > 1e-3 * expected.gradients.abs().max()
    assert plain.float().mean() > 0.5, "hardly any gradient to compare"
    torch.testing.assert_close(found.context[plain], expected.context[plain], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=EQUAL_GOAL)
    return float((found.logits - expected.logits).abs().max())


def compare(loaded: LoadedModel, names: list[str], pictures: torch.Tensor, rounds: int) -> dict[str, float]:
    """Both sides in turn on the same pictures; prints a table and gives the figures."""
    prompts = class_prompts(loaded.tokenizer, names)
    sides: dict[str, Callable[..., Tuned]] = {"loop": usual_loop, "ours": ours}
    clocks: dict[str, list[Clock]] = {name: [] for name in sides}
    found: dict[str, Tuned] = {}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            clocks[name].append(Clock(torch.device(loaded.device)))
            with without_tf32():
                found[name] = sides[name](loaded, prompts, pictures, clocks[name][-1])
    apart = difference(found["ours"], found["loop"])
    flips = (found["ours"].logits.argmax(dim=1) != found["ours"].zero_shot_logits[:, 0].argmax(dim=1)).sum()
    print(
        f"{len(pictures)} pictures of {VIEWS} views, {len(names)} classes, {rounds} rounds; seconds a picture (CPU):"
    )
    print(f"{'':6}{'image':>18}{'text':>18}{'total':>18}")
    for name, each in clocks.items():
        cells = [_cell([parts(clock) for clock in each], len(pictures)) for parts in PARTS.values()]
        print(f"{name:6}{''.join(f'{cell:>18}' for cell in cells)}")
    figures: dict[str, float] = {"classes": len(names), "largest_difference": apart}
    for part, seconds in PARTS.items():
        for kind, which in (("ratio", 0), ("ratio_cpu", 1)):
            ratios = [
                seconds(a)[which] / seconds(b)[which] for a, b in zip(clocks["loop"], clocks["ours"], strict=True)
            ]
            figures[f"{part}_{kind}"] = round(statistics.median(ratios), 3)
    print(f"text {figures['text_ratio']:.2f} times as fast, total {figures['total_ratio']:.2f} times")
    print(f"logits differ by at most {apart:.1e}; tuning changed {int(flips)} of {len(pictures)} predictions")
    return figures


def _both(clock: Clock) -> list[float]:
    return [image + text for image, text in zip(clock.image, clock.text, strict=True)]


PARTS: dict[str, Callable[[Clock], list[float]]] = {
    "image": lambda clock: clock.image,
    "text": lambda clock: clock.text,
    "total": _both,
}


def _cell(seconds: list[list[float]], count: int) -> str:
    """Median seconds a picture, and median CPU seconds."""
    wall, cpu = (statistics.median(column) / count for column in zip(*seconds, strict=True))
    return f"{wall:.3f} ({cpu:.3f})"


def run(quick: bool, gpu: bool) -> dict[str, Any]:
    """Figures, goals and whether they are met (None without a GPU): 50 classes on the CPU, 1,000 on a GPU."""
    goals = {"text_ratio": GPU_GOAL if gpu else GOAL, "largest_difference": EQUAL_GOAL}
    if gpu and not torch.cuda.is_available():
        print("not measured: there is no GPU here")
        return {"figures": {}, "goals": goals, "met": dict.fromkeys(goals)}
    loaded = random_model("ViT-B-32", device="cuda" if gpu else "cpu")
    loaded.model.requires_grad_(False)
    loaded.model.logit_scale.fill_(math.log(100))  # as trained models have it
    names = list(IMAGENET_CLASSNAMES) if gpu else NAMES.read_text(encoding="utf-8").splitlines()
    if gpu:  # its libraries are loaded and its kernels chosen before the clock
        compare(loaded, names[:50], make_pictures(1, loaded), 1)
    figures = compare(loaded, names, make_pictures(8 if gpu else 2 if quick else 6, loaded), 1 if quick else 3)
    met = {
        "text_ratio": figures["text_ratio"] >= goals["text_ratio"],
        "largest_difference": figures["largest_difference"] <= EQUAL_GOAL,
    }
    return {"figures": figures, "goals": goals, "met": met}
