"""Embeddings of evaluation sets, computed once for a model and a set."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.images import FileImages
from evaluation.tasks import Task
from filters.errors import InputError
from trainer.embed import UnusableItem, embed_images
from trainer.model import LoadedModel

Features = NDArray[np.float32]


class FeatureCache:
    """Files `<model's fingerprint>/<set>-<digest>.npy` below `folder`; without a folder nothing is kept.

    The digest is of a set's pictures: of their bytes, or of files, which may be many, of path, size and time. What
    cannot be read is computed again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def images(self, loaded: LoadedModel, task: Task, *, batch: int = 256) -> Features:
        """Unit embeddings float32 [N, E] of a set's pictures; InputError naming the picture that has none."""
        if self.folder is None or not loaded.fingerprint:
            return _embedded(loaded, task, batch)
        name = re.sub(r"[^\w.-]", "_", task.name)
        path = self.folder / loaded.fingerprint / f"{name}-{_digest(task)}.npy"
        known = _read(path, (len(task.images), loaded.embed_dim))
        if known is not None:
            return known
        features = _embedded(loaded, task, batch)
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = path.with_name(f".{path.name}.{os.getpid()}.writing")
        with writing.open("wb") as file:
            np.save(file, features)
        writing.replace(path)
        return features


def _embedded(loaded: LoadedModel, task: Task, batch: int) -> Features:
    try:
        return embed_images(loaded, task.images, batch=batch)
    except UnusableItem as error:
        raise InputError(f"{task.name}: {task.keys[error.position]}: {error}") from error


def _read(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.shape == shape and found.dtype == np.float32 and bool(np.isfinite(found).all())
    return found if whole else None


def _digest(task: Task) -> str:
    digest = hashlib.sha256()
    if isinstance(task.images, FileImages):
        for path in task.images.paths:
            about = path.stat()
            digest.update(f"{path}\x1f{about.st_size}\x1f{about.st_mtime_ns}\n".encode())
        digest.update(repr(task.images.change).partition(" at ")[0].encode())
    else:
        for data in task.images:
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]
