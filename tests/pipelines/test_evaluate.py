"""Evaluate: when a result counts as done, models that were not trained here, and methods side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.results import read_results
from evaluation.tasks import Task, write_task
from pipelines.evaluate import EvaluateConfig, main
from pipelines.evaluated import Models, sets_of
from pipelines.store.root import Root
from tests.evaluation.test_cache import picture


def test_a_corrected_label_makes_a_result_old(tmp_path: Path) -> None:
    """A label file keeps its length when a label is corrected, so sizes do not tell."""
    root, config = Root(str(tmp_path)), EvaluateConfig(root=str(tmp_path), reference="a")
    root.write_bytes(b"1", "eval", "a", "test", "0.tar")
    before = sets_of(root, config).made_from
    assert before == sets_of(root, config).made_from
    root.write_bytes(b"2", "eval", "a", "test", "0.tar")
    assert before != sets_of(root, config).made_from


def test_a_changed_recipe_of_the_mixture_makes_a_result_old(tmp_path: Path) -> None:
    root, config = Root(str(tmp_path)), EvaluateConfig(root=str(tmp_path), reference="a")
    root.write_json({"config": {"where": None}, "sources": []}, "mixes", "model", "mix.lock.json")
    before = Models(root, config).origin("model")
    root.write_json({"config": {"where": "true"}, "sources": []}, "mixes", "model", "mix.lock.json")
    assert before != Models(root, config).origin("model")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A root with two sets of four classes."""
    names = ["fox", "hen", "sea", "cup"]
    for number, name in enumerate(("val", "shifted")):
        images = [picture(3 * i + number) for i in range(12)]
        task = Task(name, images, np.arange(12) % 4, names, ["a photo of a {c}."], [str(i) for i in range(12)])
        write_task(tmp_path / "eval" / name, task)
    return tmp_path


def test_a_foreign_model_by_all_methods_side_by_side(
    sets: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--root", str(sets), "--reference", "val", "--ways", "2", "--local", "--checkpoint", str(tiny_model),
        "--method", "zero_shot,umfc,tpt", "--set", "test_time.views=4", "--set", "test_time.keep=0.5",
        "--set", "test_time.clusters=2",
    ]  # fmt: skip
    assert main(flags) == 0
    out, err = capsys.readouterr()
    [(name, rows)] = json.loads(out)["methods"].items()
    assert set(rows) == {"val", "shifted"}
    for row in rows.values():
        assert set(row) == {"zero_shot", "umfc", "tpt"}
        for method in ("umfc", "tpt"):
            cell = row[method]
            assert cell["value"] - row["zero_shot"]["value"] == pytest.approx(cell["difference"])
            assert cell["low"] <= cell["difference"] <= cell["high"]
    assert f"{name}: shifted: zero_shot " in err
    [result] = read_results(sets / "results" / f"{name}+tpt.jsonl")
    assert (result.kind, result.run_id) == ("external", f"{name}+tpt")
    assert len(list((sets / "eval_cache").rglob("*.npy"))) == 4  # of each set the features, and TPT's scores
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 1
    assert main([*flags, "--set", "test_time.steps=0"]) == 0  # other settings: done again
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--method", "magic"], "method: magic is not known; use zero_shot, tpt, umfc"),
        (["--models", "a"], "two things; give one"),
        (["--set", "test_time.views=3"], "keep"),
    ],
)
def test_what_cannot_be_is_one_line(
    flags: list[str], says: str, sets: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--root", str(sets), "--reference", "val", "--ways", "2", "--local", "--checkpoint", str(tiny_model)]
    method = [] if "--method" in flags else ["--method", "tpt"]
    assert main([*base, *method, *flags]) in (2, 3)
    assert says in capsys.readouterr().err
