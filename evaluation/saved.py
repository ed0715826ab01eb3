"""Embeddings of evaluation sets in files: those that other tools made, read, and ours, written.

A set is a file `NAME.npz` of arrays, a folder `NAME` of the same arrays as `.npy`, names one a line in `.txt`, or
parquet files. The arrays (docs/evaluation.md has the parquet columns):

images [N, E]                   one row a picture, of any length but 0
labels [N] int, classes [C, E]  the class of each picture, and the text embedding of each class
logit_scale [1]                 what the model multiplies cosines by, optional; 100 if not given
classnames [C], keys [N], ids [C], templates [T], protocol, family, domain [1]   texts, all optional
class_of [R] int, names [R]     where `classes` has several rows for a class [R, E]: whose each is; the best counts
captions [M, E], owner [M] int  instead of labels: text embeddings of captions, and the picture of each (retrieval)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from evaluation.cache import PictureSet
from evaluation.captions import Captioned
from evaluation.classes import head_names
from evaluation.embeddings import Embeddings
from evaluation.saved_files import Arrays, class_count, read_arrays, set_files
from evaluation.tasks import Task
from filters.errors import InputError
from filters.published import published

Features = NDArray[np.float32]
_LABELS = ("protocol", "family", "domain")


class NoPictures(Sequence[bytes]):
    """Stands for `count` pictures of which only embeddings are there; InputError for who wants to see one."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._size = name, count

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        raise InputError(
            f"{self._name}: there are embeddings, and no pictures; name a model and the pictures' folder"
        )


class SavedEmbeddings:
    """The sets in files, as `Embeddings`: classification sets are `tasks`, retrieval sets `captioned`.

    `path` is a set's file or folder, or a folder of sets. InputError naming file and array for what cannot be read,
    does not fit together, or has rows that are zero or no numbers.
    """

    loaded = None

    @property
    def scale(self) -> float:
        """The model's own where it is there, else CLIP's 100."""
        known = [arrays["logit_scale"] for arrays in self._arrays.values() if "logit_scale" in arrays]
        return float(known[0].reshape(-1)[0]) if known else 100.0

    def __init__(self, path: Path) -> None:
        self._arrays: dict[str, Arrays] = {}
        self.tasks: list[Task] = []
        self.captioned: list[Captioned] = []
        for place in set_files(path):
            name = place.name if place.is_dir() else place.stem
            self._arrays[name] = arrays = read_arrays(place)
            if "owner" in arrays:
                self.captioned.append(_captioned(name, arrays))
            else:
                self.tasks.append(_task(name, arrays))

    def images(self, pictures: PictureSet) -> Features:
        """As of `Embeddings`."""
        return self._arrays[pictures.name]["images"]

    def heads(self, tasks: Sequence[Task]) -> list[Features]:
        """As of `Embeddings`; InputError for a set without text embeddings of its classes."""
        if bare := [task.name for task in tasks if "classes" not in self._arrays[task.name]]:
            raise InputError(f"{bare[0]} has no `classes`, which are text embeddings; only a probe does without them")
        return [self._arrays[task.name]["classes"] for task in tasks]

    def captions(self, captioned: Captioned) -> Features:
        """As of `Embeddings`."""
        return self._arrays[captioned.name]["captions"]


def write_task_embeddings(folder: Path, task: Task, source: Embeddings) -> None:
    """Write `<name>.npz` of a classification set, whole or not at all."""
    [head] = source.heads([task])
    arrays: Arrays = {"images": source.images(task), "labels": task.labels, "classes": head}
    arrays["logit_scale"] = np.array([source.scale])
    texts: dict[str, list[str]] = {
        "classnames": task.classnames,
        "keys": task.keys,
        "ids": task.ids,
        "templates": task.templates,
    }
    if task.synonyms:
        arrays["class_of"] = np.repeat(np.arange(len(task.synonyms)), [len(names) for names in task.synonyms])
        texts["names"] = head_names(task)
    texts |= {key: [getattr(task, key)] for key in _LABELS if getattr(task, key)}
    arrays |= {key: np.array(value) for key, value in texts.items() if value}
    _write(folder / f"{task.name}.npz", arrays)


def write_captioned_embeddings(folder: Path, captioned: Captioned, source: Embeddings) -> None:
    """Write `<name>.npz` of a retrieval set, whole or not at all."""
    rows: Arrays = {"images": source.images(captioned), "captions": source.captions(captioned)}
    _write(folder / f"{captioned.name}.npz", rows | {"owner": captioned.owner, "keys": np.array(captioned.keys)})


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with published(path) as writing, writing.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _names(arrays: Arrays, key: str) -> list[str]:
    return [str(value) for value in arrays[key].tolist()] if key in arrays else []


def _task(name: str, arrays: Arrays) -> Task:
    count = class_count(arrays)
    classnames = _names(arrays, "classnames") or [str(number) for number in range(count)]
    synonyms: list[list[str]] = []
    if "class_of" in arrays:
        labels = arrays["class_of"].tolist()
        each = _names(arrays, "names") or [classnames[label] for label in labels]
        synonyms = [[one for one, label in zip(each, labels, strict=True) if label == c] for c in range(count)]
    images = arrays["images"]
    keys = _names(arrays, "keys") or [str(number) for number in range(len(images))]
    return Task(
        name, NoPictures(name, len(images)), arrays["labels"], classnames, _names(arrays, "templates"), keys,
        ids=_names(arrays, "ids"), synonyms=synonyms, **{key: "".join(_names(arrays, key)) for key in _LABELS},
    )  # fmt: skip


def _captioned(name: str, arrays: Arrays) -> Captioned:
    images = arrays["images"]
    keys = _names(arrays, "keys") or [str(number) for number in range(len(images))]
    return Captioned(name, NoPictures(name, len(images)), [], arrays["owner"], keys)
