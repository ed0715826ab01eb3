"""Runs read from results, halves of concepts, and the bootstrap that all of the study shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.draws import Estimate, estimate, panel_of
from evaluation.results import Component, RunInfo
from evaluation.runs import run_of, shares_of
from evaluation.shifts import Protocol, evaluate_similarities
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask
from tests.evaluation.study_runs import REFERENCE, SHIFT, mixed, run, singles

NAMES = ["fox", "hen", "sea", "cup", "elk", "fig"]


def test_a_run_read_from_a_result(make_task: MakeTask) -> None:
    """The reader's figures are those of the results file, on the classes that a shift shares."""
    tasks = [make_task("ref", NAMES, family="twin"), make_task("ink", NAMES[:4], per_class=3, seed=1, family="ink")]
    rng = np.random.default_rng(0)
    scores = {t.name: rng.normal(size=(len(t.labels), len(t.classnames))).astype(np.float32) for t in tasks}
    parts = [Component(source="b", n=100), Component(source="a", n=200, seed=1), Component(source="a", n=100)]
    info = RunInfo(run_id="m", kind="input_mix", components=parts, n_total=400, seed=3, families=["ink"])
    found = evaluate_similarities(info, tasks, scores, "ref", protocol=Protocol(ways=3, resamples=50))
    read = run_of(found.result, found.images, flags=["barely converged"])
    assert (read.group, read.shares, read.n_total, read.seed) == ("a+b 75:25", {"a": 0.75, "b": 0.25}, 400, 3)
    assert [set(read.same_family), set(read.flags)] == [{"ink"}, {"barely converged"}]
    assert read.chance == {"ref": 1 / 3, "ink": 1 / 3}
    ink = found.result.eval["ink"]
    assert read.pictures["ink", "ink"].values.mean() == pytest.approx(ink.value)
    assert ink.reference is not None
    assert read.pictures["ref", "ink"].values.mean() == pytest.approx(ink.reference.value)
    assert sorted(set(read.pictures["ref", "all"].concepts)) == sorted(NAMES)
    top = run_of(found.result, found.images, metric="acc1")
    assert top.pictures["ink", "ink"].values.mean() == pytest.approx(ink.acc1)
    assert top.chance == {"ref": 1 / 6, "ink": 1 / 4}
    chosen: dict[str, str | float | None] = {"fraction": 0.5, "scorer": "a-n40-s1", "threshold": 0.31}
    filtered = replace(found.result, kind="filtered", components=parts[:1], filter=chosen)
    assert run_of(filtered, found.images).group == "b filtered (scorer=a-n40, fraction=0.5)"
    both = replace(found.result, kind="output_mix", components=parts[:2], ensemble={"weights": [2.0, 1.0]})
    assert (run_of(both, found.images).group, run_of(both, found.images).shares["b"]) == (
        "a+b 33.3:66.7 ensemble",
        2 / 3,
    )
    assert shares_of(replace(info, components=[])) == {}
    with pytest.raises(InputError, match="m: 1 weights for an ensemble of 2 models"):
        shares_of(replace(both, ensemble={"weights": [2.0]}))
    with pytest.raises(InputError, match="other: the table of pictures has none of this run"):
        run_of(replace(found.result, run_id="other"), found.images)


def test_pictures_of_either_half() -> None:
    part = run("ant", (0.0, 0.0)).pictures[SHIFT, SHIFT]
    fit, report = part.of("fit"), part.of("report")
    assert sorted([*fit.keys, *report.keys]) == sorted(part.keys)
    assert not set(fit.concepts) & set(report.concepts)
    assert part.of(None) is part


def test_pictures_are_drawn_once_for_all_runs() -> None:
    """The error of a mean is the bootstrap's, and two runs that differ by a constant differ by it in every draw."""
    one, two = run("ant", (0.0, 0.3)), run("bee", (0.0, 0.3))
    shifted = replace(two.pictures[SHIFT, SHIFT], values=two.pictures[SHIFT, SHIFT].values * 0.9)
    two = replace(two, pictures={**two.pictures, (SHIFT, SHIFT): shifted})
    panel = panel_of([one, two], SHIFT, REFERENCE, resamples=4000)
    drawn = norm.cdf(panel.drawn_y)
    values = one.pictures[SHIFT, SHIFT].values
    assert drawn[:, 0].std() == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.05)
    np.testing.assert_allclose(drawn[:, 1], 0.9 * drawn[:, 0], rtol=1e-9)
    assert not panel.seeds_drawn


@pytest.mark.parametrize(("prefix", "paired"), [("", True), ("other ", False)])
def test_the_same_concepts_in_both_sets_are_drawn_together(prefix: str, paired: bool) -> None:
    one = run("ant", (0.2, 0.2), prefix=prefix)
    same = replace(one.pictures[SHIFT, SHIFT], values=one.pictures[REFERENCE, SHIFT].values)
    panel = panel_of([replace(one, pictures={**one.pictures, (SHIFT, SHIFT): same})], SHIFT, REFERENCE)
    related = np.corrcoef(panel.drawn_x[:, 0], panel.drawn_y[:, 0])[0, 1]
    assert related > 0.999 if paired else abs(related) < 0.15


def test_seeds_that_are_pooled_have_the_planted_noise() -> None:
    """Noise 0.1 of a run: 0.1/√2 of a cell of two, and as much for the mixture that has one seed only."""
    runs = [*singles(seeds=3, noise=0.1, count=8000), mixed({"ant": 0.5, "bee": 0.5}, count=8000)]
    panel = panel_of(runs, SHIFT, REFERENCE, resamples=400)
    assert panel.seeds_drawn
    assert np.std(panel.drawn_y[:, -1]) == pytest.approx(0.1, rel=0.25)
    cell = panel.rows("ant", 4000)
    assert np.std(panel.drawn_y[:, cell].mean(axis=1)) == pytest.approx(0.1 / np.sqrt(3), rel=0.25)


def test_the_floor_is_of_a_cell() -> None:
    low = [run("ant", (0.0, norm.ppf(0.05)), total=1000, seed=0), run("ant", (0.0, -1.2), total=1000, seed=1)]
    runs = [*low, run("ant", (0.0, -1.0), total=2000), run("bee", (norm.ppf(0.05), 0.5))]
    assert panel_of(runs, SHIFT, REFERENCE).floor.tolist() == [False, False, False, True]
    assert panel_of([low[0], *runs[2:]], SHIFT, REFERENCE).floor.tolist() == [True, False, True]


def test_the_same_seed_gives_the_same_numbers() -> None:
    runs = singles()
    first, second, other = (panel_of(runs, SHIFT, REFERENCE, resamples=50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.drawn_y, second.drawn_y)
    assert not np.array_equal(first.drawn_y, other.drawn_y)


def test_an_estimate() -> None:
    found = estimate(1.0, np.linspace(0.5, 1.5, 1001))
    assert [found.low, found.high] == pytest.approx([0.525, 1.475])
    assert found.clear
    assert not Estimate(0.1, -0.1, 0.3).clear


def test_runs_that_make_no_panel() -> None:
    one = run("ant", (0.0, 0.0))
    with pytest.raises(InputError, match="no runs to study"):
        panel_of([], SHIFT, REFERENCE)
    with pytest.raises(InputError, match=r"ant-4000-0 has no figures on ref on the classes of glyph"):
        panel_of([one], "glyph", REFERENCE)
    with pytest.raises(InputError, match="were evaluated on different pictures of ink"):
        panel_of([one, run("bee", (0.0, 0.0), prefix="other ")], SHIFT, REFERENCE)
    with pytest.raises(InputError, match=r"different questions of ink, by chance 0\.2 and 0\.05; evaluate both"):
        panel_of([one, replace(one, chance={SHIFT: 0.2})], SHIFT, REFERENCE)
    with pytest.raises(InputError, match="1 pictures are too few"):
        panel_of([run("ant", (0.0, 0.0), count=1)], SHIFT, REFERENCE)
