from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.errors import ShardError
from tests.trainer.conftest import Shifted, TinyMix, letters
from trainer.dataset import MixtureDataset
from trainer.loader import Loader

ENCODED_ANEW = range(0, 48, 3)


@pytest.fixture
def checked(mix: TinyMix, tmp_path: Path) -> TinyMix:
    """The mixture with a parquet beside each shard, a third of whose pictures were not stored as they came."""
    shutil.copytree(mix.shards_root, tmp_path / "shards")
    table = pq.read_table(mix.manifest).to_pylist()
    for source in "ab":
        rows = [record(mix, number, row) for number, row in enumerate(table) if row["source"] == source]
        none = {**rows[0], "offset": None, "sha256": None}
        pq.write_table(pa.Table.from_pylist([*rows[::-1], none]), tmp_path / "shards" / source / "00000.parquet")
    return TinyMix(mix.manifest, tmp_path / "shards", mix.images, mix.captions)


def record(mix: TinyMix, number: int, row: dict[str, Any]) -> dict[str, Any]:
    anew = number in ENCODED_ANEW
    downloaded = b"another encoding" if anew else mix.images[number]
    return {
        "offset": row["offset"],
        "size": row["size"],
        "sha256": hashlib.sha256(downloaded).hexdigest(),
        "original_bytes": len(downloaded) if number % 2 else row["size"],
        "width": 60,
        "height": 40,
        "original_width": 120 if anew else 60,
        "original_height": 80 if anew else 40,
    }


def dataset(mix: TinyMix, scratch: Path) -> MixtureDataset:
    return MixtureDataset(
        mix.manifest,
        mix.shards_root,
        view=Shifted(32),
        tokenize=letters,
        size=32,
        check_hashes=True,
        scratch=scratch,
    )


def overwrite(mix: TinyMix, row: int, change: int, data: bytes) -> str:
    """Write over some bytes at the beginning of a row's picture, or before it; the row's uid."""
    place = pq.read_table(mix.manifest).slice(row, 1).to_pylist()[0]
    with (mix.shards_root / place["source"] / "00000.tar").open("r+b") as tar:
        tar.seek(place["offset"] + change)
        tar.write(data)
    return str(place["uid"])


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_that_are_not_the_recorded_ones_are_counted(checked: TinyMix, tmp_path: Path, workers: int) -> None:
    picture = overwrite(checked, 7, 40, b"\0\0\0\0")  # of a picture that was stored as it came
    header = overwrite(checked, 9, 124 - 512, b"00000000777\0")  # of one that was encoded anew
    with Loader(dataset(checked, tmp_path), 48, workers=workers) as loader:
        assert loader.dataset.hashes is not None
        assert loader.dataset.hashes.known == 32
        batch = next(loader)
        assert not {7, 9} & set(batch.rows.tolist())
        assert loader.decode_errors == {picture: 1, header: 1}
        assert loader.reasons[picture] == "hash check: the SHA-256 is not the recorded one; download the shard again"
        assert "the tar's header is not of this picture" in loader.reasons[header]


def test_sound_bytes_pass_and_hashes_are_read_once(
    checked: TinyMix, mix: TinyMix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loader(dataset(checked, tmp_path), 48) as loader:
        assert sorted(next(loader).rows) == list(range(48))
        assert not loader.decode_errors
    monkeypatch.setattr("trainer.hashes._recorded", None)
    assert dataset(checked, tmp_path).hashes is not None


def test_shards_without_hashes_or_of_another_mixture_are_named(checked: TinyMix, tmp_path: Path) -> None:
    table = checked.shards_root / "b" / "00000.parquet"
    found = pq.read_table(table)
    pq.write_table(found.slice(3), table)
    with pytest.raises(ShardError, match=r"b/00000\.parquet is not of the shard that the mixture was built from"):
        dataset(checked, tmp_path)
    pq.write_table(found.drop_columns(["sha256"]), table)
    with pytest.raises(ShardError, match=r"b/00000\.parquet has no hashes to compare \([^\n]*\); set `check_hashes"):
        dataset(checked, tmp_path)
    table.unlink()
    with pytest.raises(ShardError, match=r"b/00000\.parquet has no hashes to compare"):
        dataset(checked, tmp_path)
    assert np.unique([path.name for path in tmp_path.rglob("*.tmp")]).size == 0
