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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from evaluation.images import take
from evaluation.pictures import CLASSNAMES, one_line
from filters.errors import InputError
from trainer.images import decode_rgb

TEMPLATES = "zeroshot_classification_templates.txt"
FAMILY = "family.txt"
DOMAIN = "domain.txt"
_SUFFIXES = {"WEBP": "webp", "PNG": "png", "JPEG": "jpg"}
_IMAGES = ("webp", "png", "jpg", "jpeg")
_TARS = 4  # webdataset 1.0 refuses a set with fewer tars than loader workers, and four workers are the usual default


@dataclass(frozen=True, slots=True)
class Task:
    """One zero-shot classification set; `labels` [N] int64 index `classnames`, `keys` name the pictures.

    `domain` is a label that several sets may have; without one a set is its own domain.
    """

    name: str
    images: Sequence[bytes]
    labels: NDArray[np.int64]
    classnames: list[str]
    templates: list[str]
    keys: list[str]
    family: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Subset:
    """Part of a task: the pictures [M] and the classes [D] it keeps, and the new labels [M] that index these."""

    pictures: NDArray[np.int64]
    classes: NDArray[np.int64]
    labels: NDArray[np.int64]


def load_task(folder: str | Path, name: str | None = None) -> Task:
    """Read the test part of an evaluation set, every picture decoded once to be sure that it can be.

    `name` defaults to the folder's. InputError for a folder that is empty or holds another kind of task, for a tar,
    label or picture that is missing or broken (named by its member), and for a class without pictures.
    """
    folder = Path(folder)
    if kind := _label(folder / "dataset_type.txt"):
        raise InputError(f"{folder} is a {kind} set; only zero-shot classification sets are read")
    classnames, templates = _lines(folder / CLASSNAMES), _lines(folder / TEMPLATES)
    if bad := [line for line in templates if "{c}" not in line]:
        raise InputError(f"{folder / TEMPLATES}: {bad[0]!r} has no {{c}} where the class name belongs")
    keys: list[str] = []
    images: list[bytes] = []
    labels: list[int] = []
    for tar in _tars(folder):
        for key, image, label in _samples(tar, len(classnames)):
            keys.append(key)
            images.append(image)
            labels.append(label)
    if not images:
        raise InputError(f"{folder} holds no pictures; expected members s0000000.webp and s0000000.cls in its tars")
    array = np.array(labels, dtype=np.int64)
    missing = np.flatnonzero(np.bincount(array, minlength=len(classnames)) == 0)
    if len(missing):
        first = classnames[missing[0]]
        raise InputError(f"{folder}: {len(missing)} classes of {CLASSNAMES} have no picture, the first is {first!r}")
    family, domain = (_label(folder / name) for name in (FAMILY, DOMAIN))
    return Task(name or folder.name, images, array, classnames, templates, keys, family, domain)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} is missing; a task folder needs {CLASSNAMES}, {TEMPLATES} and test/nshards.txt")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise InputError(f"{path} is empty or has an empty line; write one entry a line")
    return lines


def _label(path: Path) -> str:
    """What a file of one line says, nothing where there is none."""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split()) if path.exists() else ""


def _tars(folder: Path) -> list[Path]:
    count = _lines(folder / "test" / "nshards.txt")[0]
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{folder / 'test' / 'nshards.txt'} says {count!r}; expected the number of tars")
    tars = [folder / "test" / f"{number}.tar" for number in range(int(count))]
    if absent := [tar for tar in tars if not tar.is_file()]:
        raise InputError(f"{absent[0]} is missing; nshards.txt promises {count} tars")
    return tars


def _samples(tar: Path, classes: int) -> list[tuple[str, bytes, int]]:
    """Key, encoded picture and label of each sample of one tar, in the tar's order."""
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                if (stream := archive.extractfile(member)) is not None:
                    # as webdataset has it: the suffix begins at the first dot of the file's own name
                    directory, slash, file = member.name.removeprefix("./").rpartition("/")
                    stem, _, suffix = file.partition(".")
                    parts.setdefault(directory + slash + stem, {})[suffix.lower()] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{tar} is not a whole tar: {one_line(error)}") from error
    return [_sample(f"{tar}: member {key}", key, part, classes) for key, part in parts.items()]


def _sample(where: str, key: str, part: dict[str, bytes], classes: int) -> tuple[str, bytes, int]:
    suffix = next((s for s in _IMAGES if s in part), None)
    if suffix is None or "cls" not in part:
        raise InputError(
            f"{where} has {', '.join(sorted(part))}; expected a picture ({', '.join(_IMAGES)}) and a .cls"
        )
    text = part["cls"].decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= classes:
        raise InputError(f"{where}.cls has label {text!r}; expected 0 to {classes - 1}, the lines of {CLASSNAMES}")
    _check_image(f"{where}.{suffix}", part[suffix])
    return key, part[suffix], int(text)


def _check_image(where: str, data: bytes) -> None:
    try:
        decode_rgb(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


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


def subset(task: Task, classnames: Sequence[str]) -> Subset:
    """The part of `task` that shows the named classes, in the order named.

    All of the task's names in its own order are the whole task, even where one stands twice (ImageNet has two
    `missile`). InputError for no name at all, a name that the task lacks, or one that is not unique in it.
    """
    if not classnames:
        raise InputError(f"no classes are left of {task.name}; compare sets that share class names")
    if list(classnames) == task.classnames:
        return Subset(np.arange(len(task.labels)), np.arange(len(task.classnames)), task.labels)
    for names, whose in ((classnames, "the names asked for"), (task.classnames, task.name)):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise InputError(f"class name {twice[0]!r} stands twice in {whose}; names must be unique to match sets")
    position = {name: i for i, name in enumerate(task.classnames)}
    if unknown := [name for name in classnames if name not in position]:
        raise InputError(f"{task.name} has no class {unknown[0]!r} ({len(unknown)} of the names are unknown)")
    classes = np.array([position[name] for name in classnames], dtype=np.int64)
    relabel = np.full(len(task.classnames), -1, dtype=np.int64)
    relabel[classes] = np.arange(len(classes))
    pictures = np.flatnonzero(relabel[task.labels] >= 0)
    return Subset(pictures, classes, relabel[task.labels[pictures]])


def restrict(task: Task, classnames: Sequence[str]) -> Task:
    """`task` with these classes only, in this order, and new labels; raises as `subset` does."""
    part = subset(task, classnames)
    kept = part.pictures.tolist()
    return replace(
        task,
        images=take(task.images, kept),
        keys=[task.keys[i] for i in kept],
        labels=part.labels,
        classnames=list(classnames),
    )


def shared_classes(task: Task, other: Task) -> list[str]:
    """The class names that both tasks have, in `task`'s order."""
    names = set(other.classnames)
    return [name for name in task.classnames if name in names]
