from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.sampling import sample_order
from trainer import sorting
from trainer.sorting import read_map, row_type, write_sorted


@pytest.mark.parametrize("chunk", [7, 100, 1 << 19])
@pytest.mark.parametrize("count", [1, 6, 7, 1000])
def test_rows_are_sorted_by_key_then_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, count: int
) -> None:
    monkeypatch.setattr(sorting, "CHUNK", chunk)
    keys = sample_order(np.random.default_rng(0).integers(0, count // 2 + 1, count).astype(np.uint64), 3)
    path = tmp_path / "order"
    write_sorted(path, count, lambda start, stop: keys[start:stop])
    np.testing.assert_array_equal(read_map(path, row_type(count)), np.lexsort((np.arange(count), keys)))
    assert [left.name for left in tmp_path.iterdir()] == ["order"]


def test_the_type_of_row_numbers_grows_with_their_count() -> None:
    assert row_type((1 << 32) - 1) == np.uint32
    assert row_type(1 << 32) == np.uint64
