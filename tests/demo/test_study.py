"""The study of near duplicates: transforms are what they say, and rates are counted as they should be."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import study as module
from demo.drawings import load_drawings, same_drawings
from demo.study import THRESHOLDS, planned, read_study, run_study, study_checks, study_of, summed_up
from demo.study_transforms import STEPS, Step, transform
from demo.web_faults import CROPS, QUALITIES, SCALES, TRANSFORMS
from evaluation.report_data import Study, StudyLine
from filters.near_pairs import NearParams
from pipelines.store.root import Root

NAMES = load_drawings()["drawing"].to_pylist()
IMAGE = load_drawings()["image"][40].as_py()
SCALE, CROP = (next(step for step in STEPS if step.name == name) for name in ("scale", "crop"))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def pairs(*rows: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    return table, np.array([row[2] for row in rows], np.float32)


def test_goal_is_set_for_all_that_the_web_plants() -> None:
    goal = {(step.name, *step.values) for step in STEPS if step.goal}
    assert {name for name, *_ in goal} == {*TRANSFORMS, "webp"}
    for name, strengths in (("scale", SCALES), ("crop", CROPS), ("jpeg", QUALITIES), ("webp", QUALITIES)):
        assert {(name, value) for value in strengths} <= goal
    assert len({(step.name, step.strength) for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name} {step.strength}")
def test_transforms_change_the_picture_and_repeat(step: Step) -> None:
    data = transform(IMAGE, step, np.random.default_rng(3))
    assert data == transform(IMAGE, step, np.random.default_rng(3))
    assert data != IMAGE
    before, after = opened(IMAGE).size, opened(data).size
    if step.name == "scale":
        assert after == tuple(max(1, round(side * step.values[0])) for side in before)
    elif step.name == "crop":
        assert after == tuple(max(1, round(side * (1 - step.values[0]))) for side in before)
    elif step.name == "border":
        assert after == tuple(side + 2 * max(1, round(step.values[0] * max(before))) for side in before)
    elif "+" not in step.name:
        assert after == before


def test_mirror_and_brightness_do_what_they_say() -> None:
    original = np.asarray(opened(IMAGE), np.float32)
    mirrored = np.asarray(opened(transform(IMAGE, STEPS[-1], np.random.default_rng(0))), np.float32)
    assert STEPS[-1].name == "mirror"
    assert np.abs(mirrored[:, ::-1] - original).mean() < 3 < np.abs(mirrored - original).mean()
    darker = transform(IMAGE, Step("brightness", "", (-0.2,)), np.random.default_rng(0))
    assert np.asarray(opened(darker), np.float32).mean() == pytest.approx(0.8 * original.mean(), rel=0.02)


def test_rates_are_counted_by_hand() -> None:
    limit = NearParams().max_distance
    plan = [(SCALE, 0), (SCALE, 1), (CROP, 2), (CROP, 3)]
    clean = pairs((0, 1, limit / 2), (0, 2, limit * 2), (1, 2, limit * 3))
    # The first copy is found, the second is too far, the third is no candidate but near another, the fourth nothing.
    found = pairs((0, 0, 0.01), (1, 1, limit * 2), (2, 3, limit / 2))
    study = summed_up(NAMES[:4], plan, clean, found)
    assert study.in_use == limit and study.thresholds == list(THRESHOLDS)
    assert [line.recall[study.chosen] for line in study.lines] == [0.5, 0.0]
    assert [line.recall[-1] for line in study.lines] == [1.0, 0.0]
    assert [line.astray for line in study.lines] == [0, 1]
    assert (study.false_rate[study.chosen], study.false_rate[-1]) == (1 / 4, 2 / 4)
    assert (study.pairs, study.candidates, study.false_pairs, study.excused) == (6, 3, 1, 0)
    assert study.recall()[study.chosen] == 1 / 4


def test_drawings_that_look_the_same_by_nature_count_neither_way() -> None:
    one, other = sorted(next(iter(same_drawings())))
    study = summed_up([one, other], [(SCALE, 0)], pairs((0, 1, 0.01)), pairs((0, 1, 0.01)))
    assert (study.pairs, study.candidates, study.false_pairs, study.excused) == (0, 0, 0, 1)
    assert study.false_rate[-1] == 0
    assert (study.lines[0].recall[-1], study.lines[0].astray) == (0.0, 0)


def test_goal_place_is_the_widest_threshold_within_the_goal() -> None:
    line = StudyLine("scale", "x", 10, [0.5, 0.9, 1.0], 0, True)
    study = Study([0.1, 0.2, 0.3], 1, [0.0, 0.004, 0.02], [line], 100, 4950, 10, 0, 0, 0.98, 0.005)
    assert (study.at_goal, study.in_use) == (1, 0.2)
    found, false = study_checks(study)
    assert (found.found, found.met, false.false, false.met) == (9, False, 0, True)
    wide = dataclasses.replace(study, chosen=2)
    assert [check.met for check in study_checks(wide)] == [True, False]


def test_a_small_study_repeats_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPIES", {True: 3, False: 1})
    assert len(planned(30, 0)) == sum(3 if step.goal else 1 for step in STEPS)
    assert planned(30, 0) != planned(30, 1)
    study = run_study(0, drawings=30)
    assert study == run_study(0, drawings=30, threads=1)
    assert study.recall()[study.chosen] > 0.8
    assert study.false_rate[study.chosen] <= 1 / 30
    root = Root(str(tmp_path))
    assert read_study(root) is None
    monkeypatch.setattr(module, "run_study", lambda seed, share: study)
    study_of(root, 0)
    assert read_study(root) == study
    monkeypatch.setattr(module, "run_study", lambda seed, share: pytest.fail("the study was done before"))
    study_of(root, 0)
