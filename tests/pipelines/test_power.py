"""`headwater power`: the table, one JSON line, refusals; nothing is written where there is no root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.power import Design, Expected, power, spread
from pipelines.cli import main


def test_table_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "none"
    arguments = ["--dilution", "0.2", "--sizes", "4", "--seeds", "1,3", "--images", "925,5000", "--line"]
    assert main(["power", "--root", str(root), *arguments]) == 0
    printed = capsys.readouterr()
    designs = json.loads(printed.out)["designs"]
    assert [(one["sizes"], one["seeds"], one["models"]) for one in designs] == [(4, 1, 8), (4, 3, 24)]
    expected = power(spread(Design(4, 3, line=True), Expected(), 0.2), 0.2, 925)
    assert designs[1]["images"]["925"]["power"] == pytest.approx(expected, abs=1e-4)
    assert "power with 925" in printed.err and f"{designs[1]['images_needed']:,}" in printed.err
    assert not root.exists()


def test_a_dilution_that_no_pictures_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "--root", str(tmp_path), "--dilution", "0.02", "--seeds", "1"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["designs"][0]["images_needed"] is None
    assert "no number" in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sizes", "3"], "a line needs 4 sizes"),
        (["--seeds", "one"], "field 'seeds.0'"),
        (["--images", "0"], "field 'images.0': input should be greater than or equal to 1"),
        (["--low", "0.5"], "must rise"),
        (["--dilution", "0"], "field 'dilution'"),
    ],
)
def test_wrong_input(arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "--root", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.strip().count("\n") == 0 and printed.out == ""
