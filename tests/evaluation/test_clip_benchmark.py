"""CLIP_benchmark itself, on the same model and the same folders."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.captions import load_captioned
from evaluation.exchange import clip_benchmark_files, read_foreign
from evaluation.formats import Row
from evaluation.metrics import acc1, acc5, mean_per_class_recall, true_ranks
from evaluation.retrieval import recall
from evaluation.tasks import Task, load_task, write_task
from evaluation.zeroshot import zero_shot
from tests.evaluation.test_cache import picture
from tests.evaluation.test_captions import write_captioned
from trainer.embed import embed_images, embed_texts
from trainer.model import LoadedModel, load_model

# Without its dependencies: some are large, and none of them is used here but scikit-learn.
PACKAGES = ("clip-benchmark==1.6.2", "scikit-learn<2", "joblib", "threadpoolctl")
TEMPLATES = ["a photo of a {c}.", "the {c}", "{c} in {c}"]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with CLIP_benchmark in it, importable for this module's tests only."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"CLIP_benchmark cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("clip_benchmark", "sklearn", "joblib", "threadpoolctl"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> LoadedModel:
    return load_model(str(tiny_model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of seven classes, unevenly filled."""
    rng = np.random.default_rng(0)
    images = [picture(int(shade)) for shade in rng.integers(0, 85, 60)]
    labels = np.concatenate([np.arange(7), rng.choice(7, 53, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])])
    names = ["tench", "red fox", "sea", "hen", "tree house", "cup", "zebra"]
    task = Task("seven", images, labels, names, TEMPLATES, [str(i) for i in range(60)])
    path = tmp_path_factory.mktemp("sets") / "seven"
    write_task(path, task)
    return path


def module(name: str) -> ModuleType:
    return importlib.import_module(f"clip_benchmark.metrics.{name}")


def test_zero_shot_figures_agree(
    theirs: Path, tiny: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeroshot = module("zeroshot_classification")
    task = load_task(folder)
    images = torch.stack([tiny.preprocess(_opened(data)) for data in task.images])
    batches = [
        (images[start : start + 16], torch.from_numpy(task.labels[start : start + 16])) for start in range(0, 60, 16)
    ]

    class Loader(list[Any]):
        class dataset:
            classes = task.classnames

    # Its own line calls float() on an array of one number, which NumPy 2.4 refuses: the same count, as it was meant.
    monkeypatch.setattr(zeroshot, "accuracy", lambda logits, target, topk: [
        float((logits.topk(k, 1).indices == target[:, None]).any(1).double().mean()) for k in topk
    ])  # fmt: skip
    found = zeroshot.evaluate(
        tiny.model, Loader(batches), tiny.tokenizer, task.classnames, TEMPLATES, "cpu", amp=False
    )
    [scores] = zero_shot(tiny, [task])
    ranks = true_ranks(scores, task.labels)
    assert found["acc1"] == pytest.approx(acc1(ranks), abs=1e-6)
    assert found["acc5"] == pytest.approx(acc5(ranks, 7), abs=1e-6)
    assert found["mean_per_class_recall"] == pytest.approx(mean_per_class_recall(ranks, task.labels), abs=1e-6)
    assert 0 < acc1(ranks) < 1


def test_its_logits_are_a_hundred_times_our_similarities(theirs: Path, tiny: LoadedModel, folder: Path) -> None:
    zeroshot = module("zeroshot_classification")
    task = load_task(folder)
    images = torch.stack([tiny.preprocess(_opened(data)) for data in task.images])
    head = zeroshot.zero_shot_classifier(tiny.model, tiny.tokenizer, task.classnames, TEMPLATES, "cpu", amp=False)
    logits, _ = zeroshot.run_classification(
        tiny.model, head, [(images, torch.from_numpy(task.labels))], "cpu", amp=False
    )
    [scores] = zero_shot(tiny, [task])
    np.testing.assert_allclose(logits.numpy() / 100, scores, atol=1e-6)


def test_recalls_agree(theirs: Path, tiny: LoadedModel) -> None:
    retrieval = module("zeroshot_retrieval")
    data = [picture(shade) for shade in range(0, 80, 4)]
    captions = [[f"picture {i}", f"number {i * i} of many"][: 1 + i % 2] for i in range(20)]
    images = torch.stack([tiny.preprocess(_opened(one)) for one in data])
    batches = [(images[start : start + 8], captions[start : start + 8]) for start in range(0, 20, 8)]
    found = retrieval.evaluate(tiny.model, batches, tiny.tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
    owner = np.array([i for i, texts in enumerate(captions) for _ in texts])
    texts = embed_texts(tiny, [text for texts in captions for text in texts])
    ours = recall(embed_images(tiny, data), texts, owner, (1, 5))
    for k in (1, 5):
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(ours.image_from_text[k], abs=1e-6)
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(ours.text_from_image[k], abs=1e-6)


def test_its_reader_finds_the_same_captions_in_a_retrieval_set(theirs: Path, tmp_path: Path) -> None:
    builder = importlib.import_module("clip_benchmark.datasets.builder")
    texts = {"s0": b"one\ntwo, and more\n", "s1": "drei, gr\u00fcn".encode(), "s2": b"x\r\ny\n\nz"}
    folder = write_captioned(tmp_path / "coco", texts)
    ours = load_captioned(folder)
    found = list(builder.build_wds_dataset("coco", lambda image: image.size, data_dir=str(folder)))
    assert [captions for _, captions in found] == [
        [ours.captions[i] for i in np.flatnonzero(ours.owner == number)] for number in range(3)
    ]


def test_it_builds_its_table_from_our_files(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = "clip_benchmark.metrics.captioning"  # which needs a package of its own
    monkeypatch.setitem(sys.modules, unused, ModuleType(unused))
    rows = [
        Row(model="even", source="wit", dataset=name, metrics={"acc1": value, "acc5": None, "ece": 0.1})
        for name, value in (("cars", 0.25), ("wds/imagenet-r", 0.5))
    ]
    for path, text in clip_benchmark_files(rows, str(tmp_path)).items():
        path.write_text(text)
    build = importlib.import_module("clip_benchmark.cli").main_build
    build(argparse.Namespace(files=[str(tmp_path)], output=str(tmp_path / "benchmark.csv")))
    found = sorted(read_foreign(tmp_path / "benchmark.csv"), key=lambda row: row.dataset)
    assert [(row.model, row.source, row.dataset, row.metrics) for row in found] == [
        (row.model, row.source, row.dataset, row.metrics) for row in rows
    ]


def _opened(data: bytes) -> Any:
    from trainer.images import decode_rgb

    return decode_rgb(data)
