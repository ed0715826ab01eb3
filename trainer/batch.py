"""What the loader gives and a training step takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Training pairs of one process: N pictures, texts and where they come from.

    `images` uint8 [N, 3, S, S]; `tokens` int64 [N, context_length]; `sources` int64 [N], numbers of the mixture's
    sources; `rows` int64 [N], rows of the manifest.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    sources: torch.Tensor
    rows: Index

    def __len__(self) -> int:
        return len(self.images)
