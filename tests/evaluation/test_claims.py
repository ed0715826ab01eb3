"""Statistics of claims on runs whose truths are planted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation import claims
from evaluation.claims import Statistic
from evaluation.draws import Estimate, Panel, Refusal, panel_of
from evaluation.mixing import Lines, Mixture, mixture, source_lines
from evaluation.ranking import both_answers
from evaluation.runs import Run
from tests.evaluation.study_runs import REFERENCE, SHIFT, mixed, run, singles, x_of


def panels(runs: list[Run]) -> tuple[dict[str, Panel], dict[str, Lines]]:
    panel = panel_of(runs, SHIFT, REFERENCE)
    return {SHIFT: panel}, {SHIFT: source_lines(panel)}


def value(found: Statistic | Refusal) -> float:
    assert isinstance(found, Statistic), str(found)
    return found.value


def cell(runs: list[Run], one: Run) -> dict[str, Mixture | Refusal]:
    there, lines = panels([*runs, one])
    return {SHIFT: mixture(there[SHIFT], lines[SHIFT], one.group, one.n_total)}


def test_verdicts_know_their_directions() -> None:
    assert [claims.verdict(1.0, way, 1.0) for way in ("at least", "at most", "above", "below")] == [
        "shown", "shown", "not shown", "not shown",
    ]  # fmt: skip


def test_runs_on_lines_fit_and_runs_off_them_do_not() -> None:
    _, straight = panels(singles())
    assert value(claims.least_fit(straight)) == pytest.approx(1, abs=1e-6)
    _, noisy = panels(singles(noise=0.3))
    assert value(claims.least_fit(noisy)) < 0.9
    assert isinstance(claims.least_fit(panels(singles(sizes=(1000, 2000)))[1]), Refusal)


def test_the_leader_counts_only_where_it_leads_clearly() -> None:
    there, lines = panels(singles())
    found = claims.different_winners(lines, both_answers(list(there.values()), lines)["with"].rankings)
    assert value(found) == 1
    assert isinstance(found, Statistic) and str(found.parts[SHIFT]).startswith("ant leads by +")
    there, lines = panels(singles({"ant": (1.0, -0.4), "bee": (1.0, -0.4)}))
    found = claims.different_winners(lines, both_answers(list(there.values()), lines)["with"].rankings)
    assert value(found) == 0


def test_positions_rise_with_the_share() -> None:
    runs = singles()
    cells = [cell(runs, mixed({"ant": share, "bee": 1 - share})) for share in (0.25, 0.5, 0.75)]
    assert value(claims.moves_with_share(cells, "ant")) == pytest.approx(1)
    assert value(claims.moves_with_share(cells, "bee")) == pytest.approx(1)
    turned = [cells[2], cells[1], replace_position(cells[0], 2.0)]
    assert value(claims.moves_with_share(turned, "ant")) == -1
    assert isinstance(claims.moves_with_share([*cells, {SHIFT: Refusal("at floor")}], "ant"), Refusal)


def replace_position(cells: dict[str, Mixture | Refusal], place: float) -> dict[str, Mixture | Refusal]:
    one = cells[SHIFT]
    assert isinstance(one, Mixture)
    return {SHIFT: replace(one, position=Estimate(place, place, place))}


def test_a_mixture_below_its_best_parent_is_diluted_and_one_above_all_is_outside() -> None:
    runs = singles()
    diluted = cell(runs, mixed({"ant": 0.5, "bee": 0.5}))
    assert value(claims.dilution_end(diluted)) > 0
    assert value(claims.outside_parents(diluted)) == 0
    above = cell(runs, mixed({"ant": 0.5, "bee": 0.5}, lift=1.0))
    assert value(claims.dilution_end(above)) < 0
    assert value(claims.outside_parents(above)) == 1
    nowhere = claims.dilution_end({SHIFT: Refusal("too far", "outside overlap")})
    assert isinstance(nowhere, Refusal) and "outside overlap: too far" in nowhere.reason


def test_the_worst_pair_decides_on_output_mixing() -> None:
    two = {"a": {"x": Estimate(-0.3, -0.4, -0.2), "y": Estimate(0.1, 0.0, 0.2)}, "b": {"x": Estimate(0.05, 0, 0.1)}}
    assert value(claims.output_error(two)) == pytest.approx(0.2)
    assert isinstance(claims.output_error({**two, "c": {"x": Refusal("at floor")}}), Refusal)
    assert isinstance(claims.output_error({}), Refusal)


def test_curved_sources_move_off_their_line_with_size() -> None:
    straight, lines = panels(singles(noise=0.02))
    assert value(claims.off_with_size(straight, lines)) <= 1 / 3
    places = (-0.9, 0.1, -0.6, 0.0)  # on the reference, in order of size
    bent = [
        run("ant", (x, x - 0.5 + 0.2 * i), total=1000 * 2**i, seed=seed)
        for i, x in enumerate(places)
        for seed in (0, 1)
    ]
    assert value(claims.off_with_size(*panels(bent))) == 1


def test_a_seed_that_lifts_every_size_is_found() -> None:
    even = singles({"ant": (1.0, 0.2)}, noise=0.0)
    lifted = [
        run(
            "ant",
            (x_of(one.n_total), x_of(one.n_total) + 0.2 * (one.seed or 0) + 0.01 * i),
            total=one.n_total,
            seed=one.seed or 0,
        )
        for i, one in enumerate(even)
    ]
    assert value(claims.off_with_seed(*panels(lifted), [0, 1])) == 1
    noisy = singles({"ant": (1.0, 0.2)}, noise=0.05)
    assert value(claims.off_with_seed(*panels(noisy), [0, 1])) == 0
    assert isinstance(claims.off_with_seed(*panels(singles(seeds=1)), [0, 1]), Refusal)


def test_filters_are_set_beside_chance_with_the_claim_s_seeds() -> None:
    def chosen(name: str, y: float) -> Run:
        return replace(run("ant filtered", (-0.3, y), kind="filtered"), run_id=f"{name}-s0", group=name)

    there, _ = panels([*singles(), chosen("by-best", 0.1), chosen("by-random", -0.4)])
    found = claims.height_between(there, "by-best", "by-random", [0])
    assert value(claims.unmoved(found)) == pytest.approx(0.5, abs=1e-6)
    assert value(claims.inherited(found)) > 0
    missing = claims.height_between(there, "by-self", "by-random", [0])
    assert str(missing[SHIFT]) == "cannot test: by-self was not run with the claim's seeds"
    assert isinstance(claims.unmoved(missing), Refusal)


def test_a_small_fall_is_none() -> None:
    rising = {"a": {100: [0.1, 0.12], 200: [0.2, 0.22], 300: [0.195, 0.215], 400: [0.3, 0.32]}}
    assert value(claims.rises_with_size(rising)) == pytest.approx(1)
    falling = {**rising, "b": {100: [0.3, 0.3], 200: [0.1, 0.1]}}
    assert value(claims.rises_with_size(falling)) == -1
    assert isinstance(claims.rises_with_size({"a": {100: [0.1]}}), Refusal)
