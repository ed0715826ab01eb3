"""Where embeddings of evaluation sets come from: a model, with its cache, or files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.cache import FeatureCache, PictureSet
from evaluation.captions import Captioned
from evaluation.tasks import Task
from evaluation.zeroshot import heads, logit_scale
from trainer.model import LoadedModel

Features = NDArray[np.float32]


class Embeddings(Protocol):
    """Unit embeddings float32 of pictures [N, E], of the names of classes [C, E] and of captions [M, E]."""

    @property
    def loaded(self) -> LoadedModel | None:
        """The model, where there is one."""

    @property
    def scale(self) -> float:
        """What makes logits of cosines."""

    def images(self, pictures: PictureSet) -> Features:
        """One row a picture of the set."""

    def heads(self, tasks: Sequence[Task]) -> list[Features]:
        """For each set, one row for each of its `evaluation.classes.head_names`."""

    def captions(self, captioned: Captioned) -> Features:
        """One row a caption of the set."""


@dataclass(frozen=True, slots=True)
class ModelEmbeddings:
    """Those of a model; each set goes through it once."""

    loaded: LoadedModel
    cache: FeatureCache

    @property
    def scale(self) -> float:
        """The model's own."""
        return logit_scale(self.loaded)

    def images(self, pictures: PictureSet) -> Features:
        """As of `Embeddings`; InputError naming the picture that cannot be embedded."""
        return self.cache.images(self.loaded, pictures)

    def heads(self, tasks: Sequence[Task]) -> list[Features]:
        """As of `Embeddings`; ModelError for a name whose prompts give no numbers."""
        return heads(self.loaded, tasks)

    def captions(self, captioned: Captioned) -> Features:
        """As of `Embeddings`."""
        return self.cache.texts(self.loaded, captioned.name, captioned.captions)
