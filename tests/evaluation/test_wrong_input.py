"""Wrong input is one clear line, of every part of the evaluation; through the commands: `tests.pipelines`.

The kinds: features that are not numbers, one class, too few views, widths that do not match, an empty set, and a
picture that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import methods
from evaluation.cache import FeatureCache
from evaluation.calibration import expected_calibration_error
from evaluation.embeddings import ModelEmbeddings
from evaluation.m2ib import attribute
from evaluation.metrics import true_ranks
from evaluation.probe import Probe, few_shot, fit_probe
from evaluation.results import RunInfo
from evaluation.retrieval import recall
from evaluation.shifts import Protocol, evaluate_similarities
from evaluation.tasks import Task
from evaluation.tpt import Tuner, tune
from evaluation.umfc import Calibrator, calibrate
from evaluation.zeroshot import class_embeddings, similarities
from filters.errors import ConfigError, HeadwaterError, InputError, ModelError
from tests.evaluation import m2ib_models, tpt_plain
from tests.evaluation.conftest import nan_model
from tests.evaluation.test_cache import picture
from trainer.model import LoadedModel, load_model

NAMES = ["fox", "hen", "sea", "cup"]
LABELS = np.arange(8) % 4
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 6)).astype(np.float32)
BROKEN = FEATURES.copy()
BROKEN[5, 2] = np.nan
TASK = Task("val", [picture(3 * i) for i in range(8)], LABELS, NAMES, ["a {c}"], [f"p{i}" for i in range(8)])
ONE = Task("val", TASK.images[:2], np.zeros(2, np.int64), ["fox"], ["a {c}"], ["p0", "p1"])
PROBE = Probe(np.zeros((4, 6)), np.zeros(4), 1.0)
Call = Callable[[], Any]


def figures(task: Task, scores: np.ndarray) -> Any:
    return evaluate_similarities(
        RunInfo(run_id="r", kind="single"), [task], {"val": scores}, "val", protocol=Protocol(ways=2)
    )


def tuned(views: int = 10, classes: tuple[int, ...] = (1, 2, 3), change: float = 0.0, width: int = 0) -> Any:
    tuner = Tuner(tpt_plain.small(), tpt_plain.class_tokens(classes))
    return tuner.tune(torch.randn(2, views, tpt_plain.DIM + width) + change)


def attributed(**change: Any) -> Any:
    model = m2ib_models.clip()
    images, tokens = m2ib_models.pairs(model, [6, 7])
    return attribute(model, **{"images": images, "tokens": tokens, "side": "image", **change})


def bad_m2ib(part: str) -> Any:
    model = m2ib_models.clip()
    torch.nn.init.constant_(getattr(model.visual, part), torch.nan)
    images, tokens = m2ib_models.pairs(model, [6, 7])
    return attribute(model, images, tokens, side="image", layer=1, steps=1, samples=1)


FUNCTIONS: dict[str, tuple[Call, type[HeadwaterError], str]] = {
    "ranks, NaN": (lambda: true_ranks(BROKEN, LABELS), InputError, "not numbers"),
    "figures, NaN": (
        lambda: figures(TASK, BROKEN[:, :4] * np.nan),
        InputError,
        "val: similarities are not all finite",
    ),
    "figures, one class": (lambda: figures(ONE, FEATURES[:2, :1]), InputError, "val is scored among 1 classes"),
    "figures, width": (lambda: figures(TASK, FEATURES), InputError, r"val: similarities are \(8, 6\)"),
    "calibration, NaN": (lambda: expected_calibration_error(BROKEN, LABELS), InputError, "not numbers"),
    "zero-shot, width": (
        lambda: similarities(FEATURES, FEATURES[:, :5]),
        InputError,
        r"\(8, 5\) are not of one width",
    ),
    "UMFC, NaN": (
        lambda: calibrate(BROKEN, FEATURES[:4], LABELS),
        InputError,
        "features: row 5 is zero or holds NaN",
    ),
    "UMFC, NaN in a stream": (lambda: Calibrator(2).update(BROKEN), InputError, "batch: row 5 is zero or holds NaN"),
    "UMFC, NaN in texts": (lambda: calibrate(FEATURES, BROKEN, LABELS), InputError, "text: row 5"),
    "UMFC, one class": (lambda: calibrate(FEATURES, FEATURES[:1], LABELS), InputError, "one class"),
    "UMFC, width": (
        lambda: calibrate(FEATURES, FEATURES[:, :5], LABELS),
        InputError,
        "text has 5 numbers a row, 6 are",
    ),
    "UMFC, no picture": (lambda: Calibrator(2).fit(FEATURES[:0]), InputError, r"features has shape \[0, 6\]"),
    "TPT, NaN": (lambda: tuned(change=torch.nan), InputError, "picture 0, view 0: its features are not finite"),
    "TPT, one class": (lambda: tuned(classes=(1,)), InputError, "1 class: .* two or more"),
    "TPT, too few views": (lambda: tuned(views=9), InputError, "keep 0.1 of 9 views leaves none"),
    "TPT, width": (lambda: tuned(width=1), InputError, "as wide as the model's text features"),
    "TPT, size of pictures": (
        lambda: tune(tpt_plain.small(), torch.zeros(1, 10, 3, 16, 16), tpt_plain.class_tokens()),
        InputError,
        "of this model",
    ),
    "M2IB, NaN": (lambda: attributed(images=torch.full((2, 3, 32, 32), torch.nan)), InputError, "image 0 holds NaN"),
    "M2IB, NaN features": (lambda: bad_m2ib("proj"), ModelError, r"of pair 0 is not finite \(2 of 2\)"),
    "M2IB, size of pictures": (lambda: attributed(images=torch.zeros(2, 3, 16, 16)), InputError, "the model takes"),
    "M2IB, width of noise": (lambda: attributed(noise=torch.zeros(10, 2, 10, 17, 5)), InputError, "D = 24"),
    "M2IB, no pair": (lambda: attributed(images=torch.zeros(0, 3, 32, 32)), InputError, "are no pairs"),
    "retrieval, NaN": (lambda: recall(BROKEN, FEATURES, np.arange(8)), InputError, "not numbers"),
    "retrieval, width": (lambda: recall(FEATURES, FEATURES[:, :5], np.arange(8)), InputError, "not of one width"),
    "probe, NaN": (lambda: fit_probe(BROKEN, LABELS, 4), InputError, "not numbers"),
    "probe, one class": (lambda: fit_probe(FEATURES, LABELS * 0, 1), InputError, "1 of 1 classes"),
    "probe, labels": (lambda: fit_probe(FEATURES, LABELS[:5], 4), InputError, "one row for each of 5 labels"),
    "probe, width": (
        lambda: PROBE.scores(FEATURES[:, :5]),
        InputError,
        r"\(8, 5\), expected \[N, 6\]",
    ),
    "probe, NaN scored": (
        lambda: PROBE.scores(BROKEN),
        InputError,
        "not numbers",
    ),
    "few-shot, too few": (lambda: few_shot(LABELS, 3), InputError, "class 0 has 2 pictures, fewer than 3"),
}


def assert_one_line(call: Call, kind: type[HeadwaterError], says: str) -> None:
    with pytest.raises(HeadwaterError, match=says) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_it_in_one_line(name: str) -> None:
    assert_one_line(*FUNCTIONS[name])


@pytest.mark.parametrize(
    ("method", "weight", "kind", "says"),
    [
        ("zero_shot", "visual.conv1.weight", InputError, "val: p0: picture 0: its embedding is not finite"),
        ("zero_shot", "token_embedding.weight", ModelError, "no usable embedding for 'a fox'"),
        ("umfc", "visual.conv1.weight", InputError, "val: p0: picture 0: its embedding is not finite"),
        ("tpt", "visual.conv1.weight", InputError, "val: of pictures p0 to p7: picture 0, view 0"),
        ("tpt", "token_embedding.weight", ModelError, "val: the text features of class 0 are not finite"),
    ],
)
def test_a_model_that_gives_no_numbers(
    method: methods.Method, weight: str, kind: type[HeadwaterError], says: str, tiny_model: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(nan_model(tiny_model, tmp_path / "nan", weight)))
    settings = methods.TestTime(views=4, keep=0.5, clusters=2)
    source = ModelEmbeddings(loaded, FeatureCache())
    assert_one_line(lambda: methods.scores_of(method, source, [TASK], settings), kind, says)


@pytest.mark.parametrize(
    ("method", "task", "says"),
    [
        ("umfc", ONE, "val: text holds one class"),
        ("tpt", ONE, "val: 1 class"),
        ("zero_shot", replace(TASK, images=[*TASK.images[:7], b"no"]), "val: p7: picture 7: 2 bytes are not a whole"),
        ("umfc", replace(TASK, images=[*TASK.images[:7], b"no"]), "val: p7: picture 7: 2 bytes are not a whole"),
        ("tpt", replace(TASK, images=[*TASK.images[:7], b"no"]), "val: p7: 2 bytes are not a whole picture"),
    ],
)
def test_methods_name_the_set_and_the_picture(
    method: methods.Method, task: Task, says: str, tiny: LoadedModel
) -> None:
    settings = methods.TestTime(views=4, keep=0.5, clusters=2)
    source = ModelEmbeddings(tiny, FeatureCache())
    assert_one_line(lambda: methods.scores_of(method, source, [task], settings), InputError, says)


def test_settings_that_leave_no_view_are_no_settings() -> None:
    with pytest.raises(ValueError, match=r"keep 0\.1 of 9 views leaves none"):
        methods.TestTime(views=9)


def test_a_kept_feature_that_is_no_number_is_computed_again(tiny: LoadedModel, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    first = cache.images(tiny, TASK)
    [path] = tmp_path.rglob("*.npy")
    np.save(path, np.full_like(first, np.nan))
    np.testing.assert_array_equal(cache.images(tiny, TASK), first)


def test_a_prompt_without_meaning_is_named(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.zeroshot.embed_texts", lambda *_, **__: np.array([[1.0], [-1.0]], np.float32))
    assert_one_line(lambda: class_embeddings(tiny, ["fox"], ["a {c}", "{c}"]), ModelError, "for 'fox'")


def test_a_setting_out_of_range_is_a_config_error() -> None:
    assert_one_line(lambda: attributed(steps=0), ConfigError, "steps 0")
