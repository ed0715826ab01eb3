"""One side of the training benchmark in a process of its own: `python -m benchmarks.train_sides JSON`, a Side.

Prints one JSON line, a Found.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from torch.nn import functional

from benchmarks.open_clip_peer import Pairs, Peer
from benchmarks.packed_texts import encode_packed, pack
from benchmarks.score import caption_lengths
from benchmarks.score_gpu import transformer_flops
from trainer import step as step_module
from trainer.batch import Batch
from trainer.config import TrainConfig
from trainer.optimizer import learning_rate
from trainer.passes import Piece
from trainer.step import TrainStep
from trainer.texts import text_lengths

# Of open_clip's towers, small: for trying the benchmark out.
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 1000, "width": 64, "heads": 2, "layers": 2},
}
DISTINCT = 4  # batches that are gone through in turn
THEMES = 512
STEPS = 20_000  # of the run that the learning rate is for: its warm-up, open_clip's default, has 10,000


@dataclass(frozen=True, slots=True)
class Side:
    """One way to take training steps.

    `precision` has open_clip's names. `texts` and `optimizer` are for ours: `whole` runs the text tower over 77
    tokens, `plain` is AdamW as open_clip makes it. `stream`: every batch is new, and each step's loss is kept.
    """

    name: str
    who: Literal["open_clip", "ours"]
    model: str = "ViT-B-32"
    batch: int = 256
    device: str = "cpu"
    precision: Literal["fp32", "amp", "amp_bf16"] = "fp32"
    compile: bool = False
    texts: Literal["cut", "whole", "packed"] = "cut"
    optimizer: Literal["fused", "plain"] = "fused"
    warmup: int = 0
    steps: int = 1
    seed: int = 0
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a side took a step: seconds, CPU seconds; losses; peak memory in bytes; FLOPs, padding left out or in."""

    seconds: float
    cpu: float
    losses: list[float]
    memory: int
    needed_flops: float
    spent_flops: float


def make_model(name: str, seed: int) -> Any:
    """An open_clip model with random weights, or the small one, `tiny`."""
    torch.manual_seed(seed)
    if name != "tiny":
        logging.disable(logging.WARNING)  # open_clip warns that no weights were loaded
        model = open_clip.create_model(name, load_weights=False)
        logging.disable(logging.NOTSET)
        return model
    model = open_clip.CLIP(**TINY)
    side = model.visual.image_size[0]
    model.visual.preprocess_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "size": side}
    return model


def make_batches(model: Any, side: Side) -> Iterator[Batch]:
    """Endless batches that can be learnt: a coarse pattern under noise and a caption for each of 512 themes.

    Pictures are on the device, tokens in the host's memory. The caption of a theme has a lognormal length.
    """
    rng, device = np.random.default_rng(side.seed), torch.device(side.device)
    noise = torch.Generator(device).manual_seed(side.seed)
    size = model.visual.image_size[0]
    patterns = torch.from_numpy(np.random.default_rng(1).uniform(0, 190, (THEMES, 3, 7, 7)).astype(np.float32))
    patterns = patterns.to(device)
    while True:
        themes, lengths = rng.integers(0, THEMES, side.batch), caption_lengths(side.batch, int(rng.integers(1 << 31)))
        tokens = np.zeros((side.batch, model.context_length), np.int64)
        for row, theme, length in zip(tokens, themes, lengths, strict=True):
            row[:length] = np.random.default_rng(theme).integers(1, model.vocab_size - 2, length)
            row[0], row[length - 1] = model.vocab_size - 2, model.vocab_size - 1
        coarse = functional.interpolate(patterns[torch.from_numpy(themes).to(device)], size=(size, size))
        images = (coarse + torch.rand(coarse.shape, generator=noise, device=device) * 64).to(torch.uint8)
        sources = torch.zeros(side.batch, dtype=torch.int64)
        yield Batch(images, torch.from_numpy(tokens), sources, np.arange(side.batch))


class Ours:
    """Training as `headwater train` does it, or with parts of it turned off; it normalises pictures itself."""

    def __init__(self, model: Any, side: Side) -> None:
        self.config = TrainConfig(
            model=side.model,
            batch=side.batch,
            lr=5e-4,
            wd=0.2,
            clip=0.0,
            warmup_samples=10_000 * side.batch,
            precision="fp32" if side.precision == "fp32" else "bf16",
            compile=side.compile,
        )
        self.step = TrainStep(model, self.config, device=torch.device(side.device), steps=STEPS)
        self._numbers = itertools.count()
        patched: Any = step_module
        if side.texts == "whole":
            patched.text_lengths = lambda _, tokens: np.full(len(tokens), tokens.shape[1], np.int64)
        elif side.texts == "packed":
            patched.TrainStep._text_pieces = _packed_pieces
        if side.optimizer == "plain":
            self.step.optimizer = _plain_optimizer(self.step.optimizer)
            patched.step_if = lambda _, optimizer: optimizer.step()

    def prepare(self, batch: Batch) -> Batch:
        """Nothing is done beforehand."""
        return batch

    def train(self, batches: Iterable[Batch], count: int) -> list[float]:
        """The losses of the next `count` steps."""
        rates = (learning_rate(number, STEPS, self.config) for number in self._numbers)
        losses = [self.step(batch, lr).loss for batch, lr, _ in zip(batches, rates, range(count), strict=False)]
        return [float(loss) for loss in losses]

    def text_tokens(self, batch: Batch) -> list[tuple[int, int]]:
        """Texts of each pass and the length to which they are padded."""
        pieces = list(self.step._text_pieces(batch))
        return [(len(p.rows), p.encode.args[1]) for p in pieces if isinstance(p.encode, functools.partial)]


class OpenClip:
    """open_clip_train; its pictures are normalised and its tokens on the device before the clock starts."""

    def __init__(self, model: Any, side: Side) -> None:
        compiled = ["--torchcompile"] if side.compile else []
        flags = ["--model", side.model, "--batch-size", str(side.batch), "--precision", side.precision, *compiled]
        self._device = torch.device(side.device)
        self._peer = Peer(model, flags, device=self._device, steps=STEPS)
        preprocess = model.visual.preprocess_cfg
        self._mean, self._std = (
            torch.tensor(preprocess[key], device=self._device).view(3, 1, 1) for key in ("mean", "std")
        )

    def prepare(self, batch: Batch) -> Pairs:
        """Pictures as floats, tokens on the device."""
        return (batch.images.float() / 255 - self._mean) / self._std, batch.tokens.to(self._device)

    def train(self, batches: Iterable[Pairs], count: int) -> list[float]:
        """The losses of the next `count` steps."""
        return self._peer.train(batches, count)

    def text_tokens(self, batch: Batch) -> list[tuple[int, int]]:
        """All texts with all their tokens."""
        return [(len(batch), batch.tokens.shape[1])]


def run_side(side: Side) -> Found:
    """Take the steps."""
    model = make_model(side.model, side.seed)
    batches = make_batches(model, side)
    taker: Any = (Ours if side.who == "ours" else OpenClip)(model, side)
    if side.device == "cpu" and not side.compile:  # libraries are loaded, moments made
        taker.train([taker.prepare(_few(next(batches), 8))], 1)
    made: Iterator[Any] = map(taker.prepare, batches)
    if not side.stream:
        kept = list(itertools.islice(batches, min(DISTINCT, side.warmup + side.steps)))
        made = itertools.cycle(list(map(taker.prepare, kept)))
    losses = taker.train(itertools.islice(made, side.warmup), side.warmup) if side.warmup else []
    _wait(side.device)
    start, used = time.perf_counter(), time.process_time()
    losses += taker.train(itertools.islice(made, side.steps), side.steps)
    _wait(side.device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    batch = next(batches) if side.stream else kept[0]
    needed = [(1, int(length)) for length in text_lengths(model, batch.tokens)]
    on_gpu = side.device != "cpu"
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return Found(
        seconds / side.steps,
        cpu / side.steps,
        losses,
        memory,
        step_flops(model, side.batch, needed),
        step_flops(model, side.batch, taker.text_tokens(batch)),
    )


def step_flops(model: Any, images: int, texts: Sequence[tuple[int, int]]) -> float:
    """FLOPs of the matrix products of a step, the backward pass twice the forward one; texts as (number, length)."""
    visual = model.visual
    patch, width = visual.conv1.kernel_size, visual.transformer.width
    patches = (visual.image_size[0] // patch[0]) * (visual.image_size[1] // patch[1])
    forward = 2 * images * width * (patches * 3 * patch[0] * patch[1] + visual.output_dim)
    forward += transformer_flops(width, visual.transformer.layers, images, patches + 1)
    tower = model.transformer
    forward += sum(transformer_flops(tower.width, tower.layers, count, length) for count, length in texts)
    return float(3 * forward)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the side that the only argument describes."""
    (text,) = sys.argv[1:] if argv is None else argv
    print(json.dumps(asdict(run_side(Side(**json.loads(text))))))
    return 0


def _packed_pieces(step: TrainStep, batch: Batch) -> Iterator[Piece]:
    packed = pack(step.model, batch.tokens, step.device)

    def encode() -> torch.Tensor:
        with step.towers.autocast():
            return functional.normalize(encode_packed(step.model, packed).float(), dim=-1)

    yield Piece(torch.arange(len(batch), device=step.device), encode)


def _plain_optimizer(fused: torch.optim.AdamW) -> torch.optim.AdamW:
    """Over the same weights, as open_clip makes it."""
    groups = [{key: group[key] for key in ("params", "weight_decay", "rate")} for group in fused.param_groups]
    settings = fused.defaults
    return torch.optim.AdamW(groups, lr=settings["lr"], betas=settings["betas"], eps=settings["eps"])


def _few(batch: Batch, count: int) -> Batch:
    return Batch(batch.images[:count], batch.tokens[:count], batch.sources[:count], batch.rows[:count])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
