"""Retrieval sets on disk, in the webdataset layout of CLIP_benchmark: pictures with several captions each.

dataset_type.txt                    says retrieval
test/nshards.txt, test/0.tar, ...   members s0000000.webp and s0000000.txt (one caption a line)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.wds import RETRIEVAL, dataset_type, read_samples, sample_picture
from filters.errors import InputError


@dataclass(frozen=True, slots=True)
class Captioned:
    """A retrieval set; `owner` [M] int64 is the picture of each of the M captions, `keys` name the N pictures."""

    name: str
    images: Sequence[bytes]
    captions: list[str]
    owner: NDArray[np.int64]
    keys: list[str]


def load_captioned(folder: Path, name: str | None = None, split: str = "test") -> Captioned:
    """Read a split of a retrieval set, every picture decoded once to be sure that it can be.

    `name` defaults to the folder's. InputError for another kind of set, an empty one, a tar that is missing or
    broken, and a picture that is broken or has no caption (named by its member).
    """
    if (kind := dataset_type(folder)) != RETRIEVAL:
        raise InputError(f"{folder} is a {kind} set; its dataset_type.txt must say {RETRIEVAL}")
    images: list[bytes] = []
    captions: list[str] = []
    owner: list[int] = []
    keys: list[str] = []
    for where, key, part in read_samples(folder, split, f"; a retrieval set has {split}/nshards.txt and tars"):
        image = sample_picture(where, part, "txt")
        try:
            own = part["txt"].decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}.txt is not UTF-8: {error.reason} at byte {error.start}") from error
        if not own:
            raise InputError(f"{where}.txt has no caption; write one a line")
        owner += [len(images)] * len(own)
        captions += own
        images.append(image)
        keys.append(key)
    if not images:
        raise InputError(f"{folder} holds no pictures; expected members s0000000.webp and s0000000.txt in its tars")
    return Captioned(name or folder.name, images, captions, np.array(owner, dtype=np.int64), keys)
