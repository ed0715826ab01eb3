from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from demo.compare import auc
from demo.corpus import TRAIN_STYLES
from demo.train_scorer import FOLDER, RECIPE, Pairs, batches, cells, draw_pairs, is_left_out, swap_captions
from trainer.embed import embed_images, embed_texts
from trainer.model import LoadedModel, load_model


@pytest.fixture(scope="module")
def scorer() -> LoadedModel:
    return load_model(str(FOLDER))


def drawn(number: int, seed: int) -> Pairs:
    """Pictures of 160 px of left-out cells; companions of composed ones are left-out cells too."""
    left_out = cells(left_out=True)
    rng = np.random.default_rng(seed)
    chosen = [left_out[i] for i in rng.choice(len(left_out), number, replace=False)]
    return draw_pairs(chosen, left_out, 160, rng)


def jpegs(pairs: Pairs) -> list[bytes]:
    files = []
    for pixels in pairs.pixels:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=80)
        files.append(out.getvalue())
    return files


def test_left_out_list_is_a_fifth_of_the_cells_and_the_rule() -> None:
    with (FOLDER / "left_out.csv").open(encoding="utf-8", newline="") as file:
        listed = [(row["concept"], row["style"]) for row in csv.DictReader(file)]
    assert listed == cells(left_out=True)
    kept = cells(left_out=False)
    assert not set(listed) & set(kept)
    assert {style for _, style in kept} == {style for _, style in listed} == set(TRAIN_STYLES)
    assert len(listed) / (len(listed) + len(kept)) == pytest.approx(0.2, abs=0.02)


def test_training_pictures_show_no_left_out_cell() -> None:
    pool = cells(left_out=False)
    rng = np.random.default_rng(0)
    chosen = [pool[i] for i in rng.choice(len(pool), 100, replace=False)]
    pairs = draw_pairs(chosen, pool, 32, rng)
    assert any(len(shown) > 1 for shown in pairs.concepts)
    for (_, style), shown in zip(chosen, pairs.concepts, strict=True):
        assert not any(is_left_out(concept, style) for concept in shown)


def test_training_batches_depend_on_the_seed_alone() -> None:
    config = RECIPE.model_copy(update={"batch": 16})
    first, again = next(batches(config, 32)), next(batches(config, 32))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.tokens, again.tokens)


def test_the_committed_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000


@pytest.mark.parametrize("seed", [0, 1])
def test_true_captions_score_above_swapped_ones_on_left_out_cells(scorer: LoadedModel, seed: int) -> None:
    pairs = drawn(300, seed)
    swapped = swap_captions(pairs, np.random.default_rng(seed))
    images, texts, others = (
        embed_images(scorer, jpegs(pairs)),
        embed_texts(scorer, pairs.captions),
        embed_texts(scorer, swapped),
    )
    assert auc((images * texts).sum(1), (images * others).sum(1))[0] >= 0.8
