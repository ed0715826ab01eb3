"""Which evaluation sets a job has: the folders under the root, those that its configuration names, or embeddings."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation import folders
from evaluation.captions import Captioned, load_captioned
from evaluation.saved import SavedEmbeddings
from evaluation.tasks import Task, load_task
from evaluation.wds import RETRIEVAL, dataset_type
from filters.errors import ConfigError, InputError
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root

ImageNet: TypeAlias = Literal["imagenet", "imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch"]
Kind: TypeAlias = Literal["webdataset", "folder", ImageNet, "objectnet", "domainnet"]
_VARIANTS: dict[str, folders.Variant] = {
    "imagenet": "val", "imagenet_v2": "v2", "imagenet_r": "r", "imagenet_a": "a", "imagenet_sketch": "sketch",
}  # fmt: skip
# Options that only one kind has.
_ONLY = {"split": "webdataset", "classnames": "folder", "protocol": "objectnet"}


class SetConfig(BaseModel):
    """One evaluation set: what it is and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = Field(description="layout of the folder, which also says which classes it has")
    path: str = Field(description="the folder that holds the classes' folders (webdataset: classnames.txt and test)")
    templates: str | list[str] | None = Field(
        None, description="openai80, simple7, single, a list of prompts with {c} in them, or a file with one a line"
    )
    classnames: str | dict[str, str] | None = Field(
        None, description="folder: the name of each class folder, or a file of lines `folder<tab>name`"
    )
    protocol: folders.Protocol | None = Field(
        None, description="objectnet: by its own names (objectnet_names, the default) or by ImageNet's"
    )
    split: str | None = Field(None, description="webdataset: test, the default, or another, such as train")
    alone: bool = Field(False, description="no shift of the reference: scored by itself, among all of its classes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for option, kind in _ONLY.items():
            if getattr(self, option) is not None and self.kind != kind:
                raise ValueError(f"`{option}` is for kind {kind}, not {self.kind}")
        if self.templates is not None and self.kind == "webdataset":
            raise ValueError("a webdataset has its own file of templates")
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sets ready to be evaluated; `saved` has their embeddings where there is no model."""

    tasks: list[Task]
    captioned: list[Captioned]
    saved: SavedEmbeddings | None = None


class Sets:
    """The sets of a job by name; nothing is read before it is needed, and a worker reads them itself."""

    def __init__(
        self,
        root: Root,
        folder: str,
        chosen: Mapping[str, SetConfig],
        datasets: str = "",
        embeddings: str | None = None,
    ) -> None:
        """Those of `chosen`, whose relative paths start in `datasets`, and each folder in `<root>/<folder>`.

        With `embeddings`, the sets whose embeddings are there instead. ConfigError for a name twice.
        """
        self.embeddings = None if embeddings is None else Path(embeddings).expanduser().absolute()
        if self.embeddings is not None and chosen:
            raise ConfigError("embeddings: they are the sets; leave `sets` out")
        found = root.names(folder) if folder and embeddings is None else []
        if odd := [name for name in chosen if not re.fullmatch(r"[\w.-]+", name)]:
            raise ConfigError(f"sets: {odd[0]!r} is no name for a set; use letters, digits and . _ -")
        if twice := sorted(set(found) & chosen.keys()):
            raise ConfigError(f"sets.{twice[0]}: {root.url}/{folder} has a set of this name too; choose another")
        self._where = f"{root.url}/{folder}" if folder else "sets"
        self._chosen = {name: SetConfig(kind="webdataset", path=str(root.local(folder, name))) for name in found}
        base = Path(datasets).expanduser().absolute()
        for name, one in chosen.items():
            self._chosen[name] = one.model_copy(update={"path": str(base / Path(one.path).expanduser())})

    @functools.cached_property
    def _saved(self) -> SavedEmbeddings | None:
        return None if self.embeddings is None else SavedEmbeddings(self.embeddings)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is large: a worker reads it itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_saved"}

    @functools.cached_property
    def retrieval(self) -> list[str]:
        """Names of the sets of pictures and captions."""
        if self._saved is not None:
            return [captioned.name for captioned in self._saved.captioned]
        return [name for name, one in self._chosen.items() if _is_retrieval(one)]

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the classification sets."""
        if self._saved is not None:
            return [task.name for task in self._saved.tasks]
        return [n for name, one in self._chosen.items() if name not in self.retrieval for n in _names(name, one)]

    @property
    def alone(self) -> set[str]:
        """Names of the sets that are no shifts of the reference."""
        return {n for name, one in self._chosen.items() if one.alone for n in _names(name, one)}

    def reference(self, asked: str | None) -> str:
        """The name of the reference: as asked for, else the only set there is; "" where all are of captions.

        InputError for one that is not there, ConfigError where there are several to choose from.
        """
        there = ", ".join(self.names) or "nothing"
        if asked is not None and asked not in self.names:
            raise InputError(f"{self.embeddings or self._where}: no reference set {asked!r}; there is {there}")
        if asked is None and not self.names and not self.retrieval:
            raise InputError(f"{self.embeddings or self._where}: no evaluation sets; name some under `sets`")
        candidates = [name for name in self.names if name not in self.alone] or self.names[:1]
        if asked is None and len(candidates) > 1:
            raise ConfigError(f"reference: say which set the others are shifts of; there is {there}")
        return asked or next(iter(candidates), "")

    def choose(self, names: list[str]) -> Sets:
        """The same with no other sets than these; `NAME/SPLIT` is another split of a webdataset.

        InputError for one that is not there.
        """
        part = object.__new__(Sets)
        part.__dict__ = {**self.__dict__, "names": list(dict.fromkeys(names)), "retrieval": []}
        part._chosen = dict(self._chosen)
        for name in names:
            whole, _, split = name.partition("/")
            one = self._chosen.get(whole)
            if name not in self.names and split and one is not None and one.kind == "webdataset":
                part._chosen[name] = one.model_copy(update={"split": split})
            elif name not in self.names:
                there = ", ".join(self.names) or "nothing"
                raise InputError(f"{self.embeddings or self._where}: no set {name!r}; there is {there}")
        part.__dict__.pop("made_from", None)
        return part

    def check(self) -> None:
        """InputError for what is wrong with folders of pictures, before a worker finds out; no picture is read."""
        for name, one in self._chosen.items():
            if one.kind != "webdataset" and not set(self.names).isdisjoint(_names(name, one)):
                _tasks(name, one)

    def load(self) -> Loaded:
        """The sets themselves; InputError for what is missing or wrong in one of them."""
        if (saved := self._saved) is not None:
            tasks = [_with_ids(task) for task in saved.tasks if task.name in self.names]
            return Loaded(tasks, [one for one in saved.captioned if one.name in self.retrieval], saved)
        tasks = [
            task
            for name, one in self._chosen.items()
            if not set(self.names).isdisjoint(_names(name, one))
            for task in _tasks(name, one)
            if task.name in self.names
        ]
        chosen = [(name, self._chosen[name]) for name in self.retrieval]
        return Loaded(tasks, [load_captioned(Path(one.path), name, one.split or "test") for name, one in chosen])

    @functools.cached_property
    def made_from(self) -> list[Any]:
        """Digest of each file of a webdataset or of embeddings; of pictures in folders, of path, size and time."""
        if self.embeddings is not None:
            whole = self.embeddings.is_dir()
            files = _files(self.embeddings) if whole else self.embeddings.parent.glob(f"{self.embeddings.stem}.*")
            return [(file.name, _digest(file)) for file in sorted(files)]
        wanted = {*self.names, *self.retrieval}
        found = []
        for name, one in self._chosen.items():
            if not wanted.isdisjoint(_names(name, one)):
                of = _file_digests if one.kind == "webdataset" else _file_stats
                found += [of(name, Path(one.path)), one.model_dump(exclude={"path"})]
        return found


def _is_retrieval(one: SetConfig) -> bool:
    return one.kind == "webdataset" and dataset_type(Path(one.path)) == RETRIEVAL


def _names(name: str, one: SetConfig) -> list[str]:
    return [f"{name}_{domain}" for domain in folders.DOMAINS] if one.kind == "domainnet" else [name]


def _tasks(name: str, one: SetConfig) -> list[Task]:
    path, prompts = Path(one.path), _prompts(name, one)
    if one.kind == "webdataset":
        return [_with_ids(load_task(path, name, one.split or "test"))]
    if one.kind == "folder":
        names = folders.read_names(Path(one.classnames)) if isinstance(one.classnames, str) else one.classnames
        return [folders.any_folder(path, prompts, name, names)]
    if one.kind == "objectnet":
        return [folders.objectnet(path, prompts, name, one.protocol or "objectnet_names")]
    if one.kind == "domainnet":
        return folders.domainnet(path, prompts, name)
    return [folders.imagenet(path, _VARIANTS[one.kind], prompts, name)]


def _prompts(name: str, one: SetConfig) -> list[str]:
    if isinstance(one.templates, list):
        return folders.checked_templates(one.templates, f"sets.{name}.templates")
    usual = "single" if one.kind in ("folder", "domainnet") else "openai80"
    asked = one.templates or usual
    if asked in get_args(folders.Templates):
        return folders.templates(asked)  # type: ignore[arg-type]
    return folders.read_templates(Path(asked).expanduser())


def _with_ids(task: Task) -> Task:
    return task if task.ids else replace(task, ids=folders.imagenet_ids(task.classnames))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]


def _file_digests(name: str, path: Path) -> list[tuple[str, str]]:
    return [(f"{name}/{file.relative_to(path)}", _digest(file)) for file in _files(path)]


def _file_stats(name: str, path: Path) -> tuple[str, str]:
    stats = [(str(file), file.stat()) for file in _files(path)]
    return name, fingerprint([(file, about.st_size, about.st_mtime_ns) for file, about in stats])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
