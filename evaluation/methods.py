"""Ways to classify pictures with a frozen model: zero-shot, and the test-time methods TPT and UMFC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from evaluation.classes import by_class, head_names
from evaluation.embeddings import Embeddings
from evaluation.prompts import class_prompts
from evaluation.tasks import Task
from evaluation.tpt import Tuner
from evaluation.tpt_views import AUGMIX, views
from evaluation.umfc import Calibrator
from evaluation.zeroshot import Features, similarities
from filters.errors import InputError
from trainer.model import LoadedModel

Method: TypeAlias = Literal["zero_shot", "tpt", "umfc"]


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


def scores_of(method: Method, source: Embeddings, tasks: Sequence[Task], settings: TestTime) -> dict[str, Features]:
    """Scores float32 [N, C] of each set's pictures for its classes, by the set's name.

    `zero_shot` and `umfc` use each set's templates; UMFC clusters the pictures of all sets together, without their
    labels (the transductive setting). `tpt` has its own prompt, "a photo of a {class}.", and tunes it for each
    picture by itself: InputError where there are embeddings and no model. Raises what the method raises: InputError,
    ModelError.
    """
    if method == "tpt":
        if source.loaded is None:
            raise InputError(
                "tpt tunes a model's prompt on pictures; saved embeddings have neither model nor pictures"
            )
        return {task.name: by_class(task, _tpt(source.loaded, task, settings)) for task in tasks}
    features = [source.images(task) for task in tasks]
    classify: Callable[[Features, Features], Features] = similarities
    if method == "umfc":
        calibrator = Calibrator(
            settings.clusters, rule=settings.rule, alpha=settings.alpha, beta=settings.beta, seed=settings.seed
        )
        classify = calibrator.fit(np.concatenate(features)).predict
    made = zip(tasks, features, source.heads(tasks), strict=True)
    return {task.name: by_class(task, classify(rows, head)) for task, rows, head in made}


def _tpt(loaded: LoadedModel, task: Task, settings: TestTime) -> Features:
    prompts = class_prompts(loaded.tokenizer, head_names(task))
    tuner = Tuner(loaded.model, prompts.tokens, context_length_tokens=prompts.context)
    found = []
    for start in range(0, len(task.images), settings.pictures):
        stack = [
            views(
                data,
                loaded.model,
                np.random.Generator(np.random.Philox(key=settings.seed, counter=[0, 0, 0, position])),
                count=settings.views,
                augmix=AUGMIX if settings.augmix else (),
            )
            for position, data in enumerate(task.images[start : start + settings.pictures], start)
        ]
        tuned = tuner.tune(
            tuner.features(torch.stack(stack).to(loaded.device)), keep=settings.keep, steps=settings.steps
        )
        found.append(tuned.logits.float().cpu().numpy())
    return np.concatenate(found)
