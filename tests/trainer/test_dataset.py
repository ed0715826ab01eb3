from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from filters.errors import InputError
from tests.trainer.conftest import (
    AUGMENT,
    BROKEN_ROW,
    Shifted,
    TinyMix,
    dataset_of,
    text_of,
    write_mix,
)
from trainer.augment import augment, draws
from trainer.batch import Index
from trainer.dataset import Epoch, Failure, MixtureDataset, Part, fit
from trainer.images import decode_rgb
from trainer.rooms import Rooms

FIRST = Epoch(0, 0)


def fill(
    data: MixtureDataset, rows: list[int], epoch: Epoch = FIRST, positions: Index | None = None
) -> tuple[Part, list[Failure]]:
    """The samples of `rows` at positions 0, 1, ... or those given."""
    part = Part.of(Rooms(data.shapes(len(rows)), pin=False).take())
    places = np.arange(len(rows)) if positions is None else positions
    failures = data.fill(epoch, places, np.array(rows), part)
    return part, failures


def captions_of(part: Part) -> list[str]:
    return text_of(torch.from_numpy(part.tokens))


def test_rows_are_read_by_offset(mix: TinyMix) -> None:
    rows = [0, 23, 24, 47]
    data = dataset_of(mix)
    part, failures = fill(data, rows)
    assert (captions_of(part), failures) == ([mix.captions[row] for row in rows], [])
    assert part.rows.tolist() == rows
    assert [data.sources[i] for i in part.sources] == ["a", "a", "b", "b"]
    for pixels, row in zip(part.images, rows, strict=True):
        np.testing.assert_array_equal(pixels, fit(decode_rgb(mix.images[row]), 32))
    data.close()


def test_a_position_is_a_sample_of_its_epoch(mix: TinyMix) -> None:
    data = dataset_of(mix, view=Shifted(32), augmentation=AUGMENT)
    row = int(data.order(Epoch(0, 2))[7])
    pixels, tokens, source, found = data.sample(7, epoch=2)
    assert (found, source) == (row, row // 24)
    assert text_of(torch.from_numpy(tokens)[None]) == [mix.captions[row]]
    generator = np.random.Generator(np.random.Philox(key=[0, 2], counter=[0, 0, 0, 7]))
    view = torch.from_numpy(Shifted(32)(mix.images[row], generator)).permute(2, 0, 1)[None] / 255
    changed = augment(view, draws(0, 2, np.array([7])), AUGMENT)
    np.testing.assert_array_equal(pixels, (changed * 255).round().to(torch.uint8)[0].permute(1, 2, 0))


def test_a_sample_does_not_depend_on_those_beside_it(mix: TinyMix) -> None:
    data = dataset_of(mix, view=Shifted(32), augmentation=AUGMENT)
    rows, positions = list(range(40)), np.arange(100, 140)
    whole, _ = fill(data, rows, positions=positions)
    for index in (0, 17, 39):
        alone, _ = fill(data, [rows[index]], positions=positions[index : index + 1])
        np.testing.assert_array_equal(alone.images[0], whole.images[index])
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[index])
    other, _ = fill(data, rows, Epoch(0, 1), positions)
    assert not np.array_equal(other.images, whole.images)


def test_a_broken_picture_is_told_of_and_replaced_by_the_next_row(broken_mix: TinyMix) -> None:
    data = dataset_of(broken_mix, view=Shifted(32))
    part, (failure,) = fill(data, [BROKEN_ROW, 0])
    assert part.rows.tolist() == [BROKEN_ROW + 1, 0]
    assert captions_of(part)[0] == broken_mix.captions[BROKEN_ROW + 1]
    assert failure.uid == f"{BROKEN_ROW:032x}"
    assert failure.reason.startswith("60 bytes are not a whole picture")
    expected, _ = fill(data, [BROKEN_ROW + 1])
    np.testing.assert_array_equal(part.images[0], expected.images[0])


def test_replacements_stay_in_their_source(tmp_path: Path) -> None:
    """From its last row on to its first; a source of broken pictures alone is an error."""
    sound = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sound, "PNG")
    images = [sound.getvalue(), b"none", b"none", b"none", b"none", b"none", b"none", b"none"]
    data = dataset_of(write_mix(tmp_path, images, list("abcdefgh")))
    part, failures = fill(data, [2])
    assert part.rows.tolist() == [0]
    assert [int(failure.uid, 16) for failure in failures] == [2, 3]
    with pytest.raises(
        InputError, match="source b: 4 pictures in a row cannot be decoded; the last: 4 bytes are not"
    ):
        fill(data, [6])


def test_only_views_without_chance_are_kept(mix: TinyMix) -> None:
    views = {"fixed": dataset_of(mix, cache_bytes=1 << 20), "random": dataset_of(mix, view=Shifted(32))}
    small = dataset_of(mix, cache_bytes=3 * 32 * 32 * 2)
    random = dataset_of(mix, view=Shifted(32), cache_bytes=1 << 20)
    for data in (small, random, *views.values()):
        fill(data, list(range(48)))
    assert (len(views["fixed"]._cache), len(small._cache), len(random._cache)) == (48, 2, 0)
    for epoch in (FIRST, Epoch(0, 1)):
        kept, _ = fill(views["fixed"], list(range(48)), epoch)
        np.testing.assert_array_equal(kept.images, fill(dataset_of(mix), list(range(48)), epoch)[0].images)


def test_what_is_kept_is_not_augmented(mix: TinyMix) -> None:
    kept, plain = (dataset_of(mix, augmentation=AUGMENT, cache_bytes=size) for size in (1 << 20, 0))
    for epoch in (FIRST, FIRST, Epoch(0, 1)):
        np.testing.assert_array_equal(fill(kept, [1, 2], epoch)[0].images, fill(plain, [1, 2], epoch)[0].images)


def test_of_several_captions_each_comes_by_turns(mix: TinyMix, tmp_path: Path) -> None:
    table = pq.read_table(mix.manifest)
    texts = [[f"{row} {i}" for i in range(1 + row % 3)] for row in range(48)]
    column = pa.array(texts, pa.list_(pa.string()))
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", column), tmp_path / "m.parquet")
    data = dataset_of(TinyMix(tmp_path / "m.parquet", mix.shards_root, mix.images, mix.captions))
    seen: list[set[str]] = [set() for _ in range(48)]
    for number in range(16):
        part, _ = fill(data, list(range(48)), Epoch(0, number))
        for row, caption in enumerate(captions_of(part)):
            seen[row].add(caption)
    assert seen == [set(of_row) for of_row in texts]
    again, _ = fill(data, [5], Epoch(0, 15), np.array([5]))
    assert captions_of(again) == [captions_of(part)[5]]


def test_only_formats_of_pictures_are_opened_and_16_bits_are_rounded() -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "EPS")  # Pillow would start a program to draw it
    with pytest.raises(InputError, match="known format"):
        decode_rgb(out.getvalue())
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(out, "PNG")
    assert decode_rgb(out.getvalue()).getpixel((0, 0)) == (128, 128, 128)
