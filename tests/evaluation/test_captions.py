"""Retrieval sets in CLIP_benchmark's layout."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from evaluation.captions import load_captioned
from evaluation.retrieval import recall, recall_figures
from filters.errors import InputError
from tests.evaluation.test_cache import picture
from tests.evaluation.test_retrieval import unit


def write_captioned(folder: Path, captions: Mapping[str, bytes]) -> Path:
    """A retrieval set of one tar, with a picture for each of `captions`, the content of a .txt."""
    (folder / "test").mkdir(parents=True)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    (folder / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as archive:
        for number, (key, text) in enumerate(captions.items()):
            for name, data in ((f"{key}.png", picture(number)), (f"{key}.txt", text)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return folder


def test_each_line_is_a_caption(tmp_path: Path) -> None:
    found = load_captioned(write_captioned(tmp_path / "coco", {"a": b"one\ntwo\n", "b": "drei, grün".encode()}))
    assert (found.name, found.keys) == ("coco", ["a", "b"])
    assert found.captions == ["one", "two", "drei, grün"]
    assert found.owner.tolist() == [0, 0, 1]
    assert found.images == [picture(0), picture(1)]


@pytest.mark.parametrize(
    ("captions", "says"),
    [
        ({"a": b"one", "b": b""}, r"member b\.txt has no caption"),
        ({"a": b"\xff"}, r"member a\.txt is not UTF-8"),
        ({}, "holds no pictures"),
    ],
)
def test_what_is_wrong_is_named(captions: dict[str, bytes], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        load_captioned(write_captioned(tmp_path / "set", captions))


def test_another_kind_of_set_is_refused(tmp_path: Path) -> None:
    (write_captioned(tmp_path / "set", {"a": b"one"}) / "dataset_type.txt").unlink()
    with pytest.raises(InputError, match=r"is a classification set; its dataset_type\.txt must say retrieval"):
        load_captioned(tmp_path / "set")


def test_figures_are_recall_s_with_intervals_under_clip_benchmark_s_names() -> None:
    rng = np.random.default_rng(0)
    images, owner = unit(rng, 60), np.concatenate([np.arange(60), rng.integers(0, 60, 40)])
    texts = images[owner] + 0.5 * unit(rng, 100)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    plain, found = recall(images, texts, owner), recall_figures(images, texts, owner)
    assert set(found) == {f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)}
    for k in (1, 5, 10):
        assert found[f"text_retrieval_recall@{k}"][0] == pytest.approx(plain.text_from_image[k])
        assert found[f"image_retrieval_recall@{k}"][0] == pytest.approx(plain.image_from_text[k])
    value, low, high = found["text_retrieval_recall@1"]
    # of 60 pictures: the binomial's standard deviation, within a third
    assert (high - low) / 3.92 == pytest.approx((value * (1 - value) / 60) ** 0.5, rel=0.33)
    assert recall_figures(images, texts, owner) == found
