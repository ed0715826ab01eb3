"""Sources in order, on planted lines, with and without the cells that an artist drew both sides of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scipy.stats import norm

from evaluation.draws import Refusal, panel_of
from evaluation.mixing import source_lines
from evaluation.ranking import Dominance, Ranking, both_answers, dominance, rank
from evaluation.runs import Run
from tests.evaluation.study_runs import REFERENCE, SIZES, run, x_of

Slopes = dict[str, dict[str, tuple[float, float]]]
# ant is best on ink, bee on wax; cat is last on both.
NO_ONE: Slopes = {
    "ink": {"ant": (1.0, 0.3), "bee": (1.0, -0.2), "cat": (1.0, -0.6)},
    "wax": {"ant": (1.0, -0.1), "bee": (1.0, 0.4), "cat": (1.0, -0.6)},
}


def runs_of(lines: Slopes, *, family: dict[str, Sequence[str]] | None = None, start: float = 0.0) -> list[Run]:
    return [
        run(
            name,
            {shift: (x_of(n) + start, lines[shift][name][0] * (x_of(n) + start) + lines[shift][name][1])
             for shift in lines},
            total=n, seed=seed, count=600, family=(family or {}).get(name, ()),
        )
        for name in lines["ink"] for n in SIZES for seed in (0, 1)
    ]  # fmt: skip


def ranked(runs: Sequence[Run], shift: str = "ink", x: float | None = None) -> Ranking:
    found = rank(shift, source_lines(panel_of(runs, shift, REFERENCE, resamples=300)), x=x)
    assert isinstance(found, Ranking), found
    return found


def test_the_planted_order_at_a_common_place() -> None:
    found = ranked(runs_of(NO_ONE))
    middle = (x_of(SIZES[0]) + x_of(SIZES[-1])) / 2
    assert list(found.accuracy) == ["ant", "bee", "cat"]
    assert found.x == pytest.approx(norm.cdf(middle))
    assert found.accuracy["bee"].value == pytest.approx(norm.cdf(middle - 0.2), abs=1e-6)
    assert found.ahead["ant", "cat"].value == pytest.approx(0.9, abs=1e-6)
    assert found.best == "ant" and found.is_clear and found.chosen["ant"] == 1.0
    assert ranked(runs_of(NO_ONE), x=0.4).x == pytest.approx(0.4)


def test_no_source_dominates() -> None:
    runs = runs_of(NO_ONE)
    panels = [panel_of(runs, shift, REFERENCE, resamples=300) for shift in NO_ONE]
    answer = both_answers(panels)["with"].dominance
    assert isinstance(answer, Dominance)
    assert (answer.verdict, answer.source) == ("fails", None)
    assert answer.beaten["ant"] == ("wax", "bee") and answer.beaten["bee"] == ("ink", "ant")


def test_one_source_dominates_only_by_its_own_artist() -> None:
    """bee is best on wax, which its artist drew; without that cell ant has no rival there."""
    runs = runs_of(NO_ONE, family={"bee": ["wax"]})
    panels = [panel_of(runs, shift, REFERENCE, resamples=300) for shift in NO_ONE]
    answers = both_answers(panels)
    both, without = answers["with"].dominance, answers["without"].dominance
    assert isinstance(both, Dominance) and isinstance(without, Dominance)
    assert (both.verdict, without.verdict, without.source) == ("fails", "holds", "ant")
    wax = answers["without"].rankings["wax"]
    assert isinstance(wax, Ranking)
    assert wax.left_out == {"bee": "same family"} and list(wax.accuracy) == ["ant", "cat"]


def test_equal_sources_cannot_be_told_apart() -> None:
    same: Slopes = {shift: {"ant": (1.0, 0.30), "bee": (1.0, 0.301)} for shift in ("ink", "wax")}
    generator_runs = runs_of(same)
    panels = [panel_of(generator_runs, shift, REFERENCE, resamples=300) for shift in same]
    # Equal pictures and no noise of seeds: the tiny distance is clear in every draw, as planted.
    answer = both_answers(panels)["with"].dominance
    assert isinstance(answer, Dominance) and answer.source == "bee"
    noisy = [
        run(name, {s: (x_of(n) + dx, x_of(n) + 0.3 + dy) for s in same}, total=n, seed=seed, count=600)
        for name in ("ant", "bee") for n in SIZES for seed, (dx, dy) in enumerate([(0.05, -0.05), (-0.05, 0.05)])
    ]  # fmt: skip
    panels = [panel_of(noisy, shift, REFERENCE, resamples=300) for shift in same]
    answer = both_answers(panels)["with"].dominance
    assert isinstance(answer, Dominance) and answer.verdict == "cannot say"


def test_what_has_no_ranking() -> None:
    low, high = runs_of({"ink": {"ant": (1.0, 0.0)}}), runs_of({"ink": {"bee": (1.0, 0.0)}}, start=2.0)
    nowhere = rank("ink", source_lines(panel_of([*low, *high], "ink", REFERENCE, resamples=50)))
    assert str(nowhere) == (
        "cannot test: ink: fewer than two sources have lines at one reference accuracy (2 have lines)"
    )
    assert isinstance(dominance({"ink": nowhere}), Refusal)
    one_far = [*runs_of(NO_ONE), *runs_of({"ink": {"dog": (1.0, 0.0)}}, start=2.0)]
    found = ranked(one_far)
    assert str(found.left_out["dog"]).startswith("outside overlap: dog has 86.4 to 98.4 %, compared at ")
    few = [one for one in runs_of(NO_ONE) if (one.group, one.n_total) != ("cat", SIZES[0])]
    assert str(ranked(few).left_out["cat"]) == "cannot test: cat: 3 sizes off the floor, 4 are needed"
