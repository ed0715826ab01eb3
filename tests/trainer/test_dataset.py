from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from filters.errors import InputError, SchemaError, ShardError
from tests.trainer.conftest import BROKEN_ROW, TinyMix
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
