"""What a result says beside its figure: calibration, exact intervals, classes and domains; and older files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.breakdown import parts
from evaluation.calibration import expected_calibration_error
from evaluation.results import RunInfo, from_json, to_json
from evaluation.shifts import Protocol, evaluate_similarities
from evaluation.tasks import Task, load_task, write_task
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask

RUN = RunInfo(run_id="r", kind="single")
NAMES = ["fox", "hen", "sea", "cup"]


def test_parts_are_shares_with_exact_intervals_and_empty_ones_are_left_out() -> None:
    [fox, cup] = parts(["fox", "hen", "cup"], np.array([0, 2, 0, 0, 2]), np.array([1.0, 1.0, 0.0, 1.0, 0.5]))
    assert (fox.name, fox.n, fox.acc1) == ("fox", 3, 2 / 3)
    exact = binomtest(2, 3).proportion_ci(0.95, "exact")
    assert (fox.low, fox.high) == pytest.approx((exact.low, exact.high))
    assert (cup.name, cup.n, cup.acc1) == ("cup", 2, 0.75)  # one of them tied with one other class
    assert cup.low < 0.75 < cup.high


@pytest.fixture
def sets(make_task: MakeTask) -> tuple[list[Task], dict[str, np.ndarray]]:
    """A reference, and two shifts of one domain of which one lacks a class; every picture has scores of its own."""
    tasks = [
        make_task("ref", NAMES, per_class=6),
        replace(make_task("ink", NAMES[:3], per_class=4), domain="drawn"),
        replace(make_task("chalk", NAMES, per_class=5), domain="drawn"),
    ]
    rng = np.random.default_rng(0)
    shapes = {task.name: (len(task.labels), len(task.classnames)) for task in tasks}
    scores = {
        task.name: (rng.normal(size=shapes[task.name]) + np.eye(shapes[task.name][1])[task.labels]).astype(np.float32)
        for task in tasks
    }
    return tasks, scores


def test_each_set_has_intervals_calibration_and_its_classes(
    sets: tuple[list[Task], dict[str, np.ndarray]],
) -> None:
    tasks, scores = sets
    result = evaluate_similarities(RUN, tasks, scores, "ref", protocol=Protocol(ways=2), scale=3.0).result
    for task in tasks:
        found = result.eval[task.name]
        right = scores[task.name].argmax(axis=1) == task.labels
        exact = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, "exact")
        assert found.top1 == found.acc1 == right.mean()
        assert (found.acc1_low, found.acc1_high) == pytest.approx((exact.low, exact.high))
        assert found.ece == expected_calibration_error(scores[task.name], task.labels, scale=3.0)
        assert [part.name for part in found.per_class] == task.classnames
        assert [part.acc1 for part in found.per_class] == [
            right[task.labels == i].mean() for i in range(found.classes)
        ]
        recalls = [part.acc1 for part in found.per_class]
        assert found.mean_per_class_recall == pytest.approx(np.mean(recalls))
    reference = result.eval["ink"].reference
    assert reference is not None and reference.ece is not None and reference.acc1_low is not None


def test_a_domain_is_all_its_sets_together_and_a_set_without_one_is_its_own(
    sets: tuple[list[Task], dict[str, np.ndarray]],
) -> None:
    tasks, scores = sets
    result = evaluate_similarities(RUN, tasks, scores, "ref", protocol=Protocol(ways=2)).result
    assert [(part.name, part.n) for part in result.per_domain] == [("ref", 24), ("drawn", 32)]
    right = np.concatenate([scores[task.name].argmax(axis=1) == task.labels for task in tasks[1:]])
    assert result.per_domain[1].acc1 == right.mean()
    assert [result.eval[task.name].domain for task in tasks] == ["ref", "drawn", "drawn"]


def test_a_domain_is_kept_beside_its_pictures(tmp_path: Path, make_task: MakeTask) -> None:
    write_task(tmp_path / "ink", replace(make_task("ink", NAMES), domain="drawn by hand"))
    assert load_task(tmp_path / "ink").domain == "drawn by hand"


def test_a_file_of_an_older_version_is_read(sets: tuple[list[Task], dict[str, np.ndarray]]) -> None:
    tasks, scores = sets
    result = evaluate_similarities(RUN, tasks, scores, "ref", protocol=Protocol(ways=2)).result
    assert from_json(to_json(result)) == result
    line = json.loads(to_json(result))
    del line["per_domain"]
    for figure in line["eval"].values():
        for name in ("acc1_low", "acc1_high", "ece", "top1", "domain", "per_class"):
            del figure[name]
    old = from_json(json.dumps(line))
    assert old.eval["ink"].acc1 == result.eval["ink"].acc1
    assert (old.eval["ink"].ece, old.eval["ink"].per_class, old.per_domain) == (None, [], [])


def test_similarities_that_do_not_fit_name_their_set(sets: tuple[list[Task], dict[str, np.ndarray]]) -> None:
    tasks, scores = sets
    protocol = Protocol(ways=2)
    with pytest.raises(InputError, match=r"^ink: similarities are \(12, 2\), its pictures and classes \(12, 3\)"):
        evaluate_similarities(RUN, tasks, {**scores, "ink": scores["ink"][:, :2]}, "ref", protocol=protocol)
    scores["chalk"][3, 1] = np.nan
    with pytest.raises(InputError, match=r"^chalk: similarities are not all finite"):
        evaluate_similarities(RUN, tasks, scores, "ref", protocol=protocol)
