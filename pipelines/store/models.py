"""Which model each folder of features is of, and the column of `samples` that its scores get.

    features/<fingerprint>/model.json    {model, pretrained, precision, dim}

DataComp's names of columns are of the cosines of OpenAI's ViT-B/32 and ViT-L/14, and so are the published thresholds
that go by them. A cosine of 0.3 by other weights means another thing: those have columns of their own.
"""

from __future__ import annotations

import re
from typing import TypedDict

from filters.errors import InputError
from pipelines.sources import datacomp
from pipelines.store.root import Root

FILE = "model.json"
_OPENAI = "openai"
_B32, _L14 = (model.score for model in datacomp.MODELS)
# OpenAI's weights are the same under both names; the one with another size of pictures (-336) is another model.
_DATACOMP = {
    ("ViT-B-32", _OPENAI): _B32,
    ("ViT-B-32-quickgelu", _OPENAI): _B32,
    ("ViT-L-14", _OPENAI): _L14,
    ("ViT-L-14-quickgelu", _OPENAI): _L14,
}


class ModelInfo(TypedDict):
    """What is said of a scoring model; `pretrained` is None for a folder or a hub's model, which bring their own."""

    model: str
    pretrained: str | None
    precision: str
    dim: int


def score_column(model: str, pretrained: str | None) -> str:
    """The column that a model's scores get if no other model wants it, a function of its names alone.

    DataComp's for OpenAI's ViT-B/32 and ViT-L/14. Else `clip_<model>_<weights>_score`, of the last part of a path.
    """
    # open_clip takes ViT-B/32 for ViT-B-32.
    if column := _DATACOMP.get((model.replace("/", "-"), pretrained or "")):
        return column
    named = model.replace("/", "-") if pretrained else _last(model)
    slug = _slug(f"{named} {_last(pretrained or '')}").strip("_").removeprefix("clip_")
    column = f"clip_{slug}_score"
    # A folder may be called anything.
    return f"clip_model_{slug}_score" if column in _DATACOMP.values() else column


def write_model(root: Root, name: str, info: ModelInfo) -> None:
    """Say which model the features of the fingerprint `name` are of."""
    if not root.exists("features", name, FILE) or root.read_json("features", name, FILE) != info:
        root.write_json(info, "features", name, FILE)


def score_columns(root: Root) -> dict[str, str]:
    """The score column of each model that has scored anything, by fingerprint, in order of fingerprints.

    Where several want one of DataComp's names (all are of OpenAI's weights then, those that ingest took from DataComp
    too), the first by fingerprint has it. Any other name that several want none of them has: it would come to mean
    another model as soon as one more is scored. Those without have theirs followed by `_<fingerprint>`. InputError
    for a model.json that cannot be read.
    """
    wanted = {name: _wanted(root, name) for name in root.names("features") if root.shards("features", name)}
    by_column: dict[str, list[str]] = {}
    for name, column in wanted.items():
        by_column.setdefault(column, []).append(name)
    return {
        name: column if _has(name, column, by_column[column]) else f"{column}_{_slug(name)}"
        for name, column in wanted.items()
    }


def _has(name: str, column: str, wanting: list[str]) -> bool:
    """Whether the model `name` has the `column` that it and others, in order of fingerprints, are `wanting`."""
    return len(wanting) == 1 or (column in _DATACOMP.values() and name == wanting[0])


def _wanted(root: Root, name: str) -> str:
    """The column that a folder of features asks for."""
    if root.exists("features", name, FILE):
        info = root.read_json("features", name, FILE)
        model, pretrained = (info.get("model"), info.get("pretrained")) if isinstance(info, dict) else (None, None)
        if not isinstance(model, str) or not isinstance(pretrained, str | None):
            path = root.path("features", name, FILE)
            raise InputError(f"{path}: names no model; delete it and run `headwater score` again")
        return score_column(model, pretrained)
    taken = {model.folder: model.score for model in datacomp.MODELS}
    return taken.get(name) or score_column(name, None)


def _last(path: str) -> str:
    return re.split(r"[:/\\]", path.rstrip("/\\"))[-1]


def _slug(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower())
