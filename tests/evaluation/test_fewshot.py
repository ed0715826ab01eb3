from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.fewshot import probe_figures
from evaluation.saved import SavedEmbeddings
from filters.errors import InputError
from tests.evaluation.test_probe import blobs


@pytest.fixture
def saved(tmp_path: Path) -> SavedEmbeddings:
    """A training set of four classes, and a test set of three of them and another, in another order."""
    for name, names, seed in (("train", ["a", "b", "c", "d"], 0), ("test", ["d", "x", "b", "a"], 1)):
        centres = {"a": 0, "b": 1, "c": 2, "d": 3, "x": 2}
        features, labels = blobs(12, noise=2.0, seed=seed)
        rows = np.concatenate([features[labels == centres[one]] for one in names])
        arrays = {"images": rows, "labels": np.repeat(np.arange(4), 12), "classnames": np.array(names)}
        if name == "test":
            arrays["classes"] = np.stack([features[labels == centres[one]].mean(axis=0) for one in names])
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return SavedEmbeddings(tmp_path)


def test_more_pictures_are_better_and_only_shared_classes_count(saved: SavedEmbeddings) -> None:
    test, train = saved.tasks
    found = probe_figures(saved, train, test, [0, 1, 8, None], seeds=4)
    assert [one.shots for one in found] == [0, 1, 8, None]
    assert [one.pictures for one in found] == [0, 3, 24, 36]
    assert {(one.n, one.classes) for one in found} == {(36, 3)}
    assert [len(one.by_seed) for one in found] == [1, 4, 4, 1]
    assert [one.sd is None for one in found] == [True, False, False, True]
    assert found[0].acc1 > 0.6  # the means of the test set's own classes
    assert found[1].acc1 + 0.05 < found[2].acc1
    for one in found:
        assert one.acc1 == pytest.approx(np.mean(one.by_seed))
        assert one.low < one.acc1 <= one.high
        assert one.mean_per_class_recall == pytest.approx(one.acc1)  # as many pictures in each class
    assert found[2:] == probe_figures(saved, train, test, [8, None], seeds=4)


def test_sets_of_other_classes_are_refused(saved: SavedEmbeddings) -> None:
    test, train = saved.tasks
    with pytest.raises(InputError, match="train: class 'a' has 12 pictures, fewer than 13 shots"):
        probe_figures(saved, train, test, [1, 13])
    test.classnames[:] = ["k", "l", "m", "a"]
    with pytest.raises(InputError, match="train and test share 1 classes; a probe needs two or more"):
        probe_figures(saved, train, test, [1])
