from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.batch import Batch
from trainer.ranks import Ranks
from trainer.step import StepResult
from trainer.window import Watch, Window
from trainer.work import Work


def batch(sources: list[int]) -> Batch:
    count = len(sources)
    return Batch(
        torch.zeros(count, 3, 2, 2, dtype=torch.uint8),
        torch.zeros(count, 4, dtype=torch.int64),
        torch.tensor(sources),
        np.arange(count),
    )


def test_losses_by_source_are_means_over_the_window_s_pairs() -> None:
    window = Window()
    for sources, each in (([0, 2, 0], [1.0, 5.0, 3.0]), ([2, 2, 0], [7.0, 6.0, 8.0])):
        losses = torch.tensor(each)
        window.add(batch(sources), StepResult(losses.mean(), losses, torch.tensor(2.5)), 3, 10)
    found = window.metrics(["a", "b", "c"], Ranks())
    assert found["loss_by_source"] == {"a": 4.0, "c": 6.0}  # b had no pair
    assert found["loss"] == 7.0
    assert found["mean_loss"] == 5.0
    assert found["grad_norm"] == 2.5
    speed = window.speed(Work(image=1.0, token=1.0, rate=1e9), Ranks())
    assert set(speed) == {"seconds", "samples_per_s", "data_wait", "mfu"}


def test_a_loss_that_rises_for_good_is_told_from_one_that_swings() -> None:
    def says(losses: list[float]) -> list[bool]:
        watch = Watch()
        return [watch.diverged(loss) for loss in losses]

    assert not any(says([4.0, 5.0, 6.0, 7.0, 8.0]))  # never was good: the warm-up of a bad start
    assert not any(says([4.0, 2.0, 5.0, 5.0, 3.0, 5.0, 5.0]))
    assert says([4.0, 2.0, 5.0, 5.0, 5.0]) == [False, False, False, False, True]
    assert math.isinf(Watch().first)


def test_utilisation_counts_what_texts_need() -> None:
    work = Work(image=6.0, token=2.0, rate=100.0)
    assert work.utilisation(pairs=10, tokens=20, seconds=2.0) == pytest.approx(0.5)
