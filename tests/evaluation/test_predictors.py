"""Predictors on mixtures that obey a planted law, and their errors on each mixture left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.accuracies import ModelScores
from evaluation.draws import Estimate, Refusal, panel_of
from evaluation.points import Points, points_of, points_of_scores, together
from evaluation.predictors import (
    LeftOut,
    best_single,
    even,
    leave_one_mixture_out,
    mediant,
    output_mixing,
    predict,
    regression,
)
from evaluation.runs import Run
from evaluation.theory import Setting
from filters.errors import InputError
from tests.evaluation.study_runs import LINES, REFERENCE, SHIFT, mixed, run, singles, x_of

RNG = np.random.default_rng(5)
DIRICHLET = [dict(zip(LINES, w.tolist(), strict=True)) for w in RNG.dirichlet(np.ones(3), 8).round(2) + 1e-9]
EVEN = dict.fromkeys(LINES, 1 / 3)


def entropy(shares: dict[str, float]) -> float:
    return float(-sum(p * np.log(p) for p in shares.values()) / np.log(3))


def points(*extra: Run, mixing: float = 0.0, noise: float = 0.0) -> Points:
    """Three sources, eight mixtures, whose probits are in proportion and `mixing` times how mixed they are."""
    rng = np.random.default_rng(9)
    mixes = [mixed(p, mixing * entropy(p) + noise * rng.standard_normal(), seed=i) for i, p in enumerate(DIRICHLET)]
    return points_of(panel_of([*singles(noise=noise), *mixes, *extra], SHIFT, REFERENCE, resamples=200))


def proportion(shares: np.ndarray, total: int) -> float:
    return sum(float(p) * (m * x_of(total) + b) for p, (m, b) in zip(shares, LINES.values(), strict=True))


def test_points_are_cells() -> None:
    low = run("dog", (0.0, norm.ppf(0.05)), total=500)
    odd = replace(run("elk", (0.0, 0.0)), kind="external", shares={})
    found = points(low, odd)
    assert found.sources == ("ant", "bee", "cat")
    assert int(found.of("single").sum()) == 12 and int(found.of("input_mix").sum()) == 8
    assert found.left_out == {"dog-500-0": "at floor", "elk-4000-0": "is external"}
    assert found.seeds_drawn and found.drawn_y.shape == (200, 20)
    with pytest.raises(InputError, match="no run is off the floor with known sources"):
        points_of(panel_of([odd], SHIFT, REFERENCE, resamples=20))


@pytest.mark.parametrize("total", [4000, 5600, 32000])
def test_the_mediant_law_reads_planted_sources_at_any_total(total: int) -> None:
    found, shares = points(), np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    weights = mediant(found, shares, np.full(2, float(total)))
    assert not isinstance(weights, Refusal)
    said = predict(found, weights)
    np.testing.assert_allclose(said.x, x_of(total), atol=1e-9)
    np.testing.assert_allclose(said.y, [proportion(row, total) for row in shares], atol=1e-9)
    assert said.drawn_y.shape == (200, 2)


def test_slopes_follow_the_mediant() -> None:
    """Sources on rays through (½, ½): the mixture's slope is Σ p_i a_i κ_i / Σ p_i a_i of P2."""
    signal, slope, shares = np.array([0.9, 0.4]), np.array([1.5, 0.3]), np.array([0.25, 0.75])
    runs = [run(n, (a, a * k)) for n, a, k in zip(("ant", "bee"), signal, slope, strict=True)]
    found = points_of(panel_of(runs, SHIFT, REFERENCE, resamples=20))
    said = predict(found, np.asarray(mediant(found, shares[None], np.array([4000.0]))))
    expected = (shares * signal * slope).sum() / (shares * signal).sum()
    assert said.y[0] / said.x[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "off"), [(100, 0.003), (800, 0.025)])
def test_the_law_in_the_gaussian_model(n: int, off: float) -> None:
    """The study's sources (5.3): shifted probits of mixtures are met within 0.003 at 100 samples, 0.025 at 800."""
    tests, sources = np.zeros((2, 2000)), np.zeros((2, 2000))
    tests[:, :3], sources[:, :3] = [[1, 1, 0], [1, 0, 1]], [[0.9, 0.18, 0.72], [0.9, 0.9, -0.36]]
    setting = Setting(tests, np.ones(2))
    alone = setting.expected(sources, n)
    runs = [run(name, (x, y)) for name, (x, y) in zip(("ant", "bee"), alone.tolist(), strict=True)]
    found = points_of(panel_of(runs, SHIFT, REFERENCE, resamples=20))
    shares = np.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]])
    said = predict(found, np.asarray(mediant(found, shares, np.full(3, 4000.0))))
    below = setting.expected(shares @ sources, n)[:, 1] - said.y
    assert (below > 0).all() and (below < off).all()


def test_the_regression_sees_what_mixing_itself_gives() -> None:
    """Mixtures 0.3 probits above proportion where mixed most: the regression finds it, the mediant law does not."""
    found = leave_one_mixture_out(points(mixing=0.3))
    assert isinstance(found, LeftOut)
    law, line = found.error["mediant law"], found.error["regression"]
    assert isinstance(law, Estimate) and isinstance(line, Estimate)
    assert line.value < 0.06 < 0.15 < law.value
    assert found.spread["regression"] < found.spread["mediant law"]


def test_left_out_mixtures_that_obey_the_law() -> None:
    """The law is exact, each baseline is off by what it must be, and the paired intervals say so."""
    found = leave_one_mixture_out(points(), {"mediant law": mediant, "regression": regression})
    assert isinstance(found, LeftOut)
    np.testing.assert_allclose(found.predicted["mediant law"], found.measured, atol=1e-9)
    best = np.abs(found.measured - (LINES["ant"][0] * x_of(4000) + LINES["ant"][1]))
    error = found.error["best single source"]
    assert isinstance(error, Estimate) and error.value == pytest.approx(best.mean(), abs=1e-9)
    for base in ("even mixing", "best single source"):
        assert found.less["mediant law", base].high < 0
    assert set(found.less) == {
        (name, base) for name in ("mediant law", "regression") for base in ("even mixing", "best single source")
    }
    assert len(found.mixtures) == 8 and found.mixtures[0][1] == 4000


def test_a_mixture_is_not_in_its_own_prediction() -> None:
    """The even mixture, 1 probit off, is what even mixing says of the others but not of itself."""
    found = leave_one_mixture_out(points(mixed(EVEN, -1.0)), {"mediant law": mediant})
    assert isinstance(found, LeftOut)
    middle, own = proportion(np.full(3, 1 / 3), 4000), found.predicted["even mixing"]
    np.testing.assert_allclose(own, [*np.full(8, middle - 1.0), middle], atol=1e-6)


def test_output_mixing_looks_its_ensembles_up() -> None:
    lifts = [mixed(p, 0.05, kind="output_mix", total=8000 if i else 4000) for i, p in enumerate(DIRICHLET)]
    found = leave_one_mixture_out(points(*lifts))
    assert isinstance(found, LeftOut)
    off = found.predicted["output mixing"] - found.measured
    np.testing.assert_allclose(off, 0.05, atol=1e-6)  # also where the ensemble is of twice the samples
    some = leave_one_mixture_out(points(*lifts[:-1]))
    assert isinstance(some, LeftOut)
    assert "none was evaluated with the shares" in str(some.error["output mixing"])
    assert "output mixing" not in some.predicted


def test_baselines() -> None:
    found, total = points(mixed(EVEN, 0.4)), np.array([4000.0])
    shares = np.array([[0.0, 0.0, 1.0]])
    for predictor, expected in (
        (even, proportion(np.full(3, 1 / 3), 4000) + 0.4),
        (best_single, proportion(np.array([1, 0, 0]), 4000)),
    ):
        weights = predictor(found, shares, total)
        assert not isinstance(weights, Refusal)
        assert predict(found, weights).y[0] == pytest.approx(expected, abs=1e-6)


def test_what_is_refused() -> None:
    whole = points()
    few = whole.only(np.arange(len(whole.groups)) < 14)
    assert str(leave_one_mixture_out(few)) == "cannot test: 2 mixtures are too few to leave one out, 3 are needed"
    mixes = whole.only(whole.of("input_mix"))
    total = np.array([4000.0])
    assert str(mediant(mixes, np.array([[0.5, 0.5, 0.0]]), total)) == (
        "cannot test: ant has no run of its own off the floor"
    )
    assert str(best_single(mixes, np.zeros((1, 3)), total)) == (
        "cannot test: no source has a run of its own off the floor"
    )
    assert "4 runs are too few for a regression on 3 sources" in str(
        regression(whole.only(np.arange(20) < 4), np.zeros((1, 3)), total)
    )
    assert str(output_mixing(whole, np.eye(3), total.repeat(3))) == "cannot test: no ensemble was evaluated"
    some = points(mixed(EVEN, kind="output_mix"))
    assert "ant 0.50, bee 0.50" in str(output_mixing(some, np.array([[0.5, 0.5, 0.0]]), total))


def scores(model: str, source: str, size: float | None = 4000, **accuracy: float) -> ModelScores:
    return ModelScores(model, source, size, accuracy, dict.fromkeys(accuracy, 2000))


def test_models_of_a_table_are_points_too() -> None:
    table = [
        scores("a", "ant", ref=0.4, ink=0.3),
        scores("b", "bee", ref=0.4, ink=0.2),
        scores("c", "ant+bee 25:75", ref=0.4, ink=0.25),
        scores("d", "ant+bee 25:75 ensemble", ref=0.4, ink=0.25),
        scores("e", "ant+bee", ref=0.4, ink=0.25),
        scores("f", "ant", None, ref=0.4, ink=0.3),
        scores("g", "ant", ref=0.4),
    ]
    found = points_of_scores(table, SHIFT, REFERENCE, resamples=500)
    assert found.kinds == ("single", "single", "input_mix", "output_mix")
    np.testing.assert_allclose(found.shares[2], [0.25, 0.75])
    np.testing.assert_allclose(found.y, norm.ppf([0.3, 0.2, 0.25, 0.25]))
    assert norm.cdf(found.drawn_y[:, 0]).std() == pytest.approx(np.sqrt(0.3 * 0.7 / 2000), rel=0.15)
    assert set(found.left_out) == {"e", "f", "g"}
    assert "write `a`, or `a+b 25:75`" in found.left_out["e"]
    with pytest.raises(InputError, match="no model has known sources, its size, and both ref and ink"):
        points_of_scores(table[4:], SHIFT, REFERENCE)


def test_points_from_two_places_together() -> None:
    table = points_of_scores([scores("z", "zoo", ref=0.4, ink=0.3)], SHIFT, REFERENCE, resamples=200)
    whole = together(points(), table)
    assert whole.sources == ("ant", "bee", "cat", "zoo")
    assert whole.shares[-1].tolist() == [0, 0, 0, 1] and whole.shares.shape == (21, 4)
    assert whole.drawn_x.shape == (200, 21) and whole.seeds_drawn
    with pytest.raises(InputError, match="200 and 1000 draws cannot be joined"):
        together(points(), points_of_scores([scores("z", "zoo", ref=0.4, ink=0.3)], SHIFT, REFERENCE))


def test_a_mixture_of_another_size_is_not_taken_for_one_of_this() -> None:
    """The even mixture has 8000 samples: at 4000 it is less by what its sources are, or the law's where that is not
    known."""
    total, nothing = np.array([4000.0]), np.zeros((1, 3))
    whole = points(mixed(EVEN, 0.4, total=8000))
    assert predict(whole, np.asarray(even(whole, nothing, total))).y[0] == pytest.approx(
        proportion(np.full(3, 1 / 3), 4000) + 0.4, abs=1e-6
    )
    runs = [*singles(sizes=(4000,)), mixed(EVEN, 0.4, total=8000), mixed(EVEN, total=8000, kind="output_mix")]
    one_size = points_of(panel_of(runs, SHIFT, REFERENCE, resamples=20))
    assert predict(one_size, np.asarray(even(one_size, nothing, total))).y[0] == pytest.approx(
        proportion(np.full(3, 1 / 3), 4000), abs=1e-6
    )
    refused = output_mixing(one_size, np.full((1, 3), 1 / 3), total)
    assert "it was evaluated at 8000 samples, and no source at several sizes says what 4000 do" in str(refused)
