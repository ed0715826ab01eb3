"""Leaks of evaluation pictures in shards of each resize mode, whether or not the shards say how they were stored."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from demo.drawings import load_drawings, same_drawings
from filters.near_pairs import NearParams
from filters.resize import ResizeMode
from filters.stored import Recipe
from filters.views import is_square
from pipelines import dedupe
from pipelines.store.root import Root
from tests.filters.drawings import jpeg
from tests.pipelines.pictured import Given, add_shard, uid_of
from tests.pipelines.test_dedupe import rows_of

NUMBER = 16
MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


@functools.cache
def oblong() -> list[tuple[str, Image.Image]]:
    """Drawings that are not square, none of them taken for another by the people who looked at them."""
    rows = load_drawings().select(["drawing", "image"]).to_pylist()
    alike = frozenset[str]().union(*same_drawings())
    opened = ((row["drawing"], Image.open(io.BytesIO(row["image"])).convert("RGB")) for row in rows)
    found = [(name, image) for name, image in opened if name not in alike and not is_square(image.size)]
    return found[: 3 * NUMBER]


def copy_of(number: int) -> bytes:
    """A smaller or larger JPEG of a drawing."""
    image, scale = oblong()[number][1], (0.7, 1.6)[number // 2 % 2]
    return jpeg(image.resize((round(image.width * scale), round(image.height * scale))), 75)


def add_set(root: Root) -> None:
    folder = root.local("eval", "held")
    folder.mkdir(parents=True)
    for number, (_, image) in enumerate(oblong()[: 2 * NUMBER]):
        image.save(folder / f"{number}.png")


@pytest.mark.parametrize("nothing_known", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_leaks_are_found_in_each_mode_and_clean_pictures_are_not_hit(
    tmp_path: Path, mode: ResizeMode, nothing_known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root, recipe = Root(str(tmp_path)), Recipe(image_size=96, resize_mode=mode)
    add_set(root)
    # Every second of the pictures in the set leaked; what leaked not may be hit neither.
    places = [*range(0, 2 * NUMBER, 2), *range(2 * NUMBER, 3 * NUMBER)]
    given = [Given(str(n), copy_of(n)) for n in places]
    add_shard(root, "web", 0, given, recipe=recipe, nothing_known=nothing_known)
    found = dedupe.run(dedupe.DedupeConfig(root=root.url, local=True, tasks="eval"))
    assert f"dedupe: {2 * NUMBER} evaluation pictures in 1 sets" in capsys.readouterr().err
    assert found["eval_overlaps"] == {"held": {"web": {"near": NUMBER}}}
    rows = rows_of(root, found["verdicts"])
    assert {n: rows[uid_of(str(n))]["eval_item"] for n in places} == {
        n: f"{n}.png" if n < 2 * NUMBER else None for n in places
    }
    distances = [row["eval_distance"] for row in rows.values() if row["eval_item"]]
    assert 0 < min(distances) <= max(distances) <= NearParams().max_distance


def test_pictures_smaller_than_what_is_stored(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    folder = root.local("eval", "held")
    folder.mkdir(parents=True)
    for number in range(NUMBER):
        image = oblong()[number][1]
        image.resize((image.width // 3, image.height // 3)).save(folder / f"{number}.png")
    for shard, mode in enumerate(MODES):
        given = [Given(f"{mode}{n}", copy_of(n)) for n in range(NUMBER)]
        add_shard(root, "web", shard, given, recipe=Recipe(image_size=200, resize_mode=mode))
    found = dedupe.run(dedupe.DedupeConfig(root=root.url, local=True, tasks="eval"))
    assert found["eval_overlaps"] == {"held": {"web": {"near": NUMBER * len(MODES)}}}
