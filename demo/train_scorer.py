"""Train the demo's CLIP scorer from the six training styles, leaving out a fifth of the (concept, style) cells.

    python -m demo.train_scorer

Users do not run it: the result is committed under `demo/scorer/`. A left-out cell is never seen, neither alone nor as
one icon of several, so that the scorer's AUC on it says what it does for pictures it has not learnt by heart. With
the same number of threads and the same library versions a repeat gives the same weights.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from demo.captions import write_caption
from demo.corpus import TRAIN_STYLES
from demo.pictures import background, cut_out
from demo.web_record import SOURCES
from demo.web_vocabulary import Vocabulary, load_vocabulary
from trainer.augment import augment, draws
from trainer.batch import Batch
from trainer.config import AugmentConfig, TrainConfig
from trainer.loop import run_steps
from trainer.model import new_model, read_config, save_model

FOLDER = Path(__file__).parent / "scorer"
LEFT_OUT_NAME = "left_out.csv"
LEFT_OUT_PERCENT = 20
PLAIN_PART = 0.3  # of the captions: the bare name and some keywords, without a source's manner
COMPOSED_PART = 0.3  # of the pictures: several icons
AUGMENTATION = AugmentConfig(zoom=0.12, shift=0.06, rotate=8, stretch=0.1, tint=0.15, contrast=0.2, grey=0.03)
RECIPE = TrainConfig(model=str(FOLDER), samples_seen=250_000, batch=256, lr=2e-3, wd=0.1, augment=AUGMENTATION)

Cell = tuple[str, str]  # concept, style


@dataclass(frozen=True)
class Pairs:
    """Pictures, uint8 [N, S, S, 3], with a caption each and the concepts each shows."""

    pixels: np.ndarray
    captions: list[str]
    concepts: list[list[str]]


def is_left_out(concept: str, style: str) -> bool:
    """Whether the scorer never sees this cell: a fifth of them, by a hash of their names."""
    digest = hashlib.sha256(f"{concept}\x1f{style}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < LEFT_OUT_PERCENT


def cells(*, left_out: bool) -> list[Cell]:
    """The left-out cells, or the others, of the six training styles, sorted."""
    drawn = load_vocabulary().drawn_in
    return sorted((c, style) for style in TRAIN_STYLES for c in drawn[style] if is_left_out(c, style) is left_out)


def draw_pairs(chosen: Sequence[Cell], pool: Sequence[Cell], side: int, rng: np.random.Generator) -> Pairs:
    """A picture of `side` px and a caption for each chosen cell; companions of composed ones come from `pool`."""
    vocabulary, by_style = load_vocabulary(), _by_style(pool)
    pixels, captions, concepts = [], [], []
    for concept, style in chosen:
        shown = [concept]
        if rng.random() < COMPOSED_PART:
            others = [by_style[style][int(i)] for i in rng.integers(len(by_style[style]), size=rng.integers(1, 4))]
            shown = list(dict.fromkeys([concept, *others]))
        pixels.append(np.asarray(_picture(shown, style, side, rng)))
        captions.append(_caption(vocabulary, shown, rng))
        concepts.append(shown)
    return Pairs(np.stack(pixels), captions, concepts)


def batches(config: TrainConfig, side: int) -> Iterator[Batch]:
    """Endless training batches over the cells that are not left out, a function of `config.seed`."""
    pool = cells(left_out=False)
    rng = np.random.Generator(np.random.Philox(config.seed))
    tokenizer, styles = open_clip.get_tokenizer(f"local-dir:{config.model}"), sorted(TRAIN_STYLES)
    epoch = 0
    while True:
        order = rng.permutation(len(pool))
        for start in range(0, len(pool) - config.batch + 1, config.batch):
            places = np.arange(start, start + config.batch)
            pairs = draw_pairs([pool[i] for i in order[places]], pool, side, rng)
            images = torch.from_numpy(pairs.pixels).permute(0, 3, 1, 2).float().div_(255)
            images = augment(images, draws(config.seed, epoch, places), config.augment).mul_(255).round_()
            sources = torch.tensor([styles.index(pool[i][1]) for i in order[places]])
            yield Batch(images.to(torch.uint8), tokenizer(pairs.captions), sources, order[places])
        epoch += 1


def swap_captions(pairs: Pairs, rng: np.random.Generator) -> list[str]:
    """For each picture the caption of another one that shows none of its concepts."""
    swapped = []
    for shown in pairs.concepts:
        other = int(rng.integers(len(pairs.captions)))
        while set(shown) & set(pairs.concepts[other]):
            other = int(rng.integers(len(pairs.captions)))
        swapped.append(pairs.captions[other])
    return swapped


def main(argv: Sequence[str] | None = None) -> int:
    """Train, then write the model folder and the list of left-out cells."""
    parser = argparse.ArgumentParser(prog="python -m demo.train_scorer", description="Train the demo's CLIP scorer.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the weights (default: demo/scorer)")
    parser.add_argument("--samples-seen", type=int, default=RECIPE.samples_seen)
    arguments = parser.parse_args(argv)
    config = RECIPE.model_copy(update={"samples_seen": arguments.samples_seen})
    architecture = read_config(FOLDER)
    torch.set_num_threads(config.threads)
    model = new_model(FOLDER, config.seed)
    side = architecture["preprocess_cfg"]["size"]
    steps = config.samples_seen // config.batch
    run_steps(model, batches(config, side), steps, config, sys.stderr)
    save_model(model, architecture, arguments.out, dtype=torch.float16)
    with (arguments.out / LEFT_OUT_NAME).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("concept", "style"), *cells(left_out=True)])
    return 0


@functools.lru_cache(None)
def _icon(style: str, concept: str, side: int) -> Image.Image:
    # cut_out keeps few icons, and finding an icon's ground takes 2 ms: more than all else that is done to it
    return cut_out(style, concept).resize((side, side), Image.Resampling.BICUBIC)


def _by_style(pool: Sequence[Cell]) -> dict[str, list[str]]:
    by_style: dict[str, list[str]] = {style: [] for style in TRAIN_STYLES}
    for concept, style in pool:
        by_style[style].append(concept)
    return by_style


def _picture(shown: Sequence[str], style: str, side: int, rng: np.random.Generator) -> Image.Image:
    canvas = background((side, side), rng, is_plain=rng.random() < 0.4)
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 4 and rng.random() < 0.8 else 3
    cell = side // columns
    places = [0] if columns == 1 else rng.permutation(columns * columns)[: len(shown)].tolist()
    for concept, place in zip(shown, places, strict=True):
        size = max(8, round(cell * rng.uniform(0.72, 0.98)))
        x, y = (int(rng.integers(cell - size + 1)) + cell * line for line in (place % columns, place // columns))
        icon = _icon(style, concept, side).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
        canvas.paste(icon, (x, y), icon)
    return canvas


def _caption(vocabulary: Vocabulary, shown: list[str], rng: np.random.Generator) -> str:
    words = vocabulary.words(shown)
    if rng.random() < PLAIN_PART:
        keywords = list(rng.permutation(words.keywords)[: int(rng.integers(3))])
        return " ".join([*words.names, *keywords])
    return write_caption(SOURCES[int(rng.integers(len(SOURCES)))], words, rng).text or words.names[0]


if __name__ == "__main__":
    sys.exit(main())
