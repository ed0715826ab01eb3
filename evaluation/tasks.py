"""Evaluation sets on disk, in the webdataset layout of CLIP_benchmark, so that both tools read the same folders.

classnames.txt                          one name a line, the line number is the label
zeroshot_classification_templates.txt   one prompt a line, {c} stands for the name
family.txt, domain.txt                  ours, optional: who drew the pictures, and of which domain they are
test/nshards.txt, test/0.tar, ...       members s0000000.webp and s0000000.cls (the label in ASCII)
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from evaluation.pictures import CLASSNAMES
from evaluation.wds import CLASSIFICATION, dataset_type, read_lines, read_samples, sample_picture
from filters.errors import InputError

TEMPLATES = "zeroshot_classification_templates.txt"
FAMILY = "family.txt"
DOMAIN = "domain.txt"
_SUFFIXES = {"WEBP": "webp", "PNG": "png", "JPEG": "jpg"}
_TARS = 4  # webdataset 1.0 refuses a set with fewer tars than loader workers, and four workers are the usual default


@dataclass(frozen=True, slots=True)
class Task:
    """One zero-shot classification set; `labels` [N] int64 index `classnames`, `keys` name the pictures.

    `ids`, one a class, say which classes of two sets are the same, better than names do: ImageNet has two `missile`.
    One that is several classes elsewhere has their ids, joined by `+`. `synonyms`, some a class, are what the text
    tower is asked for in place of `classnames`; a class scores as the best of its own. `protocol` names the choice
    where there are several ways to score a set. `domain` is a label that several sets may have; without one a set is
    its own domain.
    """

    name: str
    images: Sequence[bytes]
    labels: NDArray[np.int64]
    classnames: list[str]
    templates: list[str]
    keys: list[str]
    family: str = ""
    domain: str = ""
    ids: list[str] = field(default_factory=list)
    synonyms: list[list[str]] = field(default_factory=list)
    protocol: str = ""


def load_task(folder: str | Path, name: str | None = None, split: str = "test") -> Task:
    """Read a split of an evaluation set, every picture decoded once to be sure that it can be.

    `name` defaults to the folder's. InputError for a folder that is empty or holds another kind of task, for a tar,
    label or picture that is missing or broken (named by its member), and for a class without pictures.
    """
    folder = Path(folder)
    if (kind := dataset_type(folder)) != CLASSIFICATION:
        raise InputError(f"{folder} is a {kind} set; only classification and retrieval sets are read")
    hint = f"; a task folder needs {CLASSNAMES}, {TEMPLATES} and {split}/nshards.txt"
    classnames, templates = read_lines(folder / CLASSNAMES, hint), read_lines(folder / TEMPLATES, hint)
    if bad := [line for line in templates if "{c}" not in line]:
        raise InputError(f"{folder / TEMPLATES}: {bad[0]!r} has no {{c}} where the class name belongs")
    keys: list[str] = []
    images: list[bytes] = []
    labels: list[int] = []
    for where, key, part in read_samples(folder, split, hint):
        images.append(sample_picture(where, part, "cls"))
        keys.append(key)
        labels.append(_class_number(where, part["cls"], len(classnames)))
    if not images:
        raise InputError(f"{folder} holds no pictures; expected members s0000000.webp and s0000000.cls in its tars")
    array = np.array(labels, dtype=np.int64)
    missing = np.flatnonzero(np.bincount(array, minlength=len(classnames)) == 0)
    if len(missing):
        first = classnames[missing[0]]
        raise InputError(f"{folder}: {len(missing)} classes of {CLASSNAMES} have no picture, the first is {first!r}")
    family, domain = (_label(folder / name) for name in (FAMILY, DOMAIN))
    return Task(name or folder.name, images, array, classnames, templates, keys, family, domain)


def _label(path: Path) -> str:
    """What a file of one line says, nothing where there is none."""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split()) if path.exists() else ""


def _class_number(where: str, data: bytes, classes: int) -> int:
    text = data.decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= classes:
        raise InputError(f"{where}.cls has label {text!r}; expected 0 to {classes - 1}, the lines of {CLASSNAMES}")
    return int(text)


def write_task(folder: str | Path, task: Task, *, tars: int = _TARS) -> None:
    """Write `task` so that `load_task` and CLIP_benchmark read it; the same task gives the same bytes.

    Pictures keep their encoding and order, spread over `tars` tars in contiguous runs; `task.keys` are replaced
    by running numbers. The folder appears whole or not at all. InputError if it exists, or for pictures that are
    neither WebP, PNG nor JPEG, or fewer pictures than tars.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; an evaluation set is never changed in place, so remove it first")
    if len(task.images) < tars:
        raise InputError(f"{task.name} has {len(task.images)} pictures, fewer than the {tars} tars asked for")
    building = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(building, ignore_errors=True)
    (building / "test").mkdir(parents=True)
    _write_lines(building / CLASSNAMES, task.classnames)
    _write_lines(building / TEMPLATES, task.templates)
    for file, label in ((FAMILY, task.family), (DOMAIN, task.domain)):
        if label:
            _write_lines(building / file, [label])
    _write_lines(building / "test" / "nshards.txt", [str(tars)])
    for number, run in enumerate(np.array_split(np.arange(len(task.images)), tars)):
        with tarfile.open(building / "test" / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for i in run.tolist():
                _add(archive, f"s{i:07d}.{_suffix(task.images[i], i)}", task.images[i])
                _add(archive, f"s{i:07d}.cls", str(task.labels[i]).encode("ascii"))
    building.rename(folder)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    if broken := [line for line in lines if line != line.strip() or not line or "\n" in line]:
        raise InputError(f"{path.name} cannot hold {broken[0]!r}: one entry a line, no space at its ends")
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _suffix(data: bytes, position: int) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _SUFFIXES[image.format or ""]
    except (UnidentifiedImageError, KeyError) as error:
        raise InputError(f"picture {position} is not WebP, PNG or JPEG") from error


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # a new TarInfo has mtime 0 and no owner, so the bytes do not depend on the clock
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
