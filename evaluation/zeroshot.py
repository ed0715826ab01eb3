"""Zero-shot classification: a set's class names become a linear head, and pictures are compared with it.

The head is CLIP's: each prompt's embedding is L2-normalised, averaged over the templates and normalised again. The
scale of 100 that CLIP puts on the cosine does not change a rank and is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.cache import FeatureCache
from evaluation.classes import by_class, head_names
from evaluation.tasks import Task
from filters.errors import InputError, ModelError
from trainer.embed import UnusableItem, embed_texts
from trainer.model import LoadedModel

Features = NDArray[np.float32]


def class_embeddings(
    loaded: LoadedModel, classnames: Sequence[str], templates: Sequence[str], *, batch: int = 256
) -> Features:
    """The head, float32 [C, E], L2-normalised; each template holds {c} where the name goes.

    ModelError for a name whose prompts cancel out or give no numbers.
    """
    prompts = [template.replace("{c}", name) for name in classnames for template in templates]
    try:
        each = embed_texts(loaded, prompts, batch=batch).astype(np.float64)
    except UnusableItem as error:
        raise ModelError(
            f"the text tower gives no usable embedding for {prompts[error.position]!r}: {error}"
        ) from error
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.reshape(len(classnames), len(templates), -1).mean(axis=1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    if bad := [name for name, norm in zip(classnames, length[:, 0], strict=True) if not norm > 1e-12]:
        raise ModelError(f"the text tower gives no usable embedding for {bad[0]!r}; check the model's weights")
    head: Features = (mean / length).astype(np.float32)
    return head


def heads(loaded: LoadedModel, tasks: Sequence[Task], *, batch: int = 256) -> list[Features]:
    """The head of each task, rows as its `head_names`; a name with the same templates is embedded once for all."""
    names: dict[tuple[str, ...], dict[str, int]] = {}
    for task in tasks:
        known = names.setdefault(tuple(task.templates), {})
        for name in head_names(task):
            known.setdefault(name, len(known))
    made = {
        templates: class_embeddings(loaded, list(known), templates, batch=batch) for templates, known in names.items()
    }
    keys = [tuple(task.templates) for task in tasks]
    return [made[key][[names[key][name] for name in head_names(task)]] for task, key in zip(tasks, keys, strict=True)]


def similarities(images: Features, head: Features) -> Features:
    """Cosine of each picture [N, E] with each class [C, E], float32 [N, C].

    The sum runs in float64 and is rounded once, so that ranks do not depend on the number of threads and equal heads
    give exactly equal scores. InputError for two widths.
    """
    if images.ndim != 2 or head.ndim != 2 or images.shape[1] != head.shape[1]:
        raise InputError(f"pictures' features {images.shape} and classes' {head.shape} are not of one width")
    product: Features = (images.astype(np.float64) @ head.astype(np.float64).T).astype(np.float32)
    return product


def zero_shot(
    loaded: LoadedModel, tasks: Sequence[Task], *, batch: int = 256, cache: FeatureCache | None = None
) -> list[Features]:
    """Similarities [N, C] of each task's pictures with its own classes; every picture goes through the model once.

    With a `cache` not even that, if it did so before.
    """
    cache = cache or FeatureCache()
    return [
        by_class(task, similarities(cache.images(loaded, task, batch=batch), head))
        for task, head in zip(tasks, heads(loaded, tasks, batch=batch), strict=True)
    ]


def logit_scale(loaded: LoadedModel) -> float:
    """What a model multiplies cosines by before it takes their softmax."""
    return float(loaded.model.logit_scale.detach().exp())


def template_hash(templates: Sequence[str]) -> str:
    """Short name for a set of templates: the first 12 hex digits of the SHA-256 of its lines."""
    return hashlib.sha256("\n".join(templates).encode()).hexdigest()[:12]
