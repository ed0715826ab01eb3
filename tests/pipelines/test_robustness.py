"""`headwater robustness`: tables and figures from results and CSV, one JSON line, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from evaluation.baselines import DATA
from evaluation.results import Component, Result, SetResult, write_results
from pipelines.cli import main

TABLE = str(DATA / "open_clip.csv")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main(["robustness", *arguments])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {}, printed.err


def results(path: Path, sizes: tuple[int, ...] = (1, 2, 4, 8)) -> None:
    """Models of two sources on a reference and a shift that share a line each."""
    rows = []
    for source, intercept in (("even", 0.0), ("odd", -0.4)):
        for i, size in enumerate(sizes):
            z = -1.2 + 0.3 * i
            sets = {}
            for name, value in (("imagenet", norm.cdf(z)), ("imagenet-r", norm.cdf(z + intercept))):
                figure = {
                    "n": 5000, "classes": 10, "value": value, "low": 0.0, "high": 1.0, "chance": 0.1,
                    "at_floor": False, "acc1": value, "acc5": None, "mean_per_class_recall": value,
                }  # fmt: skip
                sets[name] = SetResult(**figure, protocol="p", template_hash="t", family="", same_family=False)
            parts = [Component(source=source, n=1000 * size)]
            rows.append(
                Result(run_id=f"{source}-{size}", kind="single", components=parts, n_total=1000 * size, eval=sets)
            )
    write_results(path, rows)


def test_open_clips_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, text = run(capsys, "--root", str(tmp_path), "--results", TABLE, "--against", "laion400m")
    assert code == 0
    assert (line["models"], line["baseline"], line["against"]) == (121, "std+low", "laion400m")
    assert list(line["shifts"]) == ["a", "objectnet", "r", "sketch", "v2"]
    r = line["shifts"]["r"]
    assert r["lines"]["openai"]["slope"] == pytest.approx(1.885, abs=1e-3)
    assert r["lines"]["cc12m"] == {"insufficient": "2 models of different accuracy, 4 are needed"}
    assert r["effective"]["RN50-quickgelu yfcc15m"] == pytest.approx(8.8, abs=0.05)
    assert len(r["relative"]["openai"]) == 5 and "cc12m" not in r["relative"]
    assert "effective" not in line["shifts"]["a"]
    assert "insufficient: 2 models" in text and "+8.8" in text and "Points above laion400m" in text
    assert line["plots"] == [str(tmp_path / "robustness" / "shifts.png")]
    assert (tmp_path / "robustness" / "shifts.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_a_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / "results" / "models.jsonl")
    code, line, _ = run(capsys, "--root", str(tmp_path), "--reference", "imagenet", "--out", str(tmp_path / "out"))
    assert code == 0
    r = line["shifts"]["r"]
    assert line["against"] == "even"
    assert (r["lines"]["odd"]["slope"], r["lines"]["odd"]["intercept"]) == pytest.approx((1, -0.4), abs=1e-4)
    for gap in r["relative"]["odd"]:
        expected = 100 * (norm.cdf(norm.ppf(gap["x"]) - 0.4) - gap["x"])
        assert gap["points"] == pytest.approx(expected, abs=0.01)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data_efficiency.png", "shifts.png"]


def test_too_few_sizes_are_said_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / "r.jsonl", sizes=(1, 2, 4))
    code, line, text = run(capsys, "--root", str(tmp_path), "--results", str(tmp_path / "r.jsonl"))
    assert code == 0
    assert line["shifts"]["r"]["lines"]["odd"] == {"insufficient": "3 sizes of training set, 4 are needed"}
    assert "insufficient: 3 sizes" in text


def test_the_baseline_can_be_chosen_and_says_where_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--root", str(tmp_path), "--results", TABLE, "--shifts", "v2", "--baseline", "std")
    code, line, text = run(capsys, *arguments)
    v2 = line["shifts"]["v2"]
    assert code == 0 and v2["baseline"] == "std (probit, v2 on val)"
    assert "RN50 yfcc15m" in v2["extrapolated"] and "ViT-B-32 openai" not in v2["extrapolated"]
    assert "*" in text


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "none"
    code, line, _ = run(capsys, "--root", str(root), "--results", TABLE, "--shifts", "r,v2", "--dry-run")
    assert code == 0
    assert line["shifts"] == ["r", "v2"] and line["models"] == 121 and "openai" in line["sources"]
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no results yet; run `headwater evaluate`, or pass --results FILE"),
        (["--results", "none.csv"], "none.csv: no such file"),
        (["--results", f"{TABLE},{TABLE}"], "two models are called ViT-H-14-378-quickgelu dfn5b"),
        (["--results", TABLE, "--reference", "photos"], "no model has the reference 'photos'"),
        (["--results", TABLE, "--shifts", "styles"], "no model has the shift styles"),
        (["--results", TABLE, "--against", "yfcc"], "no source 'yfcc'; there are dfn"),
        (["--results", TABLE, "--baseline", "low"], "field 'baseline'"),
    ],
)
def test_wrong_input(arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", "--root", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.out == ""
    assert printed.err.strip().count("\n") == 0
