from __future__ import annotations

import io
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from filters.errors import InputError, SchemaError, ShardError
from tests.trainer.conftest import BROKEN_ROW, TinyMix, draw
from trainer.augment import augment, draws
from trainer.config import AugmentConfig
from trainer.dataset import Batch, MixtureDataset, fit
from trainer.images import decode_rgb

AUGMENT = AugmentConfig(
    zoom=0.2, shift=0.1, rotate=20, stretch=0.2, flip=0.5, tint=0.3, contrast=0.3, grey=0.2, permute=0.2, erase=0.3
)


def dataset(mix: TinyMix, *, seed: int = 0, cache_bytes: int = 1 << 20, threads: int = 1) -> MixtureDataset:
    return MixtureDataset(
        mix.manifest, mix.shards_root, image_size=32, seed=seed, cache_bytes=cache_bytes, threads=threads
    )


def take(data: MixtureDataset, number: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
    return list(itertools.islice(data.batches(16, AUGMENT, rank, ranks), number))


def test_rows_are_read_by_offset(mix: TinyMix) -> None:
    data = dataset(mix, cache_bytes=0)
    for row in (0, 23, 24, 47):
        pixels, caption = data[row]
        assert caption == mix.captions[row]
        np.testing.assert_array_equal(pixels, fit(decode_rgb(mix.images[row]), 32))
    data.close()


def test_order_is_a_permutation_by_seed_and_epoch(mix: TinyMix) -> None:
    data, other = dataset(mix), dataset(mix, seed=1)
    assert sorted(data.order(0)) == list(range(48))
    np.testing.assert_array_equal(data.order(3), dataset(mix).order(3))
    assert not np.array_equal(data.order(0), data.order(1))
    assert not np.array_equal(data.order(0), other.order(0))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_see_the_batches_of_one_process(mix: TinyMix, ranks: int) -> None:
    whole = take(dataset(mix), 5)
    parts = [take(dataset(mix), 5, rank, ranks) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        for rank in range(ranks):
            np.testing.assert_array_equal(batch.rows[rank::ranks], parts[rank][number].rows)
            torch.testing.assert_close(batch.images[rank::ranks], parts[rank][number].images, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(dataset(mix).order(1, 1, ranks), dataset(mix).order(1)[1::ranks])


def test_pixels_do_not_depend_on_threads_or_cache(mix: TinyMix) -> None:
    for one, other in zip(take(dataset(mix), 5), take(dataset(mix, cache_bytes=10_000, threads=4), 5), strict=True):
        assert torch.equal(one.images, other.images)
        assert one.captions == other.captions


def test_an_epoch_holds_each_row_once_and_the_next_differs(mix: TinyMix) -> None:
    batches = take(dataset(mix), 6)
    first, second = (np.concatenate([b.rows for b in part]) for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(48))
    assert not np.array_equal(first, second)


def test_state_resumes_in_the_middle_of_an_epoch(mix: TinyMix) -> None:
    whole = take(dataset(mix), 7)
    begun, resumed = dataset(mix), dataset(mix, seed=9)
    take(begun, 4)
    resumed.load_state_dict(begun.state_dict())
    for expected, batch in zip(whole[4:], take(resumed, 3), strict=True):
        np.testing.assert_array_equal(expected.rows, batch.rows)
        assert torch.equal(expected.images, batch.images)
    with pytest.raises(InputError, match="of a mixture of 47 pairs, this one has 48"):
        resumed.load_state_dict({**begun.state_dict(), "rows": 47})


def test_state_at_the_very_end_of_an_epoch_begins_the_next(mix: TinyMix) -> None:
    begun, resumed = dataset(mix), dataset(mix)
    take(begun, 3)
    assert (begun.epoch, begun.position) == (0, 48)
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    assert torch.equal(take(resumed, 1)[0].images, take(dataset(mix), 4)[3].images)


def test_a_broken_picture_is_counted_and_replaced_by_the_next_row(broken_mix: TinyMix) -> None:
    data = dataset(broken_mix)
    assert data[BROKEN_ROW][1] == broken_mix.captions[BROKEN_ROW + 1]
    assert data.decode_errors == Counter({f"{BROKEN_ROW:032x}": 1})
    assert data.state_dict()["decode_errors"] == {f"{BROKEN_ROW:032x}": 1}


def test_what_cannot_be_read_is_an_error_with_a_name(mix: TinyMix, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.parquet cannot be read"):
        MixtureDataset(tmp_path / "nothing.parquet", mix.shards_root, image_size=32)
    table = pq.read_table(mix.manifest)
    pq.write_table(table.drop_columns(["offset"]), tmp_path / "short.parquet")
    with pytest.raises(SchemaError, match="no column offset"):
        MixtureDataset(tmp_path / "short.parquet", mix.shards_root, image_size=32)
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no samples"):
        MixtureDataset(tmp_path / "empty.parquet", mix.shards_root, image_size=32)
    with pytest.raises(ShardError, match=r"00000\.tar cannot be read"):
        MixtureDataset(mix.manifest, tmp_path, image_size=32)[0]
    with pytest.raises(InputError, match="a batch of 64"):
        next(dataset(mix).batches(64))


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(augment(images, draws(0, 0, np.arange(3)), AugmentConfig()), images)


def test_a_draw_depends_on_seed_epoch_and_position_alone() -> None:
    whole = draws(1, 2, np.arange(8))
    assert torch.equal(draws(1, 2, np.array([5])), whole[5:6])
    assert not torch.equal(draws(1, 3, np.arange(8)), whole)
    assert not torch.equal(draws(2, 2, np.arange(8)), whole)


def test_augmentation_keeps_white_ground_white_and_the_range() -> None:
    white = torch.ones(4, 3, 16, 16)
    config = AUGMENT.model_copy(update={"tint": 0.0})
    torch.testing.assert_close(augment(white, draws(0, 0, np.arange(4)), config), white)
    changed = augment(torch.rand(64, 3, 16, 16), draws(0, 0, np.arange(64)), AUGMENT)
    assert changed.min() >= 0 and changed.max() <= 1


def open_below(folder: Path) -> int:
    """How many files under `folder` this process has open."""
    paths = [Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()]
    return sum(path.is_relative_to(folder) for path in paths)


def test_few_shards_stay_open_and_closing_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture over more shards than a process may open files is read all the same, and from several threads."""
    monkeypatch.setattr("trainer.dataset._OPEN_SHARDS", 2)
    encoded, caption = draw(0)
    for number in range(30):
        (tmp_path / "shards" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / "a" / f"{number:05d}.tar").write_bytes(encoded)
    rows = [
        {"uid": f"{i:032x}", "source": "a", "shard": f"{i:05d}", "offset": 0, "size": len(encoded)} for i in range(30)
    ]
    pq.write_table(
        pa.Table.from_pylist([{**row, "caption": caption, "repeat": 0} for row in rows]), tmp_path / "m.parquet"
    )
    data = MixtureDataset(tmp_path / "m.parquet", tmp_path / "shards", image_size=32, threads=4)
    next(data.batches(30))
    assert 1 <= open_below(tmp_path) <= 2
    data.close()
    assert open_below(tmp_path) == 0
    assert data[29][1] == caption
    data.close()


def test_the_order_is_drawn_once_an_epoch_and_cannot_be_spoiled(mix: TinyMix) -> None:
    data = dataset(mix)
    order = data.order(0)
    assert np.shares_memory(order, data.order(0))
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1


def test_a_manifest_with_nulls_and_a_cut_shard_are_named(mix: TinyMix, tmp_path: Path) -> None:
    table = pq.read_table(mix.manifest)
    captions = pa.array([None, *mix.captions[1:]], pa.string())
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", captions), tmp_path / "m.parquet")
    with pytest.raises(SchemaError, match="nulls in caption"):
        MixtureDataset(tmp_path / "m.parquet", mix.shards_root, image_size=32)
    shutil.copytree(mix.shards_root, tmp_path / "shards")
    tar = tmp_path / "shards" / "b" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(ShardError, match=r"b/00000\.tar ends before byte"):
        MixtureDataset(mix.manifest, tmp_path / "shards", image_size=32)[24]


def test_only_formats_of_pictures_are_opened_and_16_bits_are_rounded() -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "EPS")  # Pillow would start a program to draw it
    with pytest.raises(InputError, match="known format"):
        decode_rgb(out.getvalue())
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(out, "PNG")
    assert decode_rgb(out.getvalue()).getpixel((0, 0)) == (128, 128, 128)
