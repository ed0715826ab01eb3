"""Evaluation sets as folders of pictures, one folder a class: any, ImageNet's family, ObjectNet and DomainNet.

Which folder is which class is never guessed from an order that a missing folder would shift: names are matched, and
a folder that is missing, empty or too much is an error.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import open_clip

from evaluation.images import FileImages
from evaluation.pictures import SUFFIXES
from evaluation.tasks import Task
from evaluation.wds import read_lines
from filters.errors import InputError
from trainer.images import decode_rgb

Variant: TypeAlias = Literal["val", "v2", "r", "a", "sketch"]
Templates: TypeAlias = Literal["openai80", "simple7", "single"]
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
Protocol: TypeAlias = Literal["objectnet_names", "objectnet_imagenet_ids"]
_ALIKE = 0.9
_BORDER = 2  # red pixels around each of ObjectNet's pictures, which must not be used
_SHOWN = 3  # names in a line about several


def templates(kind: Templates) -> list[str]:
    """Prompts with {c} for the class: OpenAI's 80 for ImageNet, the 7 best of them, or one."""
    if kind == "single":
        return ["a photo of a {c}."]
    known = open_clip.OPENAI_IMAGENET_TEMPLATES if kind == "openai80" else open_clip.SIMPLE_IMAGENET_TEMPLATES
    return [template("{c}") for template in known]


def class_folders(
    folder: Path, classes: Mapping[str, str], prompts: Sequence[str], name: str, *, exact: bool = True
) -> Task:
    """The set in `folder`, which has a folder named by each key of `classes`; the values are the classes' names.

    Labels are positions in `classes`. Pictures are all files below a class's folder that end in a known suffix, in
    the order of their paths; they are read when they are asked for. InputError for a missing or empty folder, and
    for another one beside them, if `exact`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {name} has one folder a class in it")
    there = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    extra = there - classes.keys() if exact else set()
    for kind, wrong in (("are missing of", classes.keys() - there), ("are not among", extra)):
        if wrong:
            raise InputError(
                f"{folder}: {len(wrong)} folders {kind} the {len(classes)} classes of {name}: {_some(wrong)}; "
                "is it the folder that the classes are in, and unpacked whole?"
            )
    paths: list[Path] = []
    labels: list[int] = []
    for label, key in enumerate(classes):
        found = sorted(p for p in (folder / key).rglob("[!.]*") if p.suffix.lower().removeprefix(".") in SUFFIXES)
        if not found:
            raise InputError(f"{folder / key} holds no pictures; expected files that end in {', '.join(SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    return Task(
        name,
        FileImages(paths),
        np.array(labels, dtype=np.int64),
        list(classes.values()),
        list(prompts),
        [path.relative_to(folder).as_posix() for path in paths],
    )


def any_folder(
    folder: Path, prompts: Sequence[str], name: str | None = None, names: Mapping[str, str] | None = None
) -> Task:
    """A folder of class folders; `names` maps these to the classes' names, and no others may be there.

    Without `names`, folders that are all ImageNet's wnids have ImageNet's names, and others their own, with spaces
    for underscores.
    """
    name = name or folder.name
    if names is None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; it has one folder a class in it")
        there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(there) < 2:
            raise InputError(f"{folder} has {len(there)} class folders; a set needs two or more")
        known = {row["wnid"]: row["name"] for row in _imagenet()}
        if all(one in known for one in there):
            task = class_folders(folder, {one: known[one] for one in there}, prompts, name)
            return replace(task, ids=there)
        names = {one: one.replace("_", " ") for one in there}
    return class_folders(folder, names, prompts, name)


def imagenet(folder: Path, variant: Variant, prompts: Sequence[str], name: str | None = None) -> Task:
    """ImageNet's validation set or one of its relatives, with the curated class names that open_clip ships.

    Folders are named by wnid; those of V2 by label, 0 to 999. R and A have 200 of the classes: no others are scored.
    """
    rows = _imagenet(variant)
    classes = {row["label" if variant == "v2" else "wnid"]: row["name"] for row in rows}
    own = "imagenet1k" if variant == "val" else f"imagenet_{variant}"
    return replace(class_folders(folder, classes, prompts, name or own), ids=[row["wnid"] for row in rows])


def imagenet_ids(classnames: Sequence[str]) -> list[str]:
    """The wnids of a list of names that is one of ImageNet's family's; of another list none.

    Lists of the same classes differ in a few names between tools: nine in ten must stand where they do here.
    """
    for rows in (_imagenet(), _imagenet("r"), _imagenet("a"), _objectnet()):
        if len(rows) == len(classnames):
            equal = sum(row["name"] == name for row, name in zip(rows, classnames, strict=True))
            if equal >= _ALIKE * len(rows):
                return [row["wnid"] for row in rows]
    return []


def objectnet(
    folder: Path, prompts: Sequence[str], name: str = "objectnet", protocol: Protocol = "objectnet_names"
) -> Task:
    """ObjectNet's 113 classes that ImageNet has too, the pictures' borders cut off; its other folders are left alone.

    Under `objectnet_names`, as in CLIP_benchmark, the text tower is asked for ObjectNet's own names; under
    `objectnet_imagenet_ids` for those of the 125 ImageNet classes that map to these, and a class has the best of its
    scores.
    """
    rows = _objectnet()
    task = class_folders(folder, {row["folder"]: row["name"] for row in rows}, prompts, name, exact=False)
    assert isinstance(task.images, FileImages)
    task.images.change = without_border
    known = {row["wnid"]: row["name"] for row in _imagenet()}
    ids = [row["wnid"] for row in rows]
    by_imagenet = [[known[wnid] for wnid in one.split("+")] for one in ids]
    synonyms = by_imagenet if protocol == "objectnet_imagenet_ids" else []
    return replace(task, ids=ids, synonyms=synonyms, protocol=protocol)


def domainnet(folder: Path, prompts: Sequence[str], name: str = "domainnet") -> list[Task]:
    """DomainNet's six domains, each a folder of the same class folders, as six sets `<name>_<domain>`."""
    first = folder / DOMAINS[0]
    if not first.is_dir():
        raise InputError(f"{folder} has no folder {DOMAINS[0]}; DomainNet has {', '.join(DOMAINS)}")
    names = sorted(path.name for path in first.iterdir() if path.is_dir())
    classes = {one: one.replace("_", " ") for one in names}
    sets = [class_folders(folder / domain, classes, prompts, f"{name}_{domain}") for domain in DOMAINS]
    return [replace(task, domain=domain) for task, domain in zip(sets, DOMAINS, strict=True)]


def read_names(path: Path) -> dict[str, str]:
    """Class folders and their classes' names: lines `folder<tab>name`, or plain names for folders 0, 1, 2, ...

    InputError, with the line, for a file that is neither.
    """
    lines = read_lines(path)
    pairs = [line.split("\t") if "\t" in line else [str(number), line] for number, line in enumerate(lines)]
    found: dict[str, str] = {}
    for number, pair in enumerate(pairs):
        if len(pair) != 2 or not all(part.strip() for part in pair) or ("\t" in lines[number]) != ("\t" in lines[0]):
            raise InputError(f"{path}: line {number + 1} is not `folder<tab>name`, nor are all lines plain names")
        if pair[0].strip() in found:
            raise InputError(f"{path}: line {number + 1} names folder {pair[0].strip()} once more")
        found[pair[0].strip()] = pair[1].strip()
    return found


def read_templates(path: Path) -> list[str]:
    """Prompts, one a line, with {c} for the class; InputError for one without."""
    return checked_templates(read_lines(path), str(path))


def checked_templates(lines: Sequence[str], where: str) -> list[str]:
    """`lines`, if each has {c} in it; InputError saying `where` they are from."""
    if bad := [line for line in lines if "{c}" not in line]:
        raise InputError(f"{where}: {bad[0]!r} has no {{c}} where the class name belongs")
    return list(lines)


def without_border(data: bytes) -> bytes:
    """A picture without the two outermost pixels of each side, as PNG; InputError for one that has no others."""
    image = decode_rgb(data)
    width, height = image.size
    if min(width, height) <= 2 * _BORDER:
        raise InputError(f"a picture of {width} x {height} is nothing but border")
    out = io.BytesIO()
    box = (_BORDER, _BORDER, width - _BORDER, height - _BORDER)
    image.crop(box).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _imagenet(variant: Variant = "val") -> list[dict[str, str]]:
    """A variant's classes: `label`, `wnid` and `name`, in order of the labels."""
    subset = {"r": "in_r", "a": "in_a"}.get(variant)
    rows = [row for row in _table("imagenet_classes.csv") if subset is None or row[subset] == "1"]
    return [{**row, "name": open_clip.IMAGENET_CLASSNAMES[int(row["label"])]} for row in rows]


def _objectnet() -> list[dict[str, str]]:
    """ObjectNet's classes that ImageNet has: `folder`, `name`, and `wnid`, several joined by `+`."""
    rows = _table("objectnet_classes.csv")
    return [{**row, "wnid": row["imagenet_wnids"].replace(";", "+")} for row in rows]


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files("evaluation").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _some(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
