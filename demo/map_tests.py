"""Does attribution find what decides? Tests of M2IB's maps on planted pictures.

    python -m demo.map_tests

prints the test of picture maps at several beta, on pictures that no other figure comes from (`demo.attributions.BETA`
is the one with most peaks on the named thing), and then both tests on more pictures than the demo has time for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from demo.attributions import BETA, SCORER
from demo.planted import OBJECTS, Pixels, Planted, plant
from evaluation.attribution_metrics import box_masks, content, cosines, made_anew
from evaluation.m2ib import attribute, unit_range
from evaluation.m2ib_towers import Side, count_blocks, image_site, shown_layer
from evaluation.map_tests import examples_png, map_line, random_maps
from evaluation.report_data import MapTest
from evaluation.twin import frozen_twin
from pipelines.job import say
from pipelines.store.root import Root
from trainer.embed import each_core
from trainer.images import split_preprocess
from trainer.model import ClipModel, LoadedModel, load_model

FILE, EXAMPLES = "map_tests.json", "map_tests.png"
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
PICTURES = 48
SIDE = 64  # pixels, as the scorer sees pictures
_SHOWN, _PART = 6, 12  # pictures: as examples, and at once


def write_map_tests(root: Root, seed: int, share: float = 1.0) -> None:
    """Test maps on planted pictures and write `<root>/map_tests.json` and `.png`, unless they would be the same.

    `share` is how many pictures are planted, of `PICTURES`; at least 24.
    """
    count = max(24, round(share * PICTURES))
    mark = {
        "seed": seed,
        "beta": BETA,
        "pictures": count,
        "scorer": hashlib.sha256((Path(SCORER) / "open_clip_model.safetensors").read_bytes()).hexdigest(),
    }
    if root.exists(FILE) and root.read_json(FILE)["mark"] == mark:
        say("map tests: done before")
        return
    tests, picture = map_tests(load_model(SCORER), plant(count, 64, seed), seed)
    root.write_bytes(picture, EXAMPLES)
    root.write_json({"mark": mark, "tests": [dataclasses.asdict(test) for test in tests]}, FILE)
    for test in tests:
        own, chance = (test.lines[place].pointing.value for place in (0, -1))
        say(f"map tests: {test.title.lower()}: {own:.0%} of the peaks on what is sought, at random {chance:.0%}")


def map_tests(loaded: LoadedModel, planted: Sequence[Planted], seed: int) -> tuple[list[MapTest], bytes]:
    """The test of picture maps and that of text maps, and examples of the first (PNG)."""
    images = as_input(loaded, np.stack([picture.pixels for picture in planted]))
    in_pictures, png = _picture_test(loaded, planted, images, seed)
    return [in_pictures, _text_test(loaded, planted, images, seed)], png


def as_input(loaded: LoadedModel, pixels: Pixels) -> torch.Tensor:
    """`pixels` uint8 [P, S, S, 3] as the model's input [P, 3, S, S]."""
    return split_preprocess(loaded.preprocess).normalised(torch.from_numpy(pixels), torch.float32)


def find_maps(
    model: ClipModel, images: torch.Tensor, tokens: torch.Tensor, side: Side, seed: int, beta: float = BETA
) -> torch.Tensor:
    """M2IB's maps of pairs, [P, S, S] or [P, L], with noise from `seed`.

    A pair's does not depend on the pairs beside it: each core takes some.
    """
    layer, twin = shown_layer(model, side, images), frozen_twin(model)

    def of_part(at: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return attribute(twin, images[at], tokens[at], side=side, layer=layer, beta=beta, generator=generator).map

    return torch.cat(each_core(of_part, torch.split(torch.arange(len(images)), _PART)))


def _picture_test(
    loaded: LoadedModel, planted: Sequence[Planted], images: torch.Tensor, seed: int
) -> tuple[MapTest, bytes]:
    model = loaded.model
    own, other = (loaded.tokenizer([picture.names[place] for picture in planted]) for place in (0, 1))
    targets = box_masks([[picture.boxes[0]] for picture in planted], (SIDE, SIDE))
    decides = _decides(loaded, planted, images, own)
    shown, elsewhere = (find_maps(model, images, tokens, "image", seed) for tokens in (own, other))
    anew = find_maps(made_anew(model, "image", count_blocks(model, "image"), seed), images, own, "image", seed)
    grid = image_site(model, images[:1], shown_layer(model, "image", images)).grid or (1, 1)
    others = {
        "for the name of another thing in the picture": elsewhere,
        "for the caption, weights shuffled": anew,
        "random numbers on the same grid": random_maps(len(images), grid, (SIDE, SIDE), seed),
    }
    lines = [
        map_line("for the caption", shown, targets, seed=seed),
        map_line("the same, where the named thing decides", shown[decides], targets[decides], seed=seed),
        *(map_line(label, maps, targets, seed=seed, first=shown) for label, maps in others.items()),
    ]
    some = planted[-_SHOWN:]
    rows = [
        ([p.names[place] for p in some], [p.boxes[place] for p in some], maps[-_SHOWN:].numpy())
        for place, maps in enumerate((shown, elsewhere))
    ]
    png = examples_png([picture.pixels for picture in some], rows)
    note = (
        f"{len(planted)} pictures of {OBJECTS} things each at places drawn at random; the caption is the name of "
        "one. It decides where the match loses most when this thing is left out of the picture and not another: in "
        f"{int(decides.sum())} of them. What is sought is the box around it, {targets.float().mean():.0%} of a "
        f"picture. A map that finds things but not which one would be right in {1 / OBJECTS:.0%}."
    ).replace("%", "\u00a0%")
    return MapTest("Things in pictures", note, lines), png


def _decides(
    loaded: LoadedModel, planted: Sequence[Planted], images: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Whether leaving out the named thing costs each match most, bool [P]."""
    without = as_input(loaded, np.concatenate([picture.without for picture in planted]))
    left = cosines(loaded.model, without, tokens.repeat_interleave(OBJECTS, 0)).reshape(-1, OBJECTS)
    return torch.from_numpy(left.argmin(1) == 0)


def _text_test(loaded: LoadedModel, planted: Sequence[Planted], images: torch.Tensor, seed: int) -> MapTest:
    """The caption names a thing in the picture and one that is not there, in turn first; the former must count."""
    model = loaded.model
    there = [(p.names[0], p.absent) if number % 2 else (p.absent, p.names[0]) for number, p in enumerate(planted)]
    tokens = loaded.tokenizer([f"{first} and {second}" for first, second in there])
    words = content(model, tokens)
    targets = torch.zeros_like(words)
    for number, (picture, row) in enumerate(zip(planted, targets, strict=True)):
        length = int(content(model, loaded.tokenizer([picture.names[0]])).sum())
        end = 1 + (length if number % 2 else int(words[number].sum()))
        row[end - length : end] = True
    maps = [find_maps(of, images, tokens, "text", seed) for of in (model, made_anew(model, "text", 1, seed))]
    maps.append(torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)))
    shown = [unit_range(found, words)[:, None] for found in maps]
    names = ("for the picture", "for the picture, weights shuffled", "random numbers")
    lines = [
        map_line(name, found, targets[:, None], seed=seed, first=None if found is shown[0] else shown[0])
        for name, found in zip(names, shown, strict=True)
    ]
    note = (
        "The same pictures with captions that name one thing in them and one that is in none of them, such as "
        f"“{' and '.join(there[-1])}”. What is sought are the tokens of the former, "
        f"{(targets.sum() / words.sum()):.0%} of a caption."
    ).replace("%", "\u00a0%")
    return MapTest("Words in captions", note, lines)


def main() -> int:
    """Print the test of picture maps at each of `BETAS`, then both tests on many pictures of another seed."""
    loaded, chosen = load_model(SCORER), plant(120, SIDE, 0, "choice")
    images = as_input(loaded, np.stack([picture.pixels for picture in chosen]))
    tokens = loaded.tokenizer([picture.names[0] for picture in chosen])
    targets = box_masks([[picture.boxes[0]] for picture in chosen], (SIDE, SIDE))
    lines = [
        map_line(f"beta {beta:g}", find_maps(loaded.model, images, tokens, "image", 0, beta), targets)
        for beta in BETAS
    ]
    for test in [MapTest("Choice", "", lines), *map_tests(loaded, plant(240, SIDE, 1), 1)[0]]:
        print(f"{test.title}. {test.note}")
        for line in test.lines:
            figures = [line.pointing, line.overlap, *([line.first_more] if line.first_more else [])]
            print(f"  {line.label}: {', '.join('{:.3f} ({:.3f} to {:.3f})'.format(*figure) for figure in figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
