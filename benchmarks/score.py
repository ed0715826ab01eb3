"""Scoring pairs by CLIP: `trainer.embed` against the usual loop, with the same model on the same pairs.

    python -m benchmarks.score [--quick] [--gpu]

On the CPU, in turn: ViT-B/32 with random weights in fp32, stored pictures of 256 pixels, captions of lognormal length
(sigma 0.55, mean 15 tokens, 3 to 77). The usual loop is open_clip's transform and tokenizer in a torch DataLoader
with two workers, and texts padded to 77 tokens. Goals: at least 1.35 times its pairs a second, scores equal to 1e-5.

With --gpu: what the model alone does of the GPU's bf16 matrix rate (goal: half), and pairs a second from JPEG bytes.
Needs neither Ray nor weights.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import open_clip
import psutil
import torch
from open_clip.factory import get_model_config
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.drawings import KINDS, draw
from benchmarks.score_gpu import end_to_end, matrix_rate, model_rates
from trainer.embed import embed_pairs
from trainer.model import LoadedModel, compile_layers
from trainer.packed import pack_layers

SPEED_GOAL, EQUAL_GOAL, GPU_GOAL = 1.35, 1e-5, 0.5
GPU_BATCHES = {"ViT-B-32": 1024, "ViT-L-14": 256}
SIGMA, MEAN, SHORTEST, LONGEST = 0.55, 15.0, 3, 77
USUAL_BATCH, USUAL_WORKERS = 32, 2
ROUNDS = 5

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Encoded pictures and their captions."""

    images: list[bytes]
    captions: list[str]


def random_model(name: str, precision: str = "fp32", device: str = "cpu") -> LoadedModel:
    """An open_clip model with random weights and its own preprocessing."""
    logging.disable(logging.WARNING)  # open_clip warns that no weights were loaded
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(name, precision=precision, device=device)
    logging.disable(logging.NOTSET)
    model.eval()
    dim = int(get_model_config(name)["embed_dim"])
    return LoadedModel(name, model, preprocess, open_clip.get_tokenizer(name), "random", 77, dim, precision, device)


def caption_lengths(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Tokens of each caption, its two marks included."""
    drawn = np.random.default_rng(seed).lognormal(math.log(MEAN) - SIGMA**2 / 2, SIGMA, count)
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)


def make_pairs(count: int, loaded: LoadedModel, seed: int = 0) -> Pairs:
    """`count` pairs: JPEGs of 256 pixels of all kinds of drawings, captions of words that are one token each."""
    rng = np.random.default_rng(seed)
    tokenizer = loaded.tokenizer
    assert isinstance(tokenizer, SimpleTokenizer)
    words = sorted(w[:-4] for w in tokenizer.encoder if w.endswith("</w>") and w[:-4].isascii() and w[:-4].isalpha())
    captions = [" ".join(rng.choice(words, length - 2)) for length in caption_lengths(count, seed)]
    shapes = [(256, 256), (192, 256), (256, 171), (144, 256)]
    images = []
    for i in range(count):
        out = io.BytesIO()
        Image.fromarray(draw(KINDS[i % len(KINDS)], *shapes[i % len(shapes)], i)).save(out, "JPEG", quality=95)
        images.append(out.getvalue())
    return Pairs(images, captions)


class UsualPairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs as a torch dataset of open_clip's inputs."""

    def __init__(self, pairs: Pairs, loaded: LoadedModel) -> None:
        self.pairs, self.preprocess, self.tokenizer = pairs, loaded.preprocess, loaded.tokenizer

    def __len__(self) -> int:
        return len(self.pairs.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(io.BytesIO(self.pairs.images[index]))
        return self.preprocess(image), self.tokenizer([self.pairs.captions[index]])[0]


def usual_loop(loaded: LoadedModel, pairs: Pairs) -> Callable[[], Scores]:
    """The usual way; its workers are started before the clock."""
    loader = DataLoader(
        UsualPairs(pairs, loaded), batch_size=USUAL_BATCH, num_workers=USUAL_WORKERS, persistent_workers=True
    )
    next(iter(loader))

    def scores() -> Scores:
        parts = []
        with torch.inference_mode():
            for pixels, tokens in loader:
                image = loaded.model.encode_image(pixels, normalize=True)
                text = loaded.model.encode_text(tokens, normalize=True)
                parts.append((image * text).sum(dim=-1))
        return np.asarray(torch.cat(parts).numpy(), np.float32)

    return scores


def ours(loaded: LoadedModel, pairs: Pairs) -> Scores:
    """As `headwater score` does it."""
    images, texts = embed_pairs(loaded, pairs.images, pairs.captions)
    return np.asarray(np.einsum("nd,nd->n", images, texts), np.float32)


def cpu_seconds() -> float:
    """CPU seconds of this process and its workers until now."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(time.process_time() + sum(one.user + one.system for one in times))


@dataclass(slots=True)
class Side:
    """One way to score the pairs, and what each round of it took."""

    scores: Callable[[], Scores]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    found: Scores = field(default_factory=lambda: np.empty(0, np.float32))

    def once(self) -> None:
        """One round."""
        start, used = time.perf_counter(), cpu_seconds()
        self.found = self.scores()
        self.seconds.append(time.perf_counter() - start)
        self.cpu.append(cpu_seconds() - used)


def on_cpu(quick: bool) -> dict[str, float]:
    """The sides in turn; prints a table and gives the figures."""
    loaded = random_model("ViT-B-32")
    pairs = make_pairs(48 if quick else 128, loaded)
    packed = replace(loaded, model=copy.deepcopy(loaded.model))
    pack_layers(packed.model)
    usual, plain = Side(usual_loop(loaded, pairs)), Side(partial(ours, loaded, pairs))
    best = Side(partial(ours, packed, pairs))
    sides = {"usual": usual, "ours, plain layers": plain, "ours": best}
    for number in range(2 if quick else ROUNDS):
        # None is always before or after another.
        for side in list(sides.values())[:: 1 if number % 2 else -1]:
            side.once()
    count, lengths = len(pairs.images), caption_lengths(len(pairs.captions))
    print(f"{count} pairs, captions of {lengths.mean():.1f} tokens on average, at most {lengths.max()}")
    for name, side in sides.items():
        rates = [count / took for took in side.seconds]
        spread = f"({min(rates):.2f} to {max(rates):.2f})"
        each = 1000 * statistics.median(side.cpu) / count
        print(f"{name:>18}  {statistics.median(rates):6.2f} pairs/s {spread}, {each:.0f} ms CPU a pair")
    difference = float(np.abs(usual.found - best.found).max())
    ratio, of_cpu = _ratio(usual.seconds, best.seconds), _ratio(usual.cpu, best.cpu)
    print(f"{ratio:.2f} times the usual loop's pairs a second, {of_cpu:.2f} times its pairs a second of CPU")
    print(f"scores (standard deviation {best.found.std():.1e}) differ by at most {difference:.1e}")
    return {
        "pairs": count,
        "ratio": ratio,
        "ratio_plain_layers": _ratio(usual.seconds, plain.seconds),
        "ratio_cpu": of_cpu,
        "ratio_cpu_plain_layers": _ratio(usual.cpu, plain.cpu),
        "largest_difference": difference,
    }


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the ratios, round by round."""
    return round(statistics.median(s / f for s, f in zip(slow, fast, strict=True)), 3)


# As `headwater score` runs by default, and with --compiled.
MODES = ("eager", "compiled")


def on_gpu(quick: bool) -> dict[str, float]:
    """Each model's share of the matrix rate and its pairs a second; prints a table and gives the figures."""
    matrix = matrix_rate("cuda")
    print(f"{torch.cuda.get_device_name()}: {matrix / 1e12:.0f} TFLOP/s in a bf16 product of 8192 x 8192 matrices")
    figures: dict[str, float] = {"matrix_tflops": matrix / 1e12}
    for name, batch in GPU_BATCHES.items():
        loaded = random_model(name, "bf16", "cuda")
        few = make_pairs(256, loaded)
        repeats = 2 if quick else 16
        pairs = Pairs(few.images * repeats, few.captions * repeats)
        for how in MODES:
            if how == "compiled":
                compile_layers(loaded.model)
            shares = {k: rate / matrix for k, rate in model_rates(loaded, pairs.captions, batch).items()}
            print(f"{name} {how}: {', '.join(f'{k} {share:.0%}' for k, share in shares.items())} of the matrix rate")
            figures[f"{name} {how}"] = shares["both"]
        found = end_to_end(loaded, pairs.images, pairs.captions, batch)
        print(f"{name} from JPEG bytes: {', '.join(f'{k} {value:.3g}' for k, value in found.items())}")
        figures |= {f"{name} {k}": value for k, value in found.items()}
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs and rounds")
    parser.add_argument("--gpu", action="store_true", help="the part that needs a GPU, instead of the CPU's")
    arguments = parser.parse_args(argv)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, open_clip {open_clip.__version__}, Python {platform.python_version()}"
    )
    figures: dict[str, float] = {}
    met: dict[str, bool | None]
    if not arguments.gpu:
        figures = on_cpu(arguments.quick)
        goals = {"ratio": SPEED_GOAL, "largest_difference": EQUAL_GOAL}
        difference = figures["largest_difference"]
        met = {"ratio": figures["ratio"] >= SPEED_GOAL, "largest_difference": difference <= EQUAL_GOAL}
    else:
        goals = {f"{name} {how}": GPU_GOAL for name in GPU_BATCHES for how in MODES}
        if torch.cuda.is_available():
            figures = on_gpu(arguments.quick)
        else:
            print("not measured: there is no GPU here")
        met = {name: figures[name] >= goal if name in figures else None for name, goal in goals.items()}
    print(json.dumps({"benchmark": "score", "figures": figures, "goals": goals, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
