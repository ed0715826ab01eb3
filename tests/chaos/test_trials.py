"""A few trials of `make chaos` on the first stages of the chain, and what its checks find."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.__main__ import table
from tests.chaos.checks import accounts, differences, torn
from tests.chaos.faults import HERE, ON_RAY
from tests.chaos.trials import Chaos, Trial, chaos, faketime, planned


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """The chain up to its download, undisturbed."""
    with chaos(tmp_path_factory.mktemp("chaos") / "c", ["download"]) as made:
        yield made


@pytest.mark.parametrize(("stage", "fault"), [("ingest", "two"), ("download", "driver")])
def test_nothing_is_lost(made: Chaos, stage: str, fault: str) -> None:
    [found] = [one for one in made.stages if one.name == stage]
    outcome = made.run(Trial(found, fault, 1, on_ray=False))
    assert outcome.tried
    assert outcome.lost == []
    assert table([outcome]).splitlines()[-1].startswith("survived 1 of 1 tried")


def test_what_is_lost_is_found(made: Chaos, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made.folder / "root", tmp_path / "root"))
    truth = made.truth["download"]
    assert differences(root, truth) == []
    shutil.copy(root / "shards" / "a" / "00001.parquet", root / "shards" / "a" / "00009.parquet")
    assert len(accounts(root)) == 4
    (root / "shards" / "a" / "00009.parquet").unlink()
    tar = root / "shards" / "b" / "00002.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])  # its end is padding, which nobody misses
    assert [line.split(":")[0] for line in torn(root)] == ["shards/b/00002.tar"]


def test_each_fault_is_tried_five_times(made: Chaos) -> None:
    trials = planned([stage._replace(on_ray=True) for stage in made.stages], 50)
    kinds = len(HERE) + len(ON_RAY) - (not faketime())
    assert len({trial.fault for trial in trials}) == kinds
    assert min(sum(trial.fault == fault for trial in trials) for fault in {t.fault for t in trials}) >= 5
    assert len({trial.seed for trial in trials}) == 50
