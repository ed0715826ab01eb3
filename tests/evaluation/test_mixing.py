"""Mixtures of planted lines: what was planted is found, what cannot be said is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.draws import Estimate, Panel, Refusal, panel_of
from evaluation.mixing import Mixture, above_lines, best_parent, line_of, mixture, output_less_input, source_lines
from evaluation.robustness import SourceLine
from evaluation.runs import Run
from filters.errors import InputError
from tests.evaluation.study_runs import LINES, REFERENCE, SHIFT, mixed, run, singles, x_of

HALVES = {"ant": 0.5, "bee": 0.5}
NAME = "ant+bee 50:50"


def panel(*extra: Run, noise: float = 0.0, count: int = 400, **more: object) -> Panel:
    return panel_of([*singles(noise=noise, count=count, **more), *extra], SHIFT, REFERENCE)  # type: ignore[arg-type]


def found(panel: Panel, name: str = NAME, total: int = 4000, best: str | None = None) -> Mixture:
    result = mixture(panel, source_lines(panel), name, total, best=best)
    assert isinstance(result, Mixture), result
    return result


def refused(panel: Panel, name: str = NAME, total: int = 4000) -> str:
    result = mixture(panel, source_lines(panel), name, total)
    assert isinstance(result, Refusal)
    return str(result)


def gap() -> float:
    """How far the line of ant is above that of bee at the mixture's place."""
    (m, b), (n, c) = LINES["ant"], LINES["bee"]
    return (m - n) * x_of(4000) + b - c


def test_planted_lines_are_found() -> None:
    lines = source_lines(panel())
    for name, (slope, intercept) in LINES.items():
        line = lines[name]
        assert isinstance(line, SourceLine)
        assert [line.line.slope, line.line.intercept] == pytest.approx([slope, intercept], abs=1e-9)
        low, high = np.quantile(line.slopes, [0.025, 0.975])
        assert low < slope < high
    assert line_of(panel(), "ant") != lines["bee"]


@pytest.mark.parametrize("lift", [0.0, -0.2])
def test_a_planted_mixture(lift: float) -> None:
    """In the middle, or 0.2 probits below it: D, λ and λ - p are what that makes them."""
    one = found(panel(mixed(HALVES, lift)))
    assert one.best == "ant"
    assert one.dilution.value == pytest.approx(gap() / 2 - lift, abs=1e-6)
    assert one.excess.value == pytest.approx(lift, abs=1e-6)
    assert isinstance(one.position, Estimate) and isinstance(one.interaction, Estimate)
    assert one.position.value == pytest.approx(0.5 + lift / gap(), abs=1e-6)
    assert one.interaction.value == pytest.approx(lift / gap(), abs=1e-6)
    assert one.dilution.clear
    top = norm.cdf(LINES["ant"][0] * x_of(4000) + LINES["ant"][1])
    assert one.dilution_points.value == pytest.approx(100 * (top - one.y.value), abs=1e-6)
    assert one.dilution.low < one.dilution.value < one.dilution.high


def test_intervals_cover_what_was_planted() -> None:
    """Over 40 studies with noise of 0.05 a run, the 95 % interval holds the planted dilution in 35 or more."""
    rng, inside = np.random.default_rng(3), 0
    for _ in range(40):
        noise = 0.05 * rng.standard_normal((26, 2))
        runs = [
            run(name, (x_of(n) + noise[i, 0], m * x_of(n) + b + noise[i, 1]), total=n, seed=s)
            for i, (name, (m, b), n, s) in enumerate(
                (name, line, n, s) for name, line in LINES.items() for n in (1000, 2000, 4000, 8000) for s in (0, 1)
            )
        ]
        middle = sum(m * x_of(4000) + b for m, b in (LINES["ant"], LINES["bee"])) / 2
        runs += [
            run(NAME, (x_of(4000) + dx, middle + dy), total=4000, seed=s, shares=HALVES)
            for s, (dx, dy) in enumerate(noise[24:].tolist())
        ]
        one = found(panel_of(runs, SHIFT, REFERENCE, resamples=300))
        inside += one.dilution.low <= gap() / 2 <= one.dilution.high
    assert inside >= 35


def test_the_best_source_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    runs = [*singles(), mixed(HALVES)]
    fit, report = (panel_of(runs, SHIFT, REFERENCE, half=half) for half in ("fit", "report"))
    best = best_parent(fit, source_lines(fit), NAME, 4000)
    assert best == "ant"
    assert found(report, best="ant").best == "ant"
    assert found(report, best="bee").dilution.value < 0 < found(report, best="ant").dilution.value
    with pytest.raises(InputError, match="dilution against cat, which is none of its sources ant, bee"):
        mixture(report, source_lines(report), NAME, 4000, best="cat")


def test_three_sources_have_an_excess_and_no_position() -> None:
    one = found(panel(mixed({"ant": 0.5, "bee": 0.25, "cat": 0.25}, 0.1)), "ant+bee+cat 50:25:25")
    assert one.excess.value == pytest.approx(0.1, abs=1e-6)
    assert str(one.position) == "cannot test: ant+bee+cat 50:25:25 is of 3 sources; a position is between two"


def test_what_is_refused() -> None:
    mix = mixed(HALVES)
    assert refused(panel(mix, sizes=(1000, 2000, 4000))).startswith(
        "cannot test: ant+bee 50:50 at 4000: ant: 3 sizes off the floor, 4 are needed"
    )
    chance = run(NAME, (x_of(4000), norm.ppf(0.05)), shares=HALVES)
    assert refused(panel(chance)) == "at floor: ant+bee 50:50 at 4000: its interval touches chance (0.050)"
    assert (
        refused(panel(mixed(HALVES, x=1.0)))
        == "outside overlap: ant+bee 50:50 at 4000 has 84.1 % on the reference, ant 18.4 to 56.0 %"
    )
    alone = panel_of([*singles({"ant": LINES["ant"]}), mix], SHIFT, REFERENCE)
    assert refused(alone) == "cannot test: ant+bee 50:50 at 4000: bee has no runs of its own"
    with pytest.raises(InputError, match="no run of ant\\+bee 50:50 has 9 samples"):
        mixture(panel(mix), {}, NAME, 9)
    with pytest.raises(InputError, match="ant is of 1 sources"):
        mixture(panel(mix), {}, "ant", 4000)


def test_points_at_the_floor_enter_no_line() -> None:
    low = [run("ant", (-0.9, norm.ppf(0.05)), total=1000, seed=s) for s in (0, 1)]
    rest = [one for one in singles() if (one.group, one.n_total) != ("ant", 1000)]
    line = source_lines(panel_of([*low, *rest], SHIFT, REFERENCE))["ant"]
    assert str(line) == "cannot test: ant: 3 sizes off the floor, 4 are needed, 2 of its 8 runs are at floor"
    more = [run("ant", (x_of(16000), x_of(16000) + 0.2), total=16000)]
    line = source_lines(panel_of([*low, *rest, *more], SHIFT, REFERENCE))["ant"]
    assert isinstance(line, SourceLine) and line.line.n == 7 and line.line.slope == pytest.approx(1.0)


def test_models_of_one_accuracy_have_no_line() -> None:
    runs = [run("ant", (0.0, 0.1), total=n) for n in (1, 2, 3, 4)]
    line = line_of(panel_of(runs, SHIFT, REFERENCE), "ant")
    assert str(line) == "cannot test: ant: its models are 0.000 probits apart, 0.3 are needed"


def test_no_position_between_sources_that_cannot_be_told_apart() -> None:
    near = {"ant": (1.0, 0.2), "bee": (1.0, 0.19)}
    one = found(panel_of([*singles(near, noise=0.05), mixed(HALVES)], SHIFT, REFERENCE))
    assert isinstance(one.position, Refusal) and one.position.label == "parents too close"
    assert one.interaction == one.position


def test_output_against_input() -> None:
    """An ensemble 0.07 probits above the mixture, at another reference accuracy and at other shares."""
    mixes = [mixed(HALVES), mixed({"ant": 0.25, "bee": 0.75})]
    ensemble = mixed(HALVES, 0.07, kind="output_mix", x=x_of(4000) - 0.2)
    seen = panel(*mixes, ensemble)
    one = output_less_input(seen, source_lines(seen), (NAME, 4000), (f"{NAME} ensemble", 4000))
    assert isinstance(one, Estimate)
    assert one.value == pytest.approx(0.07, abs=1e-6)
    assert one.low < 0.07 < one.high
    short = panel(*mixes, ensemble, sizes=(1000, 2000, 4000))
    assert isinstance(
        output_less_input(short, source_lines(short), (NAME, 4000), (f"{NAME} ensemble", 4000)), Refusal
    )
    other = panel(*mixes, mixed({"ant": 0.5, "cat": 0.5}, kind="output_mix"))
    with pytest.raises(InputError, match="are of different sources"):
        output_less_input(other, source_lines(other), (NAME, 4000), ("ant+cat 50:50 ensemble", 4000))


def test_a_filtered_run_above_its_sources_line() -> None:
    at = x_of(4000)
    better = run(
        "bee filtered", (at, LINES["bee"][0] * at + LINES["bee"][1] + 0.3), shares={"bee": 1.0}, kind="filtered"
    )
    seen = panel(better)
    one = above_lines(seen, source_lines(seen), "bee filtered", 4000)
    assert isinstance(one, Estimate) and one.value == pytest.approx(0.3, abs=1e-6) and one.clear
    assert "bee filtered" not in source_lines(seen)
    short = panel(better, sizes=(1000, 2000))
    assert isinstance(above_lines(short, source_lines(short), "bee filtered", 4000), Refusal)
