"""The chain from pictures to results on a tiny real model, and on an encoder whose answers are known."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation import cache, results, shifts, zeroshot
from evaluation.classes import restrict, subset
from evaluation.results import Component, RunInfo
from evaluation.shifts import Protocol, evaluate_model, evaluate_similarities
from evaluation.tasks import Task
from filters.errors import InputError, ModelError
from tests.evaluation.conftest import MakeTask, encode
from trainer.embed import embed_images, embed_texts
from trainer.model import LoadedModel

NAMES = [f"thing {i}" for i in range(12)]
RUN = RunInfo(
    run_id="r1",
    kind="single",
    components=[Component(source="yfcc", n=100)],
    n_total=100,
    arch="tiny",
    families=["noto", "openmoji"],
)
FAST = Protocol(ways=5, resamples=200)


@pytest.fixture
def tasks(make_task: MakeTask) -> list[Task]:
    return [
        make_task("ref", NAMES, family="emojione"),
        make_task("near", [*NAMES[:3:-1], "zebra"], seed=1, family="noto"),
        make_task("far", NAMES[2:9], seed=2, per_class=1),
    ]


def test_head_is_the_normalised_mean(tiny: LoadedModel) -> None:
    """Against the definition, one prompt at a time (1e-5: batches of another shape round differently)."""
    templates = ["a {c}", "the {c} in {c}"]
    head = zeroshot.class_embeddings(tiny, ["dog", "cat {x}"], templates)
    for row, name in zip(head, ["dog", "cat {x}"], strict=True):
        parts = [embed_texts(tiny, [template.replace("{c}", name)])[0] for template in templates]
        mean = np.mean(parts, axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    assert head.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(head, axis=1), 1, atol=1e-6)


def test_heads_shared_between_tasks(tiny: LoadedModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt goes through the text tower once, though tasks share names."""
    seen: list[str] = []

    def spy(loaded: LoadedModel, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        seen.extend(texts)
        return embed_texts(loaded, texts, batch)

    monkeypatch.setattr(zeroshot, "embed_texts", spy)
    made = zeroshot.heads(tiny, tasks)
    assert [len(head) for head in made] == [12, 9, 7]
    assert len(seen) == len(set(seen)) == 2 * 13
    np.testing.assert_array_equal(made[2], made[0][2:9])


def test_useless_text_tower(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def opposite(loaded: LoadedModel, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        return np.tile([[1.0], [-1.0]], (len(texts) // 2, 4)).astype(np.float32)

    monkeypatch.setattr(zeroshot, "embed_texts", opposite)
    with pytest.raises(ModelError, match="no usable embedding for 'dog'"):
        zeroshot.class_embeddings(tiny, ["dog"], ["a {c}", "b {c}"])


def test_second_run_is_bit_equal(tiny: LoadedModel, tasks: list[Task], tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST)
        results.write_results(tmp_path / name / "results.jsonl", [made.result])
        results.write_images(tmp_path / name / "images.parquet", made.images)
    for file in ("results.jsonl", "images.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_figures_are_on_shared_classes(tiny: LoadedModel, tasks: list[Task]) -> None:
    sets = evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST).result.eval
    assert list(sets) == ["ref", "near", "far"]
    assert (sets["ref"].classes, sets["ref"].n, sets["ref"].reference) == (12, 24, None)
    near, far = sets["near"], sets["far"]
    assert near.reference is not None and far.reference is not None
    assert (near.classes, near.n, near.reference.classes, near.reference.n) == (8, 16, 8, 16)
    assert (far.classes, far.n, far.reference.classes, far.reference.n) == (7, 7, 7, 14)
    assert [s.same_family for s in sets.values()] == [False, True, False]
    assert near.chance == 0.2 and near.protocol == "expected_5_way" and len(near.template_hash) == 12
    for figure in [*sets.values(), near.reference, far.reference]:
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.at_floor == (figure.low <= figure.chance)


def test_slicing_similarities_equals_evaluating_the_restricted_task(tiny: LoadedModel, tasks: list[Task]) -> None:
    """Intersections reuse one matrix of similarities; a task restricted on its own gives the same (1e-5)."""
    names = NAMES[4:]
    part = subset(tasks[0], names)
    whole = part.of(zeroshot.zero_shot(tiny, [tasks[0]])[0])
    alone = zeroshot.zero_shot(tiny, [restrict(tasks[0], names)])[0]
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_each_picture_is_embedded_once(tiny: LoadedModel, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def spy(loaded: LoadedModel, images: Sequence[bytes], batch: int = 256) -> np.ndarray:
        counts.append(len(images))
        return embed_images(loaded, images, batch)

    monkeypatch.setattr(cache, "embed_images", spy)
    evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST)
    assert counts == [len(task.images) for task in tasks]


def test_image_table_explains_each_figure(tiny: LoadedModel, tasks: list[Task]) -> None:
    made = evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST)
    frame = made.images.to_pandas()
    assert made.images.schema.equals(results.IMAGES)
    keyed = frame.groupby(["task", "concepts"])["expected_accuracy"].mean()
    assert keyed["ref", "all"] == pytest.approx(made.result.eval["ref"].value, rel=1e-12)
    assert keyed["far", "far"] == pytest.approx(made.result.eval["far"].value, rel=1e-12)
    reference = made.result.eval["near"].reference
    assert reference is not None and keyed["ref", "near"] == pytest.approx(reference.value, rel=1e-12)
    first = (frame["rank"] == 0) & (frame["ties"] == 0)
    assert (frame.loc[first, "predicted"] == frame.loc[first, "concept"]).all()


def unit(rows: np.ndarray) -> np.ndarray:
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def test_known_encoder_gives_known_figures(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> None:
    """An encoder that sees mean colours names pure colours without error, and swapped labels with none right."""

    def see(loaded: LoadedModel, images: Sequence[bytes], batch: int = 256) -> np.ndarray:
        mean = np.array([np.asarray(Image.open(io.BytesIO(data))).mean(axis=(0, 1)) for data in images], np.float32)
        return unit(mean)

    def read(loaded: LoadedModel, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        mean = np.array([COLOURS[text.split()[0]] for text in texts], np.float32)
        return unit(mean)

    monkeypatch.setattr(cache, "embed_images", see)
    monkeypatch.setattr(zeroshot, "embed_texts", read)
    names = list(COLOURS)
    images = [encode(np.full((8, 8, 3), COLOURS[name], dtype=np.uint8)) for name in names]
    keys = [f"s{i}" for i in range(4)]
    right = Task("right", images, np.arange(4), names, ["{c} thing"], keys)
    wrong = Task("wrong", images, np.array([1, 2, 0, 3]), names, ["{c} thing"], keys)
    made = evaluate_model(tiny, RUN, [right, wrong], "right", protocol=Protocol(ways=4, resamples=100))
    assert made.result.eval["right"].value == made.result.eval["right"].acc1 == 1
    assert made.result.eval["wrong"].acc1 == 0.25
    assert made.images.to_pandas().query("task == 'wrong'")["predicted"].tolist() == names


def test_random_similarities_are_at_floor(make_task: MakeTask) -> None:
    """Scores without information: the figure is near chance and marked."""
    task = make_task("ref", [f"thing {i}" for i in range(150)], per_class=1)
    scores = np.random.default_rng(0).normal(size=(150, 150)).astype(np.float32)
    figure = evaluate_similarities(RUN, [task], {"ref": scores}, "ref").result.eval["ref"]
    assert figure.at_floor and figure.chance == 0.01 and figure.value == pytest.approx(0.01, abs=0.01)


def test_wrong_questions(tiny: LoadedModel, tasks: list[Task]) -> None:
    with pytest.raises(InputError, match="'val' is not among the tasks"):
        evaluate_model(tiny, RUN, tasks, "val")
    with pytest.raises(InputError, match="two tasks have the same name"):
        evaluate_model(tiny, RUN, [tasks[0], tasks[0]], "ref")
    with pytest.raises(InputError, match=r"ref is scored among 7 classes \(far\), too few for 8-way"):
        evaluate_model(tiny, RUN, tasks, "ref", protocol=Protocol(ways=8))


def test_results_file(tiny: LoadedModel, tasks: list[Task], tmp_path: Path) -> None:
    """Round trip; the study's field names on every line; a broken line is named."""
    made = evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST)
    path = tmp_path / "deep" / "results.jsonl"
    results.write_results(path, [made.result, made.result])
    assert results.read_results(path) == [made.result, made.result]
    odd = replace(made.result, run_id="one\u2028line")
    results.write_results(tmp_path / "odd.jsonl", [odd])
    assert results.read_results(tmp_path / "odd.jsonl") == [odd]
    study = "run_id kind components n_total arch epochs samples_seen batch lr seed filter ensemble eval"
    row = json.loads(path.read_text().splitlines()[0])
    assert {*study.split(), "data_manifest_hash", "code_version"} <= set(row)
    assert row["eval"]["near"]["reference"]["n"] == 16
    path.write_text(path.read_text() + '{"run_id": "x", "kind": "single", "evals": {}}\n')
    with pytest.raises(InputError, match=r"results\.jsonl line 3: eval"):
        results.read_results(path)
    with pytest.raises(InputError, match="is missing"):
        results.read_results(tmp_path / "none.jsonl")


def test_images_file(tiny: LoadedModel, tasks: list[Task], tmp_path: Path) -> None:
    made = shifts.evaluate_model(tiny, RUN, tasks, "ref", protocol=FAST)
    results.write_images(tmp_path / "images.parquet", made.images)
    assert pq.read_table(tmp_path / "images.parquet").equals(made.images)
