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


def test_copies_in_different_modes_are_missed_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def large(number: int) -> Image.Image:
        image = oblong()[number][1]
        return image.resize((2 * image.width, 2 * image.height))

    def said(*modes: tuple[str, ResizeMode]) -> tuple[dict[str, int], list[str]]:
        root = Root(str(tmp_path / "-".join(mode for _, mode in modes)))
        for source, mode in modes:
            # The first has other bytes and pixels in each source: it is near.
            quality = [90 if source == "web" else 80, 80, 80, 80]
            given = [Given(f"{source}{n}", jpeg(large(n), q), None) for n, q in enumerate(quality)]
            add_shard(root, source, 0, given, recipe=Recipe(image_size=96, resize_mode=mode))
        found = dedupe.run(dedupe.DedupeConfig(root=root.url, local=True))
        return found["counts"], [line for line in capsys.readouterr().err.splitlines() if "not square" in line]

    same, nothing = {"exact_bytes": 3, "near": 1, "unique": 4}, list[str]()
    missed = {"exact_bytes": 3, "unique": 5}
    text = (
        "dedupe: of pictures that were not square, {} are stored as squares (center_crop or border), {} as wholes: "
        "copies stored in different ways are found only by equal bytes, pixels or embeddings"
    )
    mixed, squares = text.format("4 of web", "4 of zoo"), text.format("4 of web, 4 of zoo", "none")
    assert said(("web", "keep_ratio_largest"), ("zoo", "keep_ratio")) == (same, nothing)
    assert said(("web", "border"), ("zoo", "keep_ratio_largest")) == (missed, [mixed])
    assert said(("web", "center_crop"), ("zoo", "keep_ratio")) == (missed, [mixed])
    assert said(("web", "border"), ("zoo", "border")) == (same, [squares])
    assert said(("web", "center_crop"), ("zoo", "border")) == (missed, [squares])
    assert said(("web", "center_crop")) == ({"unique": 4}, nothing)
