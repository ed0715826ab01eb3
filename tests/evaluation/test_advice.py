"""Advice on planted runs: the best mixture within the limits, its price, and plain words where nothing is gained."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.advice import NO_GAIN, Advice, Limits, candidates, outcome, propose
from evaluation.draws import Estimate, Refusal, panel_of
from evaluation.points import Points, points_of
from evaluation.predictors import Predictor, mediant, output_mixing, regression
from filters.errors import InputError
from tests.evaluation.study_runs import LINES, REFERENCE, SHIFT, mixed, run, singles, x_of

Line = tuple[float, float]
# The best source on the shift is the worst on the reference: each point of one costs some of the other.
TRADE: dict[str, tuple[float, float]] = {"ant": (-0.4, 0.4), "bee": (0.0, 0.0), "cat": (0.0, -0.4)}


def halves(lines: Mapping[str, Line] = LINES, *, noise: float = 0.02, seeds: int = 2) -> tuple[Points, Points]:
    runs = [
        *singles(lines, noise=noise, seeds=seeds),
        *(mixed(p, kind=kind) for p in ({"ant": 0.5, "bee": 0.5}, {"bee": 0.5, "cat": 0.5})
          for kind in ("input_mix", "output_mix")),
    ]  # fmt: skip
    fit, report = (points_of(panel_of(runs, SHIFT, REFERENCE, half=h, resamples=300)) for h in ("fit", "report"))
    return fit, report


def traded() -> tuple[Points, Points]:
    """Sources that are ahead or behind by constants on the reference and on the shift."""
    runs = [
        run(name, (x_of(n) + dx, x_of(n) + dy), total=n, seed=seed)
        for name, (dx, dy) in TRADE.items() for n in (1000, 2000, 4000, 8000) for seed in (0, 1)
    ]  # fmt: skip
    fit, report = (points_of(panel_of(runs, SHIFT, REFERENCE, half=h, resamples=300)) for h in ("fit", "report"))
    return fit, report


def advised(
    limits: Limits, *, points: tuple[Points, Points] | None = None, predictor: Predictor = mediant,
    spread: float | None = 0.02,
) -> Advice:  # fmt: skip
    choose, report = points or halves()
    found = propose("mediant law", predictor, choose, report, limits, spread=spread)
    assert isinstance(found, Advice), found
    return found


def test_without_limits_the_best_source_alone() -> None:
    found = advised(Limits(total=4000))
    assert found.shares == {"ant": 1.0}
    assert found.ranges["ant"] == (1.0, 1.0)
    assert found.y.low < norm.cdf(LINES["ant"][0] * x_of(4000) + LINES["ant"][1]) < found.y.high
    assert found.gains["even mixing"].verdict == "gain"
    assert found.gains["best single source"].verdict == NO_GAIN


def test_rows_repeats_and_licences_are_kept_to() -> None:
    scarce = Limits(total=4000, rows={"ant": 1000})
    assert advised(scarce).shares == pytest.approx({"ant": 0.25, "bee": 0.75})
    assert advised(Limits(total=4000, rows={"ant": 1000}, max_repeats=2)).shares == pytest.approx(
        {"ant": 0.5, "bee": 0.5}
    )
    assert advised(Limits(total=4000, excluded=frozenset({"ant"}))).shares == {"bee": 1.0}
    assert advised(Limits(total=4000, rows={"ant": 1000}, excluded=frozenset({"bee"}))).shares == pytest.approx(
        {"ant": 0.25, "cat": 0.75}
    )
    assert "best single source" not in advised(Limits(total=4000, rows=dict.fromkeys(LINES, 3000))).gains


def test_a_least_reference_accuracy() -> None:
    """Reference probit is x - 0.4 p with p of ant: to keep within 0.2 of x takes p of a half or less."""
    least = float(norm.cdf(x_of(4000) - 0.201))
    found = advised(Limits(total=4000, least_reference=least), points=traded())
    assert found.shares == pytest.approx({"ant": 0.5, "bee": 0.5}, abs=0.051)
    assert advised(Limits(total=4000), points=traded()).shares == {"ant": 1.0}
    assert 0.0 <= found.kept <= 1.0
    choose, report = traded()
    refused = propose("m", mediant, choose, report, Limits(total=4000, least_reference=0.9))
    assert isinstance(refused, Refusal)
    assert str(refused).startswith("no candidate: at most ")
    assert "% are predicted on the reference, 90.0 are wanted" in str(refused)


def test_the_price_of_a_point() -> None:
    """All ant against the even mixture of three: x falls by 0.267 probits, y rises by 0.4."""
    found = advised(Limits(total=4000), points=traded())
    at = x_of(4000)
    lost = norm.cdf(at - 0.4 / 3) - norm.cdf(at - 0.4)
    gained = norm.cdf(at + 0.4) - norm.cdf(at)
    assert isinstance(found.reference_price, Estimate)
    assert found.reference_price.value == pytest.approx(lost / gained, rel=0.05)  # a half of the pictures
    added = 100 * (norm.cdf(at + 0.75) - norm.cdf(at + 0.4))
    assert isinstance(found.doubling, Estimate)
    assert found.doubling.value == pytest.approx(added, rel=0.05)
    assert found.sample_price == pytest.approx(4000 * (2 ** (1 / added) - 1), rel=0.05)
    assert found.doubling.clear


def test_runs_of_one_size_say_nothing_of_more_samples() -> None:
    fit, report = (part.only(part.totals == 4000) for part in halves())
    found = advised(Limits(total=4000), points=(fit, report))
    assert "runs of one size only: what more samples add is not known" in str(found.doubling)
    assert found.sample_price == found.doubling


def test_equal_sources_have_no_detectable_gain() -> None:
    found = advised(Limits(total=4000), points=halves(dict.fromkeys(LINES, (0.9, 0.0))), predictor=regression)
    assert {gain.verdict for gain in found.gains.values()} == {NO_GAIN}
    assert str(found.reference_price) == f"cannot test: {NO_GAIN} over even mixing that could be paid for"


def test_the_predictors_own_error_widens_the_interval() -> None:
    narrow, wide = (advised(Limits(total=4000, rows={"ant": 2000}), spread=s) for s in (0.0, 0.3))
    assert wide.y.error > 3 * narrow.y.error
    assert wide.gains["even mixing"].verdict == NO_GAIN


def test_notes_say_what_an_interval_does_not_know() -> None:
    far = advised(Limits(total=80_000), points=halves(seeds=1, noise=0.0), spread=None)
    assert [note.split(":")[0] for note in far.notes] == [
        "80000 samples are beyond the largest run, of 8000",
        "no training set has two seeds",
        "the predictor's own error is not known",
    ]
    assert advised(Limits(total=4000)).notes == ()


def test_output_mixing_chooses_among_the_ensembles_there_are() -> None:
    limits = Limits(total=4000, excluded=frozenset({"cat"}), rows={"ant": 2000, "bee": 3000})
    assert advised(limits, predictor=output_mixing).shares == pytest.approx({"ant": 0.5, "bee": 0.5})
    choose, report = halves()
    nothing = Limits(total=4000, rows=dict.fromkeys(LINES, 1500))
    assert "none was evaluated with the shares" in str(propose("o", output_mixing, choose, report, nothing))


def test_candidates() -> None:
    choose, _ = halves()
    found = candidates(choose, Limits(total=100), 0.25)
    assert not isinstance(found, Refusal)
    assert len(found) == 15 + 1  # C(6, 2), and the even one
    np.testing.assert_allclose(found.sum(axis=1), 1)
    tight = candidates(choose, Limits(total=100, rows={"ant": 20, "bee": 33, "cat": 48}), 0.25)
    assert not isinstance(tight, Refusal)
    np.testing.assert_allclose(tight, [[0.2, 0.33, 0.47]], atol=1e-6)
    short = candidates(choose, Limits(total=100, rows={"ant": 20, "bee": 30}, excluded=frozenset({"cat"})), 0.25)
    assert str(short) == "no candidate: the sources allowed have 50 samples, 100 are wanted"
    alone = candidates(choose, Limits(total=100, excluded=frozenset({"cat", "bee"})), 0.25)
    np.testing.assert_allclose(np.asarray(alone), [[1, 0, 0]])
    with pytest.raises(InputError, match="limits name the source 'elk', of which no run is"):
        candidates(choose, Limits(total=100, rows={"elk": 20}), 0.25)
    with pytest.raises(InputError, match=r"a step of 0\.001 makes 501501 candidates, more than 300000, of 3 sources"):
        candidates(choose, Limits(total=100), 0.001)


def test_the_halves_must_be_of_the_same_runs() -> None:
    choose, _ = halves()
    _, other = halves({name: LINES[name] for name in ("ant", "bee")})
    fewer = Points(("ant",), *[getattr(other, n) for n in Points.__slots__[1:]])
    with pytest.raises(InputError, match="give the same runs for both"):
        propose("m", mediant, choose, fewer, Limits(total=4000))


def test_advice_as_json_and_its_outcome() -> None:
    found = advised(Limits(total=4000), points=halves(dict.fromkeys(LINES, (0.9, 0.0))))
    plain = json.loads(json.dumps(found.as_json()))
    assert plain["y"]["value"] == found.y.value and plain["reference_price"].startswith("cannot test")
    assert plain["gains"]["even mixing"]["verdict"] == NO_GAIN
    near, far = (outcome(Estimate(0.3, 0.28, 0.32, 0.01), Estimate(v, 0, 0, 0.01)) for v in (0.31, 0.36))
    assert near.held and not far.held
    assert far.points.value == pytest.approx(6.0) and far.points.error == pytest.approx(np.sqrt(2))
