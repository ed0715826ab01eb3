"""Figures under distribution shift: a model on a reference set and on its shifts, over the classes they share.

A shift may show fewer classes than the reference. Both are then scored on the intersection, so that their difference
is the shift's and not that of an easier question. The figure is the expected k-way accuracy, which uses every class
of the intersection and stays comparable between intersections of different size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from evaluation import metrics
from evaluation.breakdown import parts
from evaluation.cache import FeatureCache
from evaluation.calibration import expected_calibration_error
from evaluation.classes import shared_classes, subset
from evaluation.results import ALL_CLASSES, IMAGES, Figure, Part, Result, RunInfo, SetResult
from evaluation.tasks import Task
from evaluation.zeroshot import Features, logit_scale, template_hash, zero_shot
from filters.errors import InputError
from trainer.model import LoadedModel


@dataclass(frozen=True, slots=True)
class Protocol:
    """How figures are computed: the k of k-way accuracy, and the bootstrap over pictures."""

    ways: int = 100
    resamples: int = 2000
    seed: int = 0

    @property
    def name(self) -> str:
        """What the results file calls it."""
        return f"expected_{self.ways}_way"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model's result, and a table (schema `IMAGES`) with a row for each picture behind each figure."""

    result: Result
    images: pa.Table


def evaluate_model(
    loaded: LoadedModel,
    run: RunInfo,
    tasks: Sequence[Task],
    reference: str,
    *,
    protocol: Protocol | None = None,
    batch: int = 256,
    cache: FeatureCache | None = None,
) -> Evaluation:
    """Zero-shot figures of one model on the reference task and on every other task as its shift.

    The same model, tasks and protocol give the same bytes. InputError as for `evaluate_similarities`.
    """
    _check(tasks, reference)
    names = [task.name for task in tasks]
    scores = dict(zip(names, zero_shot(loaded, tasks, batch=batch, cache=cache), strict=True))
    return evaluate_similarities(run, tasks, scores, reference, protocol=protocol, scale=logit_scale(loaded))


def evaluate_similarities(
    run: RunInfo,
    tasks: Sequence[Task],
    scores: Mapping[str, Features],
    reference: str,
    *,
    protocol: Protocol | None = None,
    scale: float = 100.0,
    alone: Collection[str] = (),
) -> Evaluation:
    """Figures from similarities [N, C] by task name, however they were made (one model, an ensemble, a tuned prompt).

    `scale` times a similarity is a logit, for the calibration error alone: a model's logit scale where these are
    cosines, 1 where they are logits. Sets named in `alone` are no shifts: they are scored by themselves among all of
    their classes, where these are fewer than the protocol's k as many ways as there are classes. InputError for an
    unknown reference, two tasks of one name, fewer shared classes than the protocol's k, and similarities of another
    shape or that are not numbers.
    """
    _check(tasks, reference)
    protocol = protocol or Protocol()
    base = next(task for task in tasks if task.name == reference)
    score = _Scorer(run, scores, protocol, scale)
    own = {base.name: score(base, base.classnames, ALL_CLASSES)}
    sets = {base.name: _set_result(run, base, own[base.name], protocol, None)}
    for task in tasks:
        if task is not base and task.name in alone:
            fitting = replace(protocol, ways=min(protocol.ways, len(task.classnames)))
            by_itself = _Scorer(run, scores, fitting, scale)
            own[task.name] = by_itself(task, task.classnames, ALL_CLASSES)
            sets[task.name] = _set_result(run, task, own[task.name], fitting, None)
            score.tables += by_itself.tables
        elif task is not base:
            names = shared_classes(base, task)
            same = score(base, names, task.name).figure
            own[task.name] = score(task, names, task.name)
            sets[task.name] = _set_result(run, task, own[task.name], protocol, same)
    domains = list(dict.fromkeys(found.domain for found in sets.values()))
    members = np.concatenate([np.full(sets[name].n, domains.index(sets[name].domain)) for name in own])
    by_domain = parts(domains, members, np.concatenate([scored.right for scored in own.values()]))
    result = Result(**_fields(run), eval=sets, per_domain=by_domain)
    return Evaluation(result, pa.concat_tables(score.tables))


class _Scored(NamedTuple):
    """A set's figure, the chance [N] that each of its pictures is right, and its classes one by one."""

    figure: Figure
    right: metrics.Floats
    per_class: list[Part]


class _Scorer:
    """Scores a task among some of its classes and collects the rows of the pictures it used."""

    def __init__(self, run: RunInfo, scores: Mapping[str, Features], protocol: Protocol, scale: float) -> None:
        self.run, self.scores, self.protocol, self.scale = run, scores, protocol, scale
        self.tables: list[pa.Table] = []

    def __call__(self, task: Task, names: Sequence[str], concepts: str) -> _Scored:
        if len(names) < self.protocol.ways:
            raise InputError(
                f"{task.name} is scored among {len(names)} classes ({concepts}), too few for {self.protocol.ways}-way"
                " accuracy; choose a smaller number of ways"
            )
        whole, shape = self.scores[task.name], (len(task.labels), len(task.classnames))
        if whole.shape != shape:
            raise InputError(f"{task.name}: similarities are {whole.shape}, its pictures and classes {shape}")
        if not np.isfinite(whole).all():
            raise InputError(f"{task.name}: similarities are not all finite numbers; look for NaN in the embeddings")
        part = subset(task, names)
        scores = part.of(whole)
        ranks = metrics.true_ranks(scores, part.labels)
        values = metrics.expected_k_way(ranks, len(names), self.protocol.ways)
        label = np.array(part.names, dtype=object)
        columns = {
            "run_id": [self.run.run_id] * len(values),
            "task": [task.name] * len(values),
            "concepts": [concepts] * len(values),
            "key": [task.keys[i] for i in part.pictures.tolist()],
            "concept": label[part.labels],
            "predicted": label[scores.argmax(axis=1)],
            "n_classes": [len(names)] * len(values),
            "rank": ranks.higher.astype(np.int32),
            "ties": ranks.ties.astype(np.int32),
            "expected_accuracy": values,
        }
        self.tables.append(pa.table(columns, schema=IMAGES))
        right = metrics.top_k(ranks, 1)
        error = expected_calibration_error(scores, part.labels, scale=self.scale)
        figure = _figure(values, ranks, part.labels, len(names), error, self.protocol)
        return _Scored(figure, right, parts(part.names, part.labels, right))


def _figure(
    values: metrics.Floats, ranks: metrics.Ranks, labels: metrics.Ints, classes: int, error: float, protocol: Protocol
) -> Figure:
    interval = metrics.bootstrap_interval(values, protocol.seed, protocol.resamples)
    exact = metrics.clopper_pearson(float(metrics.top_k(ranks, 1).sum()), len(values))
    chance = 1 / protocol.ways
    return Figure(
        n=len(values),
        classes=classes,
        value=float(values.mean()),
        low=interval.low,
        high=interval.high,
        chance=chance,
        at_floor=metrics.at_floor(interval, chance),
        acc1=metrics.acc1(ranks),
        acc5=metrics.acc5(ranks, classes),
        mean_per_class_recall=metrics.mean_per_class_recall(ranks, labels),
        acc1_low=exact.low,
        acc1_high=exact.high,
        ece=error,
    )


def _set_result(run: RunInfo, task: Task, scored: _Scored, protocol: Protocol, reference: Figure | None) -> SetResult:
    return SetResult(
        **_fields(scored.figure),
        protocol=" ".join(part for part in (protocol.name, task.protocol) if part),
        template_hash=template_hash(task.templates),
        family=task.family,
        same_family=bool(task.family) and task.family in run.families,
        reference=reference,
        top1=scored.figure.acc1,
        domain=task.domain or task.name,
        per_class=scored.per_class,
    )


def _fields(record: RunInfo | Figure) -> dict[str, Any]:
    """A record's own fields, not copied deep, to build the wider record that extends it."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _check(tasks: Sequence[Task], reference: str) -> None:
    names = [task.name for task in tasks]
    if reference not in names:
        raise InputError(f"the reference set {reference!r} is not among the tasks {', '.join(names)}")
    if len(set(names)) != len(names):
        raise InputError(f"two tasks have the same name: {', '.join(names)}")
