"""`headwater theory`: figures and numbers, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main


def test_figures_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["theory", "--root", str(tmp_path / "none"), "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["files"] == [
        str(out / name) for name in ("share.png", "threshold.png", "theory.json")
    ]
    assert "ensemble of 0.5 a, 0.5 b" in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    numbers = json.loads((out / "theory.json").read_text())
    assert [row["mixture"] for row in numbers["mixtures"]] == pytest.approx([0.3, 0.5, 0.75, 1.0714, 1.5], abs=1e-4)
    # Slopes to .02, shares and accuracies to .005: what 50 seeds support.
    for table, tolerance in (("mixtures", 0.02), ("added", 0.005), ("filters", 0.02)):
        for row in numbers[table]:
            for name in row:
                if name.endswith("_drawn"):
                    assert row[name] == pytest.approx(row[name.removesuffix("_drawn")], abs=tolerance), (table, row)
    assert numbers["filters"][0]["threshold"] is None
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("share.png", "threshold.png"))


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["theory", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "headwater theory: " in capsys.readouterr().err
