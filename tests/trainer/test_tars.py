from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from filters.errors import ConfigError, InputError
from pipelines.exports.plan import Export, contents, pieces
from pipelines.exports.uses import open_manifest
from pipelines.exports.write import make_work
from pipelines.store.root import Root
from tests.trainer.conftest import Shifted, TinyMix, letters, text_of
from trainer.dataset import Epoch, MixtureDataset
from trainer.loader import Loader

PER_TAR = 10


def materialise(folder: Path, mix: TinyMix) -> Path:
    """A root with the mixture `m` and its tars, as `headwater materialize` writes them; the mixture's folder."""
    shutil.copytree(mix.shards_root, folder / "shards")
    mixture = folder / "mixes" / "m"
    mixture.mkdir(parents=True)
    table = pq.read_table(mix.manifest)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, mixture / "manifest.parquet", row_group_size=7)
    root = Root(str(folder))
    export = Export("m", "mixed", "tars", "mark")
    work = make_work(str(folder), export)
    for piece in pieces(export, contents(open_manifest(root, "m")), PER_TAR):
        work(piece)
    return mixture


@pytest.fixture(scope="module")
def mixture(mix: TinyMix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materialise(tmp_path_factory.mktemp("root"), mix)


def dataset(mixture: Path, *, tars: bool = True, check_hashes: bool = False) -> MixtureDataset:
    return MixtureDataset(
        mixture / "manifest.parquet",
        mixture / "tars" if tars else mixture.parents[1] / "shards",
        view=Shifted(32),
        tokenize=letters,
        size=32,
        tars=tars,
        check_hashes=check_hashes,
        scratch=mixture / "scratch",
    )


def test_tars_hold_the_rows_of_the_manifest(mixture: Path) -> None:
    tars, shards = dataset(mixture), dataset(mixture, tars=False)
    assert (tars.sources, len(tars)) == (shards.sources, 48)
    assert tars.rows.files == [f"m-{number:08d}.tar" for number in range(5)]
    rows = np.arange(48)
    assert [tars.rows.uid(row) for row in range(48)] == [shards.rows.uid(row) for row in range(48)]
    draws = rows.astype(np.uint64)
    assert tars.rows.captions(rows, draws) == shards.rows.captions(rows, draws)
    np.testing.assert_array_equal(tars.rows.places["source"], shards.rows.places["source"])
    assert tars._read(tars.rows.places[3:40]) == shards._read(shards.rows.places[3:40])


def test_an_epoch_reads_one_tar_after_the_other(mixture: Path) -> None:
    data = dataset(mixture)
    firsts = set()
    for epoch in range(6):
        order = data.order(Epoch(0, epoch))
        assert sorted(order) == list(range(48))
        runs = np.split(order, np.flatnonzero(np.diff(order // PER_TAR)) + 1)
        assert len(runs) == 5
        assert all((np.diff(run) == 1).all() for run in runs)
        firsts.add(order[0])
    assert len(firsts) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_read_runs_of_the_same_batches(mixture: Path, workers: int) -> None:
    with Loader(dataset(mixture), 16) as loader:
        whole = [next(loader) for _ in range(5)]
        state = loader.state_dict()
        later = next(loader)
    for ranks in (1, 2, 4):
        for rank in range(ranks):
            mine = slice(rank * 16 // ranks, (rank + 1) * 16 // ranks)
            with Loader(dataset(mixture), 16, rank=rank, ranks=ranks, workers=workers, unit=3) as loader:
                for expected in whole:
                    batch = next(loader)
                    assert np.array_equal(batch.images, expected.images[mine])
                    assert text_of(batch.tokens) == text_of(expected.tokens[mine])
                loader.load_state_dict(state)
                assert np.array_equal(next(loader).rows, later.rows[mine])


def test_rows_that_were_lost_are_not_there(mix: TinyMix, tmp_path: Path) -> None:
    lost = TinyMix(mix.manifest, tmp_path / "some", mix.images, mix.captions)
    shutil.copytree(mix.shards_root / "a", tmp_path / "some" / "a")
    data = dataset(materialise(tmp_path / "root", lost))
    assert len(data) == 24
    assert data.sources == ["a"]


def test_tars_of_something_else_are_refused(mixture: Path, mix: TinyMix, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accounts/tars: no tars are known; run `headwater materialize`"):
        dataset(mix.manifest.parent)
    other = tmp_path / "mixes" / "m"
    shutil.copytree(mixture, other)
    shutil.copyfile(mix.manifest, other / "manifest.parquet")
    with pytest.raises(InputError, match=r"m-00000000\.parquet is of another mixture than .*manifest\.parquet"):
        dataset(other)
    with pytest.raises(ConfigError, match="batches of one source cannot be read from tars"):
        Loader(dataset(mixture), 8, batch_mix="single_source")
    with pytest.raises(ConfigError, match="no hashes of materialised tars"):
        dataset(mixture, check_hashes=True)
