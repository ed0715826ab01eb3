"""Wrong sets, settings, models and pictures: `headwater evaluate` and `attribute` say in one line what is wrong."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.tasks import Task, load_task, write_task
from filters.errors import InputError
from pipelines.cli import main
from tests.evaluation.conftest import nan_model
from tests.evaluation.test_cache import picture
from tests.evaluation.test_tasks import rewrite

NAMES = ["fox", "hen", "sea", "cup"]


def task(name: str, names: list[str]) -> Task:
    labels = np.arange(8) % len(names)
    return Task(name, [picture(3 * i) for i in range(8)], labels, names, ["a {c}"], [str(i) for i in range(8)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sets."""
    for name in ("val", "other"):
        write_task(tmp_path / "eval" / name, task(name, NAMES))
    return tmp_path


def empty(root: Path) -> None:
    shutil.rmtree(root / "eval" / "other")
    (root / "eval" / "other").mkdir()


def without_pictures(root: Path) -> None:
    for tar in (root / "eval" / "other" / "test").glob("*.tar"):
        tarfile.open(tar, "w").close()


def corrupt(root: Path) -> None:
    rewrite(root / "eval" / "other" / "test" / "0.tar", {"s0000000.png": b"no picture"})


def no_tar(root: Path) -> None:
    (root / "eval" / "other" / "test" / "0.tar").write_bytes(b"no tar" * 500)


def one_class(root: Path) -> None:
    shutil.rmtree(root / "eval" / "val")
    write_task(root / "eval" / "val", task("val", ["fox"]))


SETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty folder": (empty, "other/classnames.txt is missing"),
    "no pictures": (without_pictures, "other holds no pictures"),
    "corrupt picture": (corrupt, "other/test/0.tar: member s0000000.png: 10 bytes are not a whole picture"),
    "corrupt tar": (no_tar, "other/test/0.tar is not a whole tar: file could not be opened successfully"),
    "one class": (one_class, "val is scored among 1 classes (all), too few for 2-way accuracy"),
    "no sets": (lambda root: shutil.rmtree(root / "eval"), "no reference set 'val'; there is nothing"),
}


def evaluate(root: Path, model: Path, *more: str) -> int:
    flags = ["--root", str(root), "--reference", "val", "--ways", "2", "--local", "--checkpoint", str(model)]
    return main(["evaluate", *flags, *more])


@pytest.mark.parametrize("name", SETS)
def test_the_command_says_which_set_is_wrong(
    name: str, root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = SETS[name]
    change(root)
    if name not in ("one class", "no sets"):
        with pytest.raises(InputError, match=re.escape(says)):
            load_task(root / "eval" / "other")
    assert evaluate(root, tiny_model) in (2, 3)
    lines = capsys.readouterr().err.splitlines()
    assert says in lines[-1] and lines[-1].startswith("headwater evaluate: ")
    assert not (root / "results").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "tpt", "--set", "test_time.views=9"], "keep 0.1 of 9 views leaves none"),
        (["--ways", "1"], "field 'ways'"),
        (["--reference", "photos"], "no reference set 'photos'; there is other, val"),
    ],
)
def test_the_command_says_which_setting_is_wrong(
    flags: list[str], says: str, root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(root, tiny_model, *flags) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["evaluate", "attribute"])
def test_commands_with_a_model_that_gives_no_numbers(
    command: str, root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nan_model(tiny_model, root / "nan", "visual.conv1.weight")
    if command == "evaluate":
        assert evaluate(root, model) == 3
    else:
        (root / "pairs").mkdir()
        (root / "pairs" / "a.png").write_bytes(picture(3))
        (root / "pairs" / "a.txt").write_text("a fox")
        flags = ["--folder", str(root / "pairs"), "--out", str(root / "out"), "--model", str(model), "--local"]
        assert main(["attribute", *flags]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"headwater {command}: ") and "not finite" in last


def test_a_pair_that_cannot_be_read_is_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("a fox")
    flags = ["--folder", str(tmp_path), "--out", str(tmp_path / "out"), "--model", str(tiny_model)]
    assert main(["attribute", *flags]) == 3
    assert "the first is a: 10 bytes are not a whole picture" in capsys.readouterr().err.splitlines()[-1]
