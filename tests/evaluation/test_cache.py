from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cache import FeatureCache
from evaluation.folders import any_folder
from evaluation.tasks import Task
from filters.errors import InputError
from trainer import embed
from trainer.model import LoadedModel, load_model


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> LoadedModel:
    return load_model(str(tiny_model))


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 2 * shade, 3)).save(out, "PNG")
    return out.getvalue()


def task(shades: list[int]) -> Task:
    names = ["a", "b"]
    return Task(
        "a set/x", [picture(s) for s in shades], np.arange(len(shades)) % 2, names, ["{c}"], [str(s) for s in shades]
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the model, call by call."""
    seen: list[int] = []
    whole = embed.embed_images

    def counted(loaded: LoadedModel, images: list[bytes], batch: int) -> np.ndarray:
        seen.append(len(images))
        return whole(loaded, images, batch)

    monkeypatch.setattr("evaluation.cache.embed_images", counted)
    return seen


def test_a_set_goes_through_a_model_once(tiny: LoadedModel, tmp_path: Path, passes: list[int]) -> None:
    cache = FeatureCache(tmp_path)
    first = cache.images(tiny, task([1, 2, 3]))
    np.testing.assert_array_equal(FeatureCache(tmp_path).images(tiny, task([1, 2, 3])), first)
    assert passes == [3]
    cache.images(tiny, task([1, 2, 4]))  # other pictures under the same name
    assert passes == [3, 3]
    [folder] = tmp_path.iterdir()
    assert folder.name == tiny.fingerprint
    assert len(list(folder.iterdir())) == 2
    FeatureCache().images(tiny, task([1, 2, 3]))
    assert passes == [3, 3, 3]


def test_a_damaged_file_is_computed_again(tiny: LoadedModel, tmp_path: Path, passes: list[int]) -> None:
    cache = FeatureCache(tmp_path)
    first = cache.images(tiny, task([1, 2]))
    [path] = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:70])
    np.testing.assert_array_equal(cache.images(tiny, task([1, 2])), first)
    np.save(path, first[:1])
    np.testing.assert_array_equal(cache.images(tiny, task([1, 2])), first)
    assert passes == [2, 2, 2]


def test_files_that_change_are_seen(tiny: LoadedModel, tmp_path: Path, passes: list[int]) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(picture(5))
    cache = FeatureCache(tmp_path / "cache")
    for _ in range(2):
        cache.images(tiny, any_folder(tmp_path / "set", ["{c}"]))
    assert passes == [2]
    (tmp_path / "set" / "a" / "0.png").write_bytes(picture(60) + b"\0")
    cache.images(tiny, any_folder(tmp_path / "set", ["{c}"]))
    assert passes == [2, 2]


def test_the_picture_that_cannot_be_embedded_is_named(tiny: LoadedModel, tmp_path: Path) -> None:
    broken = task([1, 2, 3])
    broken.images[2] = b"no picture"  # type: ignore[index]
    with pytest.raises(InputError, match=r"^a set/x: 3: picture 2: .*not a whole picture"):
        FeatureCache(tmp_path).images(tiny, broken)
    assert not list(tmp_path.iterdir())


def test_scores_of_a_method_are_made_once_for_what_they_follow_from(tiny: LoadedModel, tmp_path: Path) -> None:
    cache, made = FeatureCache(tmp_path), []

    def make() -> np.ndarray:
        made.append(len(made))
        return np.full((3, 2), len(made), np.float32)

    first = cache.scores(tiny, task([1, 2, 3]), 2, "tpt-a", make)
    np.testing.assert_array_equal(cache.scores(tiny, task([1, 2, 3]), 2, "tpt-a", make), first)
    assert made == [0]
    cache.scores(tiny, task([1, 2, 3]), 2, "tpt-b", make)  # by other settings
    cache.scores(tiny, task([1, 2, 4]), 2, "tpt-a", make)  # of other pictures
    assert made == [0, 1, 2]
