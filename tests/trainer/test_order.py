from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.errors import InputError
from filters.sampling import sample_order
from tests.trainer.conftest import TinyMix
from tests.trainer.test_rows import table_of, write
from trainer import sorting
from trainer.order import epoch_order, epoch_salt, single_source_order
from trainer.rows import Rows, open_rows


def rows_of(tmp_path: Path, count: int, uses: int = 1) -> Rows:
    return open_rows(write(tmp_path / f"m{count}.parquet", table_of(count, uses)), tmp_path)


MASK = 2**64 - 1


def mix_of(number: int) -> int:
    """SplitMix64's finaliser in Python's own numbers."""
    number &= MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


def test_the_order_never_changes(tmp_path: Path) -> None:
    """Golden values: a checkpoint's position means the same sample in every version."""
    assert epoch_salt("train-order", 0, 0) == 16584413683821780961
    rows = rows_of(tmp_path, 12)
    assert epoch_order(rows, 0, 0).tolist() == [3, 11, 0, 4, 2, 1, 7, 6, 8, 9, 10, 5]
    assert epoch_order(rows, 0, 1).tolist() == [3, 0, 2, 11, 6, 8, 10, 9, 5, 7, 1, 4]
    assert single_source_order(rows, 0, 0, 2).tolist() == [1, 7, 8, 10, 2, 6, 0, 4, 9, 5, 3, 11]
    repeated = rows_of(tmp_path, 13, 3)
    assert epoch_order(repeated, 0, 0).tolist() == [9, 12, 5, 0, 8, 10, 3, 1, 6, 11, 7, 4, 2]
    span = MASK // 3
    jitter = [(mix_of(mix_of(5) + i + 5) >> 32) * (span >> 32) >> 1 for i in range(3)]
    expected = [mix_of(5) + i * span + jitter[i] & MASK for i in range(3)]
    assert repeated.keys(0, 3, 5).tolist() == expected
    assert expected == [15537585827811561244, 1730299413668870728, 9241364894490912091]


def test_an_order_is_a_permutation_by_seed_and_epoch(tmp_path: Path, mix: TinyMix) -> None:
    rows = open_rows(mix.manifest, tmp_path)
    first = epoch_order(rows, 0, 0)
    assert sorted(first) == list(range(48))
    np.testing.assert_array_equal(first, epoch_order(open_rows(mix.manifest, tmp_path / "other"), 0, 0))
    for seed, epoch in ((0, 1), (1, 0), (1, 1)):
        assert not np.array_equal(first, epoch_order(rows, seed, epoch))


def test_an_order_without_repeats_is_that_of_a_mix_of_the_uids(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 300)
    keys = sample_order(np.arange(300, dtype=np.uint64), epoch_salt("train-order", 3, 4))
    np.testing.assert_array_equal(epoch_order(rows, 3, 4), np.argsort(keys))


def test_the_order_does_not_depend_on_how_it_was_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(tmp_path, 999, 3)
    whole, single = epoch_order(rows, 0, 0).copy(), single_source_order(rows, 0, 0, 8).copy()
    monkeypatch.setattr(sorting, "CHUNK", 100)
    again = open_rows(tmp_path / "m999.parquet", tmp_path / "again")
    np.testing.assert_array_equal(epoch_order(again, 0, 0), whole)
    np.testing.assert_array_equal(single_source_order(again, 0, 0, 8), single)


@pytest.mark.parametrize("uses", [2, 3, 5])
def test_repeats_lie_far_apart_and_batches_do_not_come_again(tmp_path: Path, uses: int) -> None:
    count = 6000 * uses
    order = epoch_order(rows_of(tmp_path, count, uses), 0, 0)
    places = np.empty(count, np.int64)
    places[order] = np.arange(count)
    places = np.sort(places.reshape(-1, uses), axis=1)
    apart = np.diff(places, axis=1, append=places[:, :1] + count)  # the last: to the next epoch's, were it the same
    assert apart.min() > 0.45 * count / uses
    assert apart.mean() == pytest.approx(count / uses)
    # what lies in one batch of 100 in the first part of the epoch lies in many in the second
    batches = np.sort(places[:, :2] // 100, axis=1)
    together = [len(np.unique(batches[batches[:, 0] == first, 1])) for first in range(10)]
    assert min(together) > 15


def test_rows_of_one_source_fill_a_batch(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 101)
    order = single_source_order(rows, 0, 0, 8)
    assert len(order) == 6 * 8 + 6 * 8  # 51 and 50 rows: 3 and 2 are left out
    assert len(np.unique(order)) == len(order)
    sources = rows.places["source"][order].reshape(-1, 8)
    assert (sources == sources[:, :1]).all()
    firsts = sources[:, 0].tolist()
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))
    # within a source, the order of the epoch
    mixed = epoch_order(rows, 0, 0)
    of_a = mixed[rows.places["source"][mixed] == 0][: 6 * 8]
    assert sorted(order[rows.places["source"][order] == 0]) == sorted(of_a)
    assert not np.array_equal(single_source_order(rows, 0, 1, 8), order)
    with pytest.raises(InputError, match="no source has the 64 pairs of a batch"):
        single_source_order(rows, 0, 0, 64)


def test_few_orders_are_kept_and_none_can_be_spoiled(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 50)
    orders = [epoch_order(rows, 0, epoch) for epoch in range(5)]
    kept = sorted(path.name for path in rows.folder.glob("order*"))
    assert kept == ["order-0-epoch3", "order-0-epoch4"]
    assert sorted(orders[0]) == list(range(50))  # its file is gone, its pages are not
    with pytest.raises(ValueError, match="read-only"):
        orders[4][0] = 1
    expected = orders[4].copy()
    (rows.folder / "order-0-epoch4").write_bytes(b"cut")
    np.testing.assert_array_equal(epoch_order(rows, 0, 4), expected)
