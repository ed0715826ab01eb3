"""Embeddings and scores of evaluation sets, computed once for a model and a set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.images import FileImages
from filters.errors import InputError
from filters.published import published
from trainer.embed import UnusableItem, embed_images, embed_texts
from trainer.model import LoadedModel

Features = NDArray[np.float32]


class PictureSet(Protocol):
    """What has pictures, each with a key: sets of all kinds."""

    @property
    def name(self) -> str: ...
    @property
    def images(self) -> Sequence[bytes]: ...
    @property
    def keys(self) -> list[str]: ...


class FeatureCache:
    """Files `<model's fingerprint>/<set>-<digest>.npy` below `folder`; without a folder nothing is kept.

    The digest is of a set's pictures: of their bytes, or of files, which may be many, of path, size and time; that of
    captions is of their text. What cannot be read is computed again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def images(self, loaded: LoadedModel, pictures: PictureSet, *, batch: int = 256) -> Features:
        """Unit embeddings float32 [N, E] of a set's pictures; InputError naming the picture that has none."""
        path = self._path(loaded, pictures.name, lambda: _digest(pictures.images))
        return _kept(path, (len(pictures.images), loaded.embed_dim), lambda: _embedded(loaded, pictures, batch))

    def texts(self, loaded: LoadedModel, name: str, texts: Sequence[str], *, batch: int = 256) -> Features:
        """Unit embeddings float32 [M, E] of the captions of the set `name`."""
        path = self._path(loaded, name, lambda: hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16])
        return _kept(path, (len(texts), loaded.embed_dim), lambda: embed_texts(loaded, texts, batch))

    def scores(
        self, loaded: LoadedModel, pictures: PictureSet, classes: int, about: str, make: Callable[[], Features]
    ) -> Features:
        """Scores float32 [N, classes] that a method gives a set's pictures, as `make` makes them.

        `about` stands for all that they follow from beside the model and the pictures.
        """
        path = self._path(loaded, f"{pictures.name}-{about}", lambda: _digest(pictures.images))
        return _kept(path, (len(pictures.images), classes), make)

    def _path(self, loaded: LoadedModel, name: str, digest: Callable[[], str]) -> Path | None:
        if self.folder is None or not loaded.fingerprint:
            return None
        plain = re.sub(r"[^\w.-]", "_", name)
        return self.folder / loaded.fingerprint / f"{plain}-{digest()}.npy"


def _kept(path: Path | None, shape: tuple[int, int], make: Callable[[], Features]) -> Features:
    """What is in the file, or what is made, and then put there."""
    if path is None:
        return make()
    known = _read(path, shape)
    if known is not None:
        return known
    features = make()
    with published(path) as writing, writing.open("wb") as file:
        np.save(file, features)
    return features


def _embedded(loaded: LoadedModel, pictures: PictureSet, batch: int) -> Features:
    try:
        return embed_images(loaded, pictures.images, batch=batch)
    except UnusableItem as error:
        raise InputError(f"{pictures.name}: {pictures.keys[error.position]}: {error}") from error


def _read(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.shape == shape and found.dtype == np.float32 and bool(np.isfinite(found).all())
    return found if whole else None


def _digest(images: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    if isinstance(images, FileImages):
        for path in images.paths:
            about = path.stat()
            digest.update(f"{path}\x1f{about.st_size}\x1f{about.st_mtime_ns}\n".encode())
        digest.update(repr(images.change).partition(" at ")[0].encode())
    else:
        for data in images:
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]
