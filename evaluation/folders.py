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
from numpy.typing import NDArray

from evaluation.images import FileImages
from evaluation.pictures import SUFFIXES
from evaluation.tasks import Task
from filters.errors import InputError
from trainer.images import decode_rgb

Variant: TypeAlias = Literal["val", "v2", "r", "a", "sketch"]
Templates: TypeAlias = Literal["openai80", "simple7", "single"]
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
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
        found = sorted(p for p in (folder / key).rglob("*") if p.suffix.lower().removeprefix(".") in SUFFIXES)
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


def any_folder(folder: Path, prompts: Sequence[str]) -> Task:
    """A folder of class folders, whose names, with spaces for underscores, are the classes'."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it has one folder a class in it")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder} has {len(names)} class folders; a set needs two or more")
    return class_folders(folder, {name: name.replace("_", " ") for name in names}, prompts, folder.name)


def imagenet(folder: Path, variant: Variant, prompts: Templates = "openai80") -> Task:
    """ImageNet's validation set or one of its relatives, with the curated class names that open_clip ships.

    Folders are named by wnid; those of V2 by label, 0 to 999. R and A have 200 of the classes: no others are scored.
    """
    rows = _table("imagenet_classes.csv")
    subset = {"r": "in_r", "a": "in_a"}.get(variant)
    kept = [row for row in rows if subset is None or row[subset] == "1"]
    key = "label" if variant == "v2" else "wnid"
    classes = {row[key]: open_clip.IMAGENET_CLASSNAMES[int(row["label"])] for row in kept}
    name = "imagenet1k" if variant == "val" else f"imagenet_{variant}"
    return class_folders(folder, classes, templates(prompts), name)


def objectnet(folder: Path, prompts: Templates = "openai80") -> Task:
    """ObjectNet's 113 classes that ImageNet has too, by ObjectNet's own names, the pictures' borders cut off.

    This is the protocol `objectnet_names`, CLIP_benchmark's; the other folders of ObjectNet are left alone. For the
    other protocol see `objectnet_by_imagenet`.
    """
    classes = {row["folder"]: row["name"] for row in _table("objectnet_classes.csv")}
    task = class_folders(folder, classes, templates(prompts), "objectnet", exact=False)
    assert isinstance(task.images, FileImages)
    task.images.change = without_border
    return task


def objectnet_by_imagenet(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [N, 113] of ObjectNet's classes from [N, 1000] of ImageNet's: the highest of those that map to each.

    This is the protocol `objectnet_imagenet_ids`; nine classes map to several of the 125 that are used.
    """
    if similarity.ndim != 2 or similarity.shape[1] != 1000:
        raise InputError(f"objectnet by ImageNet's classes: scores are {similarity.shape}, expected [N, 1000]")
    label = {row["wnid"]: int(row["label"]) for row in _table("imagenet_classes.csv")}
    groups = [[label[wnid] for wnid in row["imagenet_wnids"].split(";")] for row in _table("objectnet_classes.csv")]
    return np.stack([similarity[:, group].max(axis=1) for group in groups], axis=1)


def domainnet(folder: Path, prompts: Templates = "single") -> list[Task]:
    """DomainNet's six domains, each a folder of the same class folders, as six sets `domainnet_<domain>`."""
    first = folder / DOMAINS[0]
    if not first.is_dir():
        raise InputError(f"{folder} has no folder {DOMAINS[0]}; DomainNet has {', '.join(DOMAINS)}")
    names = sorted(path.name for path in first.iterdir() if path.is_dir())
    classes = {name: name.replace("_", " ") for name in names}
    sets = [class_folders(folder / d, classes, templates(prompts), f"domainnet_{d}") for d in DOMAINS]
    return [replace(task, domain=domain) for task, domain in zip(sets, DOMAINS, strict=True)]


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


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files("evaluation").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _some(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
