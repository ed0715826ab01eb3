"""Embeddings in files: three forms of the same set, ours written and read, and each thing that can be wrong named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation import methods
from evaluation.cache import FeatureCache
from evaluation.captions import Captioned
from evaluation.classes import by_class
from evaluation.embeddings import ModelEmbeddings
from evaluation.methods import scores_of
from evaluation.saved import SavedEmbeddings, write_captioned_embeddings, write_task_embeddings
from evaluation.zeroshot import similarities
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask
from trainer.model import LoadedModel

RNG = np.random.default_rng(0)
IMAGES, CLASSES = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(3, 4)).astype(np.float32)
LABELS, NAMES, KEYS = np.array([0, 1, 2, 0, 1, 2]), ["hen", "fox", "cup"], list("abcdef")


def table(path: Path, rows: np.ndarray, **columns: Any) -> None:
    pq.write_table(pa.table({"embedding": [row.tolist() for row in rows.astype(np.float64)], **columns}), path)


def write(form: str, folder: Path) -> None:
    """The same set, `x`, in a form."""
    arrays = {"images": 3 * IMAGES, "labels": LABELS, "classes": CLASSES}
    if form == "npz":
        np.savez(folder / "x.npz", classnames=np.array(NAMES), keys=np.array(KEYS), **arrays)  # type: ignore[arg-type]
    elif form == "folder":
        (folder / "x").mkdir()
        for key, array in arrays.items():
            np.save(folder / "x" / f"{key}.npy", array)
        (folder / "x" / "classnames.txt").write_text("\n".join(NAMES))
        (folder / "x" / "keys.txt").write_text("\n".join(KEYS))
    else:
        table(folder / "x.parquet", IMAGES, key=KEYS, **{"class": [NAMES[label] for label in LABELS]})
        table(folder / "x.classes.parquet", CLASSES, **{"class": NAMES})


@pytest.mark.parametrize("form", ["npz", "folder", "parquet"])
def test_three_forms_are_one_set(form: str, tmp_path: Path) -> None:
    write(form, tmp_path)
    saved = SavedEmbeddings(tmp_path)
    [task] = saved.tasks
    assert (task.name, task.classnames, task.keys, task.labels.tolist()) == ("x", NAMES, KEYS, LABELS.tolist())
    unit = IMAGES / np.linalg.norm(IMAGES, axis=1, keepdims=True)
    np.testing.assert_allclose(saved.images(task), unit, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(saved.heads([task])[0], axis=1), 1, atol=1e-6)
    scores = scores_of("zero_shot", saved, [task], methods.TestTime())["x"]
    np.testing.assert_allclose(scores, similarities(saved.images(task), saved.heads([task])[0]))
    assert scores_of("umfc", saved, [task], methods.TestTime(clusters=2))["x"].shape == (6, 3)
    with pytest.raises(InputError, match="no pictures"):
        task.images[0]
    with pytest.raises(InputError, match="tpt tunes a model's prompt"):
        scores_of("tpt", saved, [task], methods.TestTime())
    only = {"npz": "x.npz", "folder": "x", "parquet": "x.parquet"}[form]
    assert [one.name for one in SavedEmbeddings(tmp_path / only).tasks] == ["x"]


def test_ours_are_read_as_the_model_gives_them(tiny: LoadedModel, make_task: MakeTask, tmp_path: Path) -> None:
    """Also where a class has several names, and for pictures with captions."""
    model = ModelEmbeddings(tiny, FeatureCache())
    several = [["old hen", "young hen"], ["fox"]]
    task = replace(make_task("two", ["hen", "fox"]), synonyms=several, ids=["i", "j"], protocol="mine", domain="d")
    captioned = Captioned("pairs", task.images, ["a", "b", "c", "d", "e"], np.array([0, 1, 2, 3, 0]), task.keys)
    write_task_embeddings(tmp_path, task, model)
    write_captioned_embeddings(tmp_path, captioned, model)
    saved = SavedEmbeddings(tmp_path)
    [again], [pairs] = saved.tasks, saved.captioned
    assert replace(again, images=task.images, labels=task.labels) == task
    assert again.labels.tolist() == task.labels.tolist()
    np.testing.assert_allclose(saved.images(again), model.images(task), atol=1e-6)
    found = scores_of("zero_shot", saved, [again], methods.TestTime())["two"]
    head = model.heads([task])[0]
    assert head.shape[0] == 3
    np.testing.assert_allclose(found, by_class(task, similarities(model.images(task), head)), atol=1e-6)
    assert pairs.owner.tolist() == [0, 1, 2, 3, 0]
    np.testing.assert_allclose(saved.captions(pairs), model.captions(captioned), atol=1e-6)


def test_captions_in_parquet_belong_to_keys(tmp_path: Path) -> None:
    table(tmp_path / "x.parquet", IMAGES, key=KEYS)
    table(tmp_path / "x.captions.parquet", np.concatenate([IMAGES, IMAGES]), key=KEYS[::-1] + KEYS)
    [pairs] = SavedEmbeddings(tmp_path).captioned
    assert pairs.owner.tolist() == [5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5]
    table(tmp_path / "x.captions.parquet", IMAGES[:1], key=["z"])
    with pytest.raises(InputError, match=r"x\.captions\.parquet: key 'z' is none of the pictures'"):
        SavedEmbeddings(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": None}, "has no array `labels`; there are classes, images"),
        ({"labels": LABELS[:5]}, r"`labels` has shape \[5\], expected \[6\]"),
        ({"labels": LABELS + 1}, "`labels` runs from 1 to 3, expected 0 to 2"),
        ({"labels": LABELS / 2}, "`labels` is float64, expected integers"),
        ({"classes": CLASSES[:, :3]}, r"`images` are \(6, 4\), `classes` \(3, 3\)"),
        ({"images": IMAGES * [[0], [1], [1], [1], [1], [1]]}, "`images`: row 0 is zero or holds NaN"),
        ({"images": IMAGES[0]}, r"`images` is float32 \[4\], expected rows of floats"),
        ({"classnames": np.array(["a"])}, r"`labels` runs from 0 to 2, expected 0 to 0"),
        ({"class_of": np.array([0, 0, 2])}, "`class_of` must name each of the 3 classes"),
        ({"captions": CLASSES}, "has no array `owner`"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "classes": CLASSES, **change}
    np.savez(tmp_path / "x.npz", **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=says):
        SavedEmbeddings(tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder of embeddings"):
        SavedEmbeddings(tmp_path / "none")
    with pytest.raises(InputError, match="holds no embeddings"):
        SavedEmbeddings(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 no")
    with pytest.raises(InputError, match=r"x\.npz cannot be read as embeddings"):
        SavedEmbeddings(tmp_path)
    table(tmp_path / "x.parquet", IMAGES, label=LABELS)
    with pytest.raises(InputError, match="set x is there in two forms"):
        SavedEmbeddings(tmp_path)
    (tmp_path / "x.npz").unlink()
    saved = SavedEmbeddings(tmp_path)
    with pytest.raises(InputError, match="x has no `classes`, which are text embeddings"):
        saved.heads(saved.tasks)
    table(tmp_path / "x.classes.parquet", CLASSES, name=NAMES)
    table(tmp_path / "x.parquet", IMAGES, **{"class": [NAMES[label] for label in LABELS]})
    with pytest.raises(InputError, match="has no column `class`; there are embedding, name"):
        SavedEmbeddings(tmp_path)
