from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.results import write_images
from pipelines.compare import main
from pipelines.evaluate import images_path
from pipelines.store.root import Root
from tests.evaluation.test_compare import images


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = Root(str(tmp_path))
    write_images(images_path(root, "even"), images({"x": [0] * 10 + [1] * 30}))
    write_images(images_path(root, "even", "umfc"), images({"x": [0] * 30 + [1] * 10}))
    return root.url


def test_two_models_by_name(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["even", "even+umfc", "--root", root]) == 0
    out, err = capsys.readouterr()
    [found] = json.loads(out)["sets"]
    assert (found["n"], found["only_a"], found["only_b"]) == (40, 0, 20)
    assert "compare: x: 40.0 and 80.0, +40.0 (" in err
    assert main(["even", "even+umfc", "--root", root, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"] == ["x"]


def test_a_result_that_is_not_there_is_named(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["even", "odd", "--root", root]) == 2
    assert "no result 'odd'; there is even, even+umfc" in capsys.readouterr().err
