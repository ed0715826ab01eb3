"""Which model each folder of features is of, and the column of `samples` that its scores get.

    features/<fingerprint>/model.json    {model, pretrained, precision, dim, column}

The columns of CLIP ViT-B/32 and ViT-L/14 are DataComp's, whose metadata hold the scores of OpenAI's two models.
"""

from __future__ import annotations

import re
from typing import TypedDict

from filters.errors import InputError
from pipelines.sources import datacomp
from pipelines.store.root import Root

FILE = "model.json"
_DATACOMP = {"ViT-B-32": "clip_b32_similarity_score", "ViT-L-14": "clip_l14_similarity_score"}
_OPENAI = "openai"


class ModelInfo(TypedDict):
    """What is said of a scoring model; `column` is the one its scores get if no other model wants it."""

    model: str
    pretrained: str | None
    precision: str
    dim: int
    column: str


def score_column(model: str) -> str:
    """The column that the scores of an open_clip model (or of a model's folder) would have alone."""
    name = re.split(r"[:/\\]", model.rstrip("/\\"))[-1]
    for known, column in _DATACOMP.items():
        if name.startswith(known):
            return column
    slug = re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_").removeprefix("clip_")
    return f"clip_{slug}_score"


def write_model(root: Root, name: str, info: ModelInfo) -> None:
    """Say which model the features of the fingerprint `name` are of."""
    root.write_json(info, "features", name, FILE)


def score_columns(root: Root) -> dict[str, str]:
    """The score column of each model that has scored anything, by fingerprint, in order of fingerprints.

    Where two want one name, OpenAI's weights have it (those that ingest took from DataComp are OpenAI's), else the
    first by fingerprint; the others' get `_<fingerprint>`. InputError for a model.json that cannot be read.
    """
    wanted = {name: _wanted(root, name) for name in root.names("features") if root.shards("features", name)}
    columns: dict[str, str] = {}
    for name, (column, _) in sorted(wanted.items(), key=lambda item: (not item[1][1], item[0])):
        columns[name] = f"{column}_{_slug(name)}" if column in columns.values() else column
    return {name: columns[name] for name in wanted}


def _wanted(root: Root, name: str) -> tuple[str, bool]:
    """The column that a folder of features asks for, and whether it is of OpenAI's weights."""
    if root.exists("features", name, FILE):
        info = root.read_json("features", name, FILE)
        column = info.get("column") if isinstance(info, dict) else None
        if not isinstance(column, str) or not re.fullmatch(r"[a-z][0-9a-z_]*", column):
            path = root.path("features", name, FILE)
            raise InputError(f"{path}: names no column; delete it and run `headwater score` again")
        return column, info.get("pretrained") == _OPENAI
    taken = {model.folder: model.score for model in datacomp.MODELS}
    return taken.get(name, score_column(name)), name in taken


def _slug(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "_", name.lower())
