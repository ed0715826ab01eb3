"""Pictures and texts to normalised embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import get_input_dtype

from filters.errors import InputError
from trainer.images import decode_rgb
from trainer.model import LoadedModel

Embeddings = npt.NDArray[np.float32]


def embed_images(loaded: LoadedModel, images: Sequence[bytes], batch: int = 256) -> Embeddings:
    """L2-normalised image embeddings, float32 [len(images), embed_dim], of encoded pictures.

    A picture's embedding does not depend on the pictures beside it, up to the rounding of matrix products of another
    shape (1e-5 in fp32). Raises InputError naming the position of a picture that cannot be decoded.
    """
    parts = [np.zeros((0, loaded.embed_dim), np.float32)]
    for start in range(0, len(images), batch):
        pixels = [_pixels(loaded, data, start + i) for i, data in enumerate(images[start : start + batch])]
        inputs = torch.stack(pixels).to(device=loaded.device, dtype=get_input_dtype(loaded.precision))
        with torch.inference_mode():
            parts.append(_unit(loaded.model.encode_image(inputs)))
    return np.concatenate(parts)


def embed_texts(loaded: LoadedModel, texts: Sequence[str], batch: int = 256) -> Embeddings:
    """L2-normalised text embeddings, float32 [len(texts), embed_dim]; longer texts are cut at the context length."""
    parts = [np.zeros((0, loaded.embed_dim), np.float32)]
    for start in range(0, len(texts), batch):
        tokens = loaded.tokenizer(list(texts[start : start + batch])).to(loaded.device)
        with torch.inference_mode():
            parts.append(_unit(loaded.model.encode_text(tokens)))
    return np.concatenate(parts)


def _pixels(loaded: LoadedModel, data: bytes, position: int) -> torch.Tensor:
    try:
        return loaded.preprocess(decode_rgb(data))
    except InputError as error:
        raise InputError(f"picture {position}: {error}") from error


def _unit(features: torch.Tensor) -> Embeddings:
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    array: Embeddings = unit.cpu().numpy()
    return array
