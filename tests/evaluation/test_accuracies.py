"""Accuracies from results and tables, and what a study makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation import accuracies, baselines
from evaluation.accuracies import ModelScores, read_csv, read_scores
from evaluation.lines import Insufficient
from evaluation.results import Component, Figure, Result, SetResult, write_results
from evaluation.shift_study import study_shifts
from filters.errors import InputError


@pytest.fixture(scope="module")
def published() -> list[ModelScores]:
    """open_clip's table of zero-shot accuracies."""
    return read_csv(baselines.DATA / "open_clip.csv")


def result(
    name: str, sizes: dict[str, int], figures: dict[str, tuple[float, float | None]], kind: Any = "single"
) -> Result:
    def figure(value: float) -> dict[str, Any]:
        return {
            "n": 1000, "classes": 10, "value": value / 2, "low": 0.0, "high": 1.0, "chance": 0.1, "at_floor": False,
            "acc1": value, "acc5": None, "mean_per_class_recall": value,
        }  # fmt: skip

    sets = {
        task: SetResult(
            **figure(value), protocol="p", template_hash="t", family="", same_family=False,
            reference=None if own is None else Figure(**figure(own)),
        )
        for task, (value, own) in figures.items()
    }  # fmt: skip
    components = [Component(source=source, n=n) for source, n in sizes.items()]
    return Result(run_id=name, kind=kind, components=components, n_total=sum(sizes.values()), eval=sets)


def test_results_become_accuracies(tmp_path: Path) -> None:
    rows = [
        result("m1", {"yfcc": 100}, {"imagenet": (0.3, None), "imagenet-r": (0.2, 0.6), "styles": (0.1, 0.3)}),
        result("m2", {"yfcc": 25, "cc12m": 75}, {"imagenet": (0.4, None)}, "input_mix"),
        result("m3", {"yfcc": 50, "cc12m": 50}, {"imagenet": (0.4, None)}, "output_mix"),
        result("m4", {"yfcc": 50}, {"imagenet": (0.4, None)}, "filtered"),
    ]
    write_results(tmp_path / "results.jsonl", rows)
    found = read_scores(tmp_path / "results.jsonl")
    assert found[0].accuracy == {"val": 0.3, "r": 0.2, "styles": 0.1, "val-on-r": 0.6, "val-on-styles": 0.3}
    assert found[0].images == dict.fromkeys(found[0].accuracy, 1000)
    assert [score.source for score in found] == [
        "yfcc",
        "cc12m+yfcc 75:25",
        "cc12m+yfcc 50:50 ensemble",
        "yfcc filtered",
    ]
    assert [score.size for score in found] == [100, 100, 100, 50]
    assert read_scores(tmp_path / "results.jsonl", "value")[0].accuracy["val"] == 0.15


def test_names_of_sets() -> None:
    for name in ("wds/imagenetv2", "imagenet-v2", "ImageNetV2-Matched-Frequency", "v2"):
        assert accuracies.set_name(name) == "v2"
    assert accuracies.set_name("imagenet1k") == "val"
    assert accuracies.set_name("openmoji") == "openmoji"


def test_a_study_takes_the_reference_of_the_published_line(published: list[ModelScores]) -> None:
    scores = [
        ModelScores(
            f"m{i}", "s", None, {"val": x, "r": x - 0.1, "val-on-r": x + 0.1, "styles": x, "val-on-styles": x}
        )
        for i, x in enumerate((0.6, 0.65, 0.7, 0.75))
    ]
    r, styles = study_shifts(scores)
    assert (r.reference, styles.reference) == ("val-on-r", "val-on-styles")
    assert r.effective is not None and r.effective.baseline.set == "std"
    assert styles.effective is None
    low = study_shifts(scores, models="std+low")[0]
    assert low.reference == "val" and low.effective is not None
    mixed = study_shifts([*scores, ModelScores("small", "s", None, {"val": 0.2, "r": 0.1})], shifts=["r"])[0]
    assert mixed.effective is not None and mixed.effective.baseline.set == "std+low"
    assert isinstance(study_shifts(published, shifts=["v2"])[0].gaps("openai", "cc12m"), Insufficient)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,source,val\n", "no column model"),
        ("model,source,val,imagenet\nm,s,.1,.2\n", "two columns are one set"),
        ("model,source,val\nm,s,36.5\n", "line 2: val is 36.5; accuracies are in 0 to 1, not in percent"),
        ("model,source,val\nm,s,high\n", "line 2: val is 'high', expected a number"),
        ("model,source,val\nm,s\n", "line 2: has another number of cells"),
        ("model,source,val\nm,s,.1,.2\n", "line 2: has another number of cells"),
        ("model,source,val\n,s,.1\n", "must not be empty"),
        ("model,source,val\n", "holds no models"),
        ("", "no column model and source; there are none"),
    ],
)
def test_tables_that_are_wrong(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_scores(path)


def test_a_table_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffmodel,source,size,val,imagenet-r,styles\nm,s,1e6,.1,,.3\nn,s,,.2,.1,\n", encoding="utf-8")
    one, two = read_scores(path)
    assert (one.size, one.accuracy) == (1e6, {"val": 0.1, "styles": 0.3})
    assert (two.size, two.accuracy) == (None, {"val": 0.2, "r": 0.1})
    with pytest.raises(InputError, match="no such file"):
        read_scores(tmp_path / "none.csv")


def test_studies_that_cannot_be() -> None:
    scores = [ModelScores("m", "s", None, {"val": 0.5, "r": 0.4})]
    for arguments, says in (
        (("test",), "no model has the reference 'test'; there are r, val"),
        (("val", ["v2"]), "no model has the shift v2"),
    ):
        with pytest.raises(InputError, match=says):
            study_shifts(scores, arguments[0], shifts=arguments[1] if len(arguments) > 1 else None)
