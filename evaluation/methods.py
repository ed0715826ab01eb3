"""Ways to classify pictures with a frozen model: zero-shot, and the test-time methods TPT and UMFC."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluation.classes import by_class, head_names
from evaluation.embeddings import Embeddings, ModelEmbeddings
from evaluation.prompts import class_prompts
from evaluation.tasks import Task
from evaluation.tpt import Tuner
from evaluation.tpt_views import AUGMIX, views
from evaluation.umfc import Calibrator
from evaluation.zeroshot import Features, similarities
from filters.errors import InputError, ModelError
from trainer.model import LoadedModel

Method: TypeAlias = Literal["zero_shot", "tpt", "umfc"]

# Pictures that are tuned together know nothing of each other, but rounding may.
_OF_TPT = {"views", "keep", "steps", "augmix", "pictures", "seed"}


class TestTime(BaseModel):
    """Settings of the test-time methods; the defaults are those of their papers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: Annotated[int, Field(ge=1)] = Field(64, description="TPT: views a picture, the plain one among them")
    keep: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="TPT: part of the views that counts")
    steps: Annotated[int, Field(ge=0)] = Field(1, description="TPT: steps of tuning")
    augmix: bool = Field(False, description="TPT: AugMix on the views, as for fine-grained sets")
    pictures: Annotated[int, Field(ge=1)] = Field(16, description="TPT: pictures that are tuned together")
    clusters: Annotated[int, Field(ge=1)] = Field(6, description="UMFC: clusters that stand for domains")
    rule: Literal["paper", "repo"] = Field("paper", description="UMFC: the paper's equations, or the released code's")
    alpha: float = Field(0.9, description="UMFC: weight of the image side under the rule `repo`")
    beta: float = Field(0.3, description="UMFC: weight of the text side under the rule `repo`")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="decides views and clusters")

    @model_validator(mode="after")
    def _some_view_counts(self) -> Self:
        if int(self.views * self.keep) < 1:
            raise ValueError(
                f"keep {self.keep} of {self.views} views leaves none; have more views, or keep more of them"
            )
        return self


def scores_of(method: Method, source: Embeddings, tasks: Sequence[Task], settings: TestTime) -> dict[str, Features]:
    """Scores float32 [N, C] of each set's pictures for its classes, by the set's name.

    `zero_shot` and `umfc` use each set's templates; UMFC clusters the pictures of all sets together, without their
    labels (the transductive setting). `tpt` has its own prompt, "a photo of a {class}.", and tunes it for each
    picture by itself: InputError where there are embeddings and no model. Raises what the method raises: InputError,
    ModelError.
    """
    if method == "tpt":
        return {task.name: by_class(task, _tuned(source, task, settings)) for task in tasks}
    features = [source.images(task) for task in tasks]
    classify: Callable[[Features, Features], Features] = similarities
    if method == "umfc":
        calibrator = Calibrator(
            settings.clusters,
            rule=settings.rule,
            alpha=settings.alpha,
            beta=settings.beta,
            scale=source.scale,
            seed=settings.seed,
        )
        classify = calibrator.fit(np.concatenate(features)).predict
    found = {}
    for task, rows, head in zip(tasks, features, source.heads(tasks), strict=True):
        with _naming(task.name):
            found[task.name] = by_class(task, classify(rows, head))
    return found


def prepare(methods: Sequence[Method], source: Embeddings, task: Task, settings: TestTime) -> None:
    """Do for one set what takes time, so that `scores_of` finds it in the model's cache; raises the same errors."""
    if set(methods) - {"tpt"}:
        source.images(task)
    if "tpt" in methods:
        _tuned(source, task, settings)


def scale_of(method: Method, source: Embeddings) -> float:
    """What makes logits of a method's scores: `zero_shot` gives cosines, the others logits."""
    return source.scale if method == "zero_shot" else 1.0


def _tuned(source: Embeddings, task: Task, settings: TestTime) -> Features:
    """TPT's logits float32 [N, H] for the set's H names, from the cache if they are there."""
    if not isinstance(source, ModelEmbeddings):
        raise InputError("tpt tunes a model's prompt on pictures; saved embeddings have neither model nor pictures")
    names = head_names(task)
    about = hashlib.sha256(f"{settings.model_dump_json(include=_OF_TPT)}{names}".encode()).hexdigest()[:16]
    return source.cache.scores(
        source.loaded, task, len(names), f"tpt-{about}", lambda: _tpt(source.loaded, task, settings)
    )


def _tpt(loaded: LoadedModel, task: Task, settings: TestTime) -> Features:
    with _naming(task.name):
        prompts = class_prompts(loaded.tokenizer, head_names(task))
        tuner = Tuner(loaded.model, prompts.tokens, context_length_tokens=prompts.context)
    found = []
    for start in range(0, len(task.images), settings.pictures):
        batch = range(start, min(start + settings.pictures, len(task.images)))
        stack = torch.stack([_views(loaded, task, position, settings) for position in batch])
        with _naming(f"{task.name}: of pictures {task.keys[batch[0]]} to {task.keys[batch[-1]]}"):
            features = tuner.features(stack.to(loaded.device))
            tuned = tuner.tune(features, keep=settings.keep, steps=settings.steps)
        found.append(tuned.logits.float().cpu().numpy())
    return np.concatenate(found)


def _views(loaded: LoadedModel, task: Task, position: int, settings: TestTime) -> torch.Tensor:
    generator = np.random.Generator(np.random.Philox(key=settings.seed, counter=[0, 0, 0, position]))
    with _naming(f"{task.name}: {task.keys[position]}"):
        return views(
            task.images[position],
            loaded.model,
            generator,
            count=settings.views,
            augmix=AUGMIX if settings.augmix else (),
        )


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Lets an error say what it is about."""
    try:
        yield
    except (InputError, ModelError) as error:
        raise (ModelError if isinstance(error, ModelError) else InputError)(f"{where}: {error}") from error
