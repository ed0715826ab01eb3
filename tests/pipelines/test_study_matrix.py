"""The runs of a study: counts, names and nesting of the profiles, and what cannot be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from filters.errors import ConfigError
from pipelines.config import load_config
from pipelines.study_claims import read_claims
from pipelines.study_config import StudyConfig, samples_of
from pipelines.study_matrix import RunSpec, Supply, expand, rate_spec, recipe_of

CONFIGS = Path(__file__).parents[2] / "configs" / "study"
# What the demo's sources have after the rules, with seed 0.
DEMO = Supply(
    there={"yfcc": 886, "laion": 848, "cc12m": 860, "wit": 790, "redcaps": 816, "shutterstock": 815},
    halves={"yfcc": (446, 440), "wit": (382, 408)},
)
WEB = Supply(
    there={"yfcc": 14_826_000, "laion": 15_504_742, "cc12m": 9_600_000, "wit": 5_038_295, "redcaps": 12_000_000,
           "shutterstock": 15_540_452},
    halves={"yfcc": (7_413_000, 7_413_000), "laion": (7_752_371, 7_752_371)},
)  # fmt: skip


def profile(name: str, **changes: Any) -> StudyConfig:
    return load_config(StudyConfig, str(CONFIGS / f"{name}.yaml"), list(changes.items()))


def by_kind(specs: list[RunSpec]) -> dict[str, int]:
    return dict(Counter(spec.kind for spec in specs))


def test_toy_is_what_was_said() -> None:
    config = profile("toy")
    specs = {spec.id: spec for spec in expand(config, DEMO)}
    # Of the filtered ones two are by a scorer; the others are its training and the random subset beside them.
    assert by_kind(list(specs.values())) == {"single": 48, "input_mix": 10, "filtered": 4, "output_mix": 4}
    assert {recipe_of(config, spec, 1e-3).samples_seen for spec in specs.values()} == {35_840}
    assert [specs[f"wit-n{n}-s1"].counts for n in (198, 395, 592, 790)] == [{"wit": n} for n in (198, 395, 592, 790)]
    assert specs["yfcc25-laion75-n790-s0"].counts == {"yfcc": 197, "laion": 593}
    assert specs["double-n1580-s0"].counts == {"yfcc": 790, "laion": 790}
    assert specs["ensemble-double-n1734-s1"].members == ["yfcc-n886-s1", "laion-n848-s1"]
    by_self = specs["yfcc-half2-by-self-top50-s0"].choice
    assert by_self is not None
    assert (by_self.scorers, by_self.pool) == (["yfcc-half1-n446-s0"], 440)
    by_best = specs["yfcc-half2-by-best-top50-s0"].choice
    assert by_best is not None
    assert "yfcc-n886-s0" not in by_best.scorers
    assert len(by_best.scorers) == 5


def test_toy_full_has_what_toy_has_and_its_mixtures_have_one_total() -> None:
    toy, full = (expand(profile(name), DEMO) for name in ("toy", "toy-full"))
    specs = {spec.id: spec for spec in full}
    assert all(specs[spec.id] == spec for spec in toy)
    out = [spec for spec in full if spec.id.startswith("six-quarters-without") and spec.seed == 0]
    assert len(out) == 6
    like = [spec for spec in full if spec.id.startswith("ensemble-quarters-dirichlet")]
    assert len(like) == 24
    assert like[0].weights == list(map(float, specs["dirichlet0.00-n790-s0"].counts.values()))
    assert like[0].members[0] == "yfcc-n222-s0"
    assert {spec.samples for spec in out} == {specs["six-quarters-n1185-s0"].samples}
    drawn = [spec for spec in full if spec.id.startswith("dirichlet")]
    assert len(drawn) == 24
    assert {spec.samples for spec in drawn} == {790}
    assert specs["dirichlet0.00-n790-s0"].counts == specs["dirichlet0.00-n790-s1"].counts
    assert [specs[f"wit-n790-s{seed}"].kind for seed in (0, 1, 2)] == ["single"] * 3
    assert {f"yfcc-n790-s{seed}" for seed in (0, 1, 2)} <= specs.keys()


def test_every_profile_is_a_study() -> None:
    assert profile("medium").train.samples_seen == 409_600
    paper = profile("paper")
    specs = expand(paper, WEB)
    alone = [spec for spec in specs if spec.kind == "single" and spec.seed == 0]
    assert [spec.samples for spec in alone if "wit" in spec.counts] == [1_000_000, 2_700_000, 5_000_000]
    assert recipe_of(paper, alone[0], 1e-3).samples_seen == 16_000_000
    assert rate_spec(paper, WEB).samples == 5_038_295


def test_the_claims_are_those_of_the_paper() -> None:
    claims, sha256 = read_claims(CONFIGS / "claims.yaml")
    by_id = {claim.id: claim for claim in claims.claims}
    assert {name.rstrip("ab") for name in by_id} == {f"C{n}" for n in range(2, 18)}
    assert all(by_id[name].cannot_test for name in ("C4", "C5", "C6", "C7"))
    assert len(sha256) == 64


def test_amounts_are_shares_or_numbers() -> None:
    assert [samples_of(amount, 800) for amount in (0.25, 1.5, 10, 11, 2_700_000)] == [200, 1200, 8000, 11, 2_700_000]


MORE = {"name": "more", "weights": {"wit": 1}, "total": [2.0]}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("mixtures", [MORE], "wit-n1580-s0 asks for 1580 of wit, which has 790"),
        (
            "mixtures",
            [{"name": "x"}, {"name": "x", "sources": ["wit", "yfcc"]}],
            "two different runs are called x-n790",
        ),
        ("mixtures", [{"name": "x", "weights": {"flickr": 1}}], "flickr is none of the study's sources"),
        ("mixtures", [{"ratios": [0.5]}], "ratios are of two sources"),
        ("mixtures", [{"ratios": [0.5], "dirichlet": 3}], "give one of parts, weights, ratios"),
        ("ensembles", [{"name": "x", "size": 0.3}], "ensemble-x-n1504-s0 needs the run yfcc-n266-s0, which no size"),
        ("ensembles", [{"name": "x", "weights": [1.0]}], "ensemble x: 1 weights for 6 sources"),
        ("train.batch", 256, "less than a batch of 256"),
        ("sources", ["wit", "wit"], "source wit is listed twice"),
    ],
)
def test_what_cannot_be_is_one_line(key: str, value: Any, says: str) -> None:
    only: dict[str, Any] = {"mixtures": [], "ensembles": [], "filters": []} if key != "train.batch" else {}
    with pytest.raises(ConfigError) as error:
        expand(profile("toy", **{**only, key: value}), DEMO)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
