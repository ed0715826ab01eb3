from __future__ import annotations

import copy
import io

import pytest
import torch

from tests.trainer.small_models import make_step, small_batch, small_model
from trainer.ema import WeightAverage


def test_it_moves_part_of_the_way() -> None:
    linear, norm = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    model = torch.nn.Sequential(linear, norm)
    average = WeightAverage(model, 0.75)
    start = copy.deepcopy(model.state_dict())
    for step in (1, 2):
        with torch.no_grad():
            linear.weight.copy_(start["0.weight"] + 8 * step)
            norm.get_buffer("num_batches_tracked").fill_(step)
        average.update()
    state = average.state_dict()
    torch.testing.assert_close(state["0.weight"], start["0.weight"] + 0.75 * 2 + 0.25 * 16)
    assert int(state["1.num_batches_tracked"]) == 2
    assert model.load_state_dict(state).missing_keys == []


def test_the_model_does_not_change_its_average() -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    before = average.state_dict()["weight"].clone()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(average.state_dict()["weight"], before)


def test_a_step_averages_and_goes_on_from_a_saved_state() -> None:
    runs = []
    for cut in (False, True):
        step = make_step(small_model(), ema=0.9)
        start = copy.deepcopy(step.model.state_dict())
        for number in range(4):
            if cut and number == 2:
                saved = io.BytesIO()
                torch.save({"model": step.model.state_dict(), "step": step.state_dict()}, saved)
                state = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
                step = make_step(small_model(), ema=0.9)
                step.model.load_state_dict(state["model"])
                step.load_state_dict(state["step"])
            step(small_batch(16, number), 1e-3)
        runs.append(step)
    assert runs[0].average is not None and runs[1].average is not None
    left, right = (run.average.state_dict() for run in runs if run.average)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert all(
        torch.equal(value, runs[1].model.state_dict()[name]) for name, value in runs[0].model.state_dict().items()
    )
    moved = {name: (left[name] - start[name]).abs().max() for name in left}
    assert all(value > 0 for name, value in moved.items() if name.startswith("visual."))


def test_a_missing_weight_is_an_error() -> None:
    with pytest.raises(KeyError, match="bias"):
        WeightAverage(torch.nn.Linear(2, 2), 0.5).load_state_dict({"weight": torch.zeros(2, 2)})
