"""Shapley values of games whose values are known, and of ensembles of planted scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.credit import Cached, Credit, agreement, credits, leave_one_out, play, shapley
from evaluation.draws import Estimate, Refusal, panel_of
from evaluation.ensemble import Features, ensemble
from evaluation.halves import half_of
from evaluation.metrics import expected_k_way, true_ranks
from evaluation.runs import Pictures
from filters.errors import InputError
from tests.evaluation.study_runs import REFERENCE, SHIFT, WAYS, run, singles

CLASSES, COUNT = 10, 300


def test_an_additive_game_pays_each_what_it_brings() -> None:
    brings = np.array([3.0, -1.0, 0.5, 2.0, 0.0, 1.0])
    game = np.array([sum(b for i, b in enumerate(brings) if c >> i & 1) for c in range(64)])
    np.testing.assert_allclose(shapley(game + 7.0), brings, atol=1e-12)
    np.testing.assert_allclose(shapley(np.stack([game, 2 * game])), [brings, 2 * brings], atol=1e-12)


def test_the_glove_game() -> None:
    """One left glove and two right ones: a pair is worth 1, and the left glove gets 2/3 of it."""
    worth = [1.0 if c & 1 and c & 6 else 0.0 for c in range(8)]
    np.testing.assert_allclose(shapley(np.array(worth)), [2 / 3, 1 / 6, 1 / 6])


def test_against_all_orders() -> None:
    """Brute force over 5! orders of a random game; the values sum to what the whole is worth."""
    game = np.random.default_rng(0).normal(size=32)
    expected = np.zeros(5)
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        before = 0
        for player in order:
            expected[player] += (game[before | 1 << player] - game[before]) / len(orders)
            before |= 1 << player
    found = shapley(game)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(game[31] - game[0])
    with pytest.raises(InputError, match=r"2\^k coalitions, here are 7"):
        shapley(np.zeros(7))


def cached(skill: dict[str, float], *, seed: int, seeds: int = 2) -> Cached:
    """Scores of sources that know the class by `skill`; sources whose skill is the same are the same models."""
    labels = np.random.default_rng(seed).integers(0, CLASSES, COUNT)
    scores: dict[str, Sequence[Features]] = {}
    for name, know in skill.items():
        rng = np.random.default_rng([seed, int(100 * abs(know))])
        noise = rng.normal(size=(seeds, COUNT, CLASSES)).astype(np.float32)
        scores[name] = [one + np.float32(know) * np.eye(CLASSES, dtype=np.float32)[labels] for one in noise]
    names = np.array([f"{i:04d}" for i in range(COUNT)])
    return Cached(scores, labels, Pictures(names, names, np.zeros(COUNT)))


SKILL = {"ant": 1.5, "bee": 0.7, "cat": 0.7, "dog": -0.8}


def test_ensembles_of_planted_scores() -> None:
    """The harmful source loses credit, twins get the same, and the values sum to the whole less chance."""
    reference, shift = cached(SKILL, seed=1), cached(SKILL, seed=2)
    game = play(reference, shift, ways=5, resamples=200)
    assert game.sources == ("ant", "bee", "cat", "dog")
    for coalition in (0b0001, 0b0110, 0b1111):
        names = [name for i, name in enumerate(game.sources) if coalition >> i & 1]
        accuracies = [
            expected_k_way(true_ranks(ensemble([shift.scores[n][s] for n in names]), shift.labels), CLASSES, 5).mean()
            for s in range(2)
        ]
        assert game.y[coalition] == pytest.approx(norm.ppf(accuracies).mean(), abs=1e-3)
    found = {credit.source: credit for credit in credits(game, "probit")}
    assert next(iter(found)) == "ant" and list(found)[-1] == "dog"
    assert found["bee"].shapley.value == pytest.approx(found["cat"].shapley.value, abs=1e-3)
    assert found["ant"].shapley.clear and found["dog"].shapley.high < 0 > found["dog"].ensemble.high
    assert sum(c.shapley.value for c in found.values()) == pytest.approx(game.y[-1] - norm.ppf(0.2))
    assert str(found["ant"].measured) == "cannot test: no model was trained without ant"


def test_effective_robustness_is_measured_at_the_ensembles_own_place() -> None:
    """Where the shift is as hard as the reference for all, nothing is left to credit against y = x."""
    both = cached(SKILL, seed=1)
    game = play(both, both, ways=5, resamples=50)
    for credit in credits(game, "effective", baseline=lambda x: x):
        assert credit.shapley.value == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(InputError, match="measured from a baseline"):
        credits(game, "effective")


def test_half_of_the_concepts() -> None:
    whole = cached({"ant": 1.0}, seed=1)
    game = play(whole, whole, ways=5, half="report", resamples=20)
    mine = np.array([half_of(str(concept)) == "report" for concept in whole.pictures.concepts])
    accuracy = [
        expected_k_way(true_ranks(s[mine], whole.labels[mine]), CLASSES, 5).mean() for s in whole.scores["ant"]
    ]
    assert game.y[1] == pytest.approx(norm.ppf(accuracy).mean())


def test_intervals_hold_the_noise_of_seeds() -> None:
    """One seed has none to draw; with two that differ the interval is wider than with the same one twice."""
    apart = cached({"ant": 1.0, "bee": 0.3}, seed=1)
    twice = Cached({n: [s[0], s[0]] for n, s in apart.scores.items()}, apart.labels, apart.pictures)
    odd = {
        n: [s[0], 0.5 * s[1] - 0.3 * np.eye(CLASSES, dtype=np.float32)[apart.labels]] for n, s in apart.scores.items()
    }
    noisy = Cached(odd, apart.labels, apart.pictures)
    narrow, wide = (credits(play(c, c, ways=5, resamples=300), "probit")[0].shapley for c in (twice, noisy))
    assert wide.error > 1.5 * narrow.error


def test_sets_of_different_models() -> None:
    one, other = cached({"ant": 1.0, "bee": 0.3}, seed=1), cached({"ant": 1.0, "bee": 0.3}, seed=1, seeds=1)
    with pytest.raises(InputError, match="needs models of each source, seed by seed, on both sets"):
        play(one, other, ways=5)
    with pytest.raises(InputError, match="needs models of each source"):
        play(one, cached({"ant": 1.0}, seed=1), ways=5)


PLACES = {"ant": -0.3, "bee": 0.1, "cat": 0.0, "dog": -0.1}  # of the even mixture without each


def trained(*without: str) -> list[object]:
    names = ["ant", "bee", "cat", "dog"]
    groups = [names, *([n for n in names if n != left] for left in without)]
    places = [0.0, *(PLACES[left] for left in without)]
    lines = dict.fromkeys(names, (1.0, 0.0))
    return [
        *singles(lines, sizes=(4000,)),
        *(
            run("+".join(group), (0.2, y), shares={n: 1 / len(group) for n in group}, total=4000, seed=s)
            for group, y in zip(groups, places, strict=True) for s in (0, 1)
        ),
    ]  # fmt: skip


def test_measured_leave_one_out_and_its_agreement() -> None:
    panel = panel_of(trained("ant", "bee", "cat", "dog"), SHIFT, REFERENCE, resamples=100)  # type: ignore[arg-type]
    found = leave_one_out(panel, 4000, "probit")
    for name, place in PLACES.items():
        estimate = found[name]
        assert isinstance(estimate, Estimate) and estimate.value == pytest.approx(-place, abs=1e-9)
    effective = leave_one_out(panel, 4000, "effective", baseline=lambda x: x)["ant"]
    assert isinstance(effective, Estimate)
    assert effective.value == pytest.approx(100 * (0.5 - norm.cdf(-0.3)))
    play_of = play(cached(SKILL, seed=1), cached(SKILL, seed=2), ways=5, resamples=50)
    rows = credits(play_of, "probit", measured=found)
    order = [Credit(c.source, Estimate(-PLACES[c.source], 0, 0), c.ensemble, c.measured) for c in rows]
    assert agreement(order, "shapley") == pytest.approx(1.0)


def test_what_was_not_trained_is_refused() -> None:
    panel = panel_of(trained("ant"), SHIFT, REFERENCE, resamples=20)  # type: ignore[arg-type]
    found = leave_one_out(panel, 4000, "probit")
    assert isinstance(found["ant"], Estimate)
    says = "cannot test: no mixture of ant, cat, dog in equal parts was trained at 4000 samples"
    assert str(found["bee"]) == says
    assert "bee, cat, dog in equal parts" in str(leave_one_out(panel, 8000, "probit")["ant"])
    few = credits(play(cached(SKILL, seed=1), cached(SKILL, seed=2), ways=5, resamples=20), "probit", measured=found)
    assert str(agreement(few)) == "cannot test: 1 sources were left out of training one by one, 4 are needed"
    low = [*trained("ant"), run("no", (0.2, norm.ppf(1 / WAYS)), shares={"ant": 0.5, "bee": 0.5}, total=9)]
    assert isinstance(leave_one_out(panel_of(low, SHIFT, REFERENCE, resamples=20), 9, "probit")["ant"], Refusal)  # type: ignore[arg-type]
