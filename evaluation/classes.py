"""Which classes two evaluation sets share, and the part of a set that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.images import take
from evaluation.tasks import Task
from filters.errors import InputError

Scores = NDArray[np.float32]
Ints = NDArray[np.int64]
_JOIN = "+"


@dataclass(frozen=True, slots=True)
class Subset:
    """Part of a task: the pictures [M] and the classes [D] it keeps, their names, and the new labels [M].

    `classes` are positions in the task, several where the task tells apart what is one class here.
    """

    pictures: Ints
    classes: list[list[int]]
    names: list[str]
    labels: Ints

    def of(self, scores: Scores) -> Scores:
        """Scores [M, D] of this part, from those [N, C] of the task; what is one class has the best of its scores."""
        columns = np.array([position for group in self.classes for position in group])
        return _best(scores[np.ix_(self.pictures, columns)], [len(group) for group in self.classes])


def subset(task: Task, classes: Sequence[str]) -> Subset:
    """The part of `task` that shows these classes, by id or by name, in the order given.

    All of the task's names in its own order are the whole task, even where one stands twice (ImageNet has two
    `missile`). InputError for no class at all, one that the task lacks, or a name that is not unique.
    """
    if not classes:
        raise InputError(f"no classes are left of {task.name}; compare sets that share class names")
    if list(classes) in (task.classnames, task.ids):
        everything = [[position] for position in range(len(task.classnames))]
        return Subset(np.arange(len(task.labels)), everything, _labelled(task, everything), task.labels)
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise InputError(f"class name {twice[0]!r} stands twice in the names asked for; names must be unique")
    places = _places(task)
    if unknown := [one for one in classes if _where(one, places) is None]:
        raise InputError(f"{task.name} has no class {unknown[0]!r} ({len(unknown)} of the names are unknown)")
    groups = [_where(one, places) or [] for one in classes]
    if twice := [one for one, group in zip(classes, groups, strict=True) if len(group) > one.count(_JOIN) + 1]:
        raise InputError(f"class name {twice[0]!r} stands twice in {task.name}; names must be unique to match sets")
    relabel = np.full(len(task.classnames), -1, dtype=np.int64)
    for label, group in enumerate(groups):
        relabel[group] = label
    pictures = np.flatnonzero(relabel[task.labels] >= 0)
    return Subset(pictures, groups, _labelled(task, groups), relabel[task.labels[pictures]])


def restrict(task: Task, classes: Sequence[str]) -> Task:
    """`task` with these classes only, in this order, and new labels; raises as `subset` does."""
    part = subset(task, classes)
    kept = part.pictures.tolist()
    first = [group[0] for group in part.classes]
    return replace(
        task,
        images=take(task.images, kept),
        keys=[task.keys[i] for i in kept],
        labels=part.labels,
        classnames=[task.classnames[i] for i in first],
        ids=[task.ids[i] for i in first] if task.ids else [],
        synonyms=[task.synonyms[i] for i in first] if task.synonyms else [],
    )


def shared_classes(task: Task, other: Task) -> list[str]:
    """The classes that both tasks have, in `task`'s order: ids where both have them, else names.

    Where one task tells apart what is one class of the other, it is that class.
    """
    mine, theirs = (task.ids, other.ids) if task.ids and other.ids else (task.classnames, other.classnames)
    if mine == theirs:
        return list(mine)
    there, here = _index(theirs), _index(mine)
    both = [one for one in mine if _where(one, there)]
    both += [one for one in theirs if one not in here and _where(one, here)]
    return sorted(both, key=lambda one: min(_where(one, here) or [0]))


def head_names(task: Task) -> list[str]:
    """What the text tower is asked for, some names a class."""
    return [name for names in task.synonyms for name in names] or task.classnames


def by_class(task: Task, scores: Scores) -> Scores:
    """Scores [N, C] of a task's classes from those of its `head_names`: the best of each class's."""
    return _best(scores, [len(names) for names in task.synonyms]) if task.synonyms else scores


def _best(scores: Scores, sizes: Sequence[int]) -> Scores:
    """The best of each run of columns, which are so many."""
    if max(sizes) == 1:
        return scores
    return np.maximum.reduceat(scores, np.cumsum([0, *sizes[:-1]]), axis=1)


def _index(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    return found


def _places(task: Task) -> dict[str, list[int]]:
    """Positions of each class, by its id and by its name."""
    return {**_index(task.classnames), **_index(task.ids)}


def _where(one: str, places: dict[str, list[int]]) -> list[int] | None:
    """Positions of a class, or of the several that it is; None if one of them is not there."""
    if one in places:
        return places[one]
    parts = one.split(_JOIN)
    if not all(part in places for part in parts):
        return None
    return [position for part in parts for position in places[part]]


def _labelled(task: Task, groups: Sequence[Sequence[int]]) -> list[str]:
    """A name for each group of classes, with its id where another class of the task has the same name."""
    count = Counter(task.classnames)

    def name(position: int) -> str:
        plain = task.classnames[position]
        return f"{plain} ({task.ids[position]})" if task.ids and count[plain] > 1 else plain

    return [" / ".join(name(position) for position in group) for group in groups]
