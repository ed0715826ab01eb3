from __future__ import annotations

import json

import pytest
import torch

from benchmarks.train import main
from benchmarks.train_sides import Side, run_side


@pytest.mark.slow
def test_a_quick_run_compares_all_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert set(found["figures"]) >= {"open_clip", "ours", "ours, texts packed"}
    assert found["met"].keys() == {"cpu"}
    assert "tokens of a caption: mean 15" in out or "tokens of a caption: mean 14" in out


def test_both_sides_take_the_same_step() -> None:
    """The same weights and batches: losses within rounding, and ours spends fewer operations on texts."""
    threads = torch.get_num_threads()
    sides = [Side(who, who, model="tiny", batch=16, steps=3) for who in ("open_clip", "ours")]
    theirs, ours = (run_side(side) for side in sides)
    torch.set_num_threads(threads)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-4)
    assert ours.needed_flops == theirs.needed_flops
    assert ours.needed_flops <= ours.spent_flops < theirs.spent_flops


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu"]) == 2
    assert "no GPU" in capsys.readouterr().err
