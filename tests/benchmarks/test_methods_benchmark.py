"""The benchmark of the methods: its loop and ours compute the same, and the runner ends with one JSON line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from benchmarks import method_tpt, methods
from evaluation.prompts import class_prompts
from evaluation.tpt import Tuned
from trainer.model import LoadedModel, load_model


@pytest.fixture
def tiny(tiny_model: Path) -> LoadedModel:
    loaded = load_model(str(tiny_model))
    loaded.model.requires_grad_(False)
    return loaded


def test_the_loop_and_ours_give_the_same(tiny: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = method_tpt.make_pictures(2, tiny)
    assert pictures.shape == (2, 64, 3, 32, 32)
    figures = method_tpt.compare(tiny, ["tench", "great white shark", "hen"], pictures, 2)
    assert figures["largest_difference"] < 1e-4
    assert {"text_ratio", "total_ratio", "image_ratio", "text_ratio_cpu"} <= set(figures)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["image", "text", "total"]
    assert [line.split()[0] for line in lines[2:4]] == ["loop", "ours"]


def test_a_difference_is_noticed(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = method_tpt.make_pictures(1, tiny)

    def other(*arguments: Any) -> Tuned:
        monkeypatch.setattr(method_tpt, "LR", 1e-2)
        try:
            return method_tpt.ours(*arguments)
        finally:
            monkeypatch.setattr(method_tpt, "LR", 5e-3)

    clock = method_tpt.Clock(torch.device("cpu"))
    prompts = class_prompts(tiny.tokenizer, ["tench", "hen"])
    expected = method_tpt.usual_loop(tiny, prompts, pictures, clock)
    method_tpt.difference(method_tpt.ours(tiny, prompts, pictures, clock), expected)
    with pytest.raises(AssertionError):
        method_tpt.difference(other(tiny, prompts, pictures, clock), expected)


def test_the_names_are_fifty_of_imagenets() -> None:
    names = method_tpt.NAMES.read_text(encoding="utf-8").splitlines()
    assert len(set(names)) == 50
    assert set(names) < set(IMAGENET_CLASSNAMES)


def test_without_a_gpu_nothing_is_measured_on_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert methods.main(["--gpu", "--only", "tpt"]) == 0
    *_, reason, last = capsys.readouterr().out.splitlines()
    assert reason == "not measured: there is no GPU here"
    found = json.loads(last)
    assert found["goals"]["tpt text_ratio"] == 10.0
    assert found["met"] == dict.fromkeys(found["goals"])


def test_the_runner_gathers_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, calls = ModuleType("benchmarks.method_made_up"), []

    def run(quick: bool, gpu: bool) -> dict[str, Any]:
        calls.append((quick, gpu))
        return {"figures": {"ratio": 5.0}, "goals": {"ratio": 4.0}, "met": {"ratio": True}}

    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(methods, "METHODS", {"one": module.__name__, "none": "benchmarks.method_of_nobody"})
    assert methods.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not measured: benchmarks.method_of_nobody is not here" in lines
    expected = {"figures": {"one ratio": 5.0}, "goals": {"one ratio": 4.0}, "met": {"one ratio": True}}
    assert json.loads(lines[-1]) == {"benchmark": "methods", **expected}
    assert methods.main(["--only", "one"]) == 0
    assert calls == [(True, False), (False, False)]


def test_a_module_that_lacks_another_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "method_that_lacks.py").write_text("import a_library_of_nobody\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(methods, "METHODS", {"one": "method_that_lacks"})
    with pytest.raises(ModuleNotFoundError, match="a_library_of_nobody"):
        methods.load("one")
