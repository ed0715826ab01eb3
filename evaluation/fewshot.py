"""Accuracy of linear classifiers on frozen features against the number of pictures that they were fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.classes import by_class, shared_classes, subset
from evaluation.embeddings import Embeddings
from evaluation.metrics import Ranks, clopper_pearson, mean_per_class_recall, top_k, true_ranks
from evaluation.probe import few_shot, fit_probe
from evaluation.tasks import Task
from evaluation.zeroshot import Features, similarities
from filters.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFigure:
    """Accuracy on a test set, 0 to 1, of classifiers fitted on `shots` pictures a class (None: all; 0: zero-shot).

    `acc1` and `mean_per_class_recall` are means over `by_seed`, the accuracy for each choice of the pictures. `low`
    to `high` is the exact 95 % interval of `acc1` for so many test pictures (Clopper and Pearson 1934), `sd` the
    standard deviation over the choices, None for one. `strengths` are those of the penalty.
    """

    train: str
    test: str
    shots: int | None
    pictures: int
    n: int
    classes: int
    acc1: float
    low: float
    high: float
    mean_per_class_recall: float
    by_seed: list[float]
    sd: float | None
    strengths: list[float]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def probe_figures(
    source: Embeddings,
    train: Task,
    test: Task,
    shots: Sequence[int | None],
    *,
    seeds: int = 3,
    strength: float | None = None,
    device: str = "cpu",
) -> list[ProbeFigure]:
    """A figure for each of `shots`, on the classes that both sets have; seeds 0, 1, ... choose the pictures.

    The classifier knows these classes only. Errors are those of `fit_probe`, and InputError for fewer than two
    shared classes, and for a class with fewer pictures than shots.
    """
    classes = shared_classes(train, test)
    if len(classes) < 2:
        raise InputError(f"{train.name} and {test.name} share {len(classes)} classes; a probe needs two or more")
    known, asked = subset(train, classes), subset(test, classes)
    each, most = np.bincount(known.labels, minlength=len(classes)), max((count or 0 for count in shots), default=0)
    if each.min() < most:
        name = known.names[int(each.argmin())]
        raise InputError(f"{train.name}: class {name!r} has {each.min()} pictures, fewer than {most} shots")
    features, shown = source.images(train)[known.pictures], source.images(test)
    found = []
    for count in shots:
        strengths: list[float] = []
        scores: list[Features] = []
        chosen = np.arange(0 if count == 0 else len(known.labels))
        if count == 0:
            [head] = source.heads([test])
            scores.append(asked.of(by_class(test, similarities(shown, head))))
        for seed in range(1 if count is None else min(count, 1) * seeds):
            if count is not None:
                chosen = few_shot(known.labels, count, seed)
            probe = fit_probe(
                features[chosen], known.labels[chosen], len(classes), strength=strength, seed=seed, device=device
            )
            strengths.append(probe.strength)
            scores.append(probe.scores(shown[asked.pictures]))
        ranks = [true_ranks(one, asked.labels) for one in scores]
        found.append(
            ProbeFigure(
                train=train.name,
                test=test.name,
                shots=count,
                pictures=len(chosen),
                classes=len(classes),
                strengths=strengths,
                **_accuracies(ranks, asked.labels),
            )
        )
    return found


def _accuracies(ranks: Sequence[Ranks], labels: NDArray[np.int64]) -> dict[str, Any]:
    """The fields of a `ProbeFigure` that follow from the true classes' ranks, seed by seed."""
    by_seed = [float(top_k(one, 1).mean()) for one in ranks]
    accuracy, n = float(np.mean(by_seed)), len(labels)
    interval = clopper_pearson(min(accuracy * n, n), n)
    return {
        "n": n,
        "acc1": accuracy,
        "low": interval.low,
        "high": interval.high,
        "mean_per_class_recall": float(np.mean([mean_per_class_recall(one, labels) for one in ranks])),
        "by_seed": by_seed,
        "sd": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
    }
