"""One shift at a time: every model's place, each source's line, and what both say against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.accuracies import ModelScores, on_classes
from evaluation.baselines import Baseline, default_models, default_x, find_baseline
from evaluation.lines import Axis, Floats, Insufficient
from evaluation.robustness import (
    Effective,
    Gap,
    SourceLine,
    effective_robustness,
    relative_effective_robustness,
    source_line,
)
from filters.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class ShiftStudy:
    """Models that have both accuracies: `scores` [n], `x` and `y` float64 [n], on the sets `reference` and `shift`.

    `lines` by source in order of first appearance; `effective` is None where no baseline of this shift is known.
    """

    shift: str
    reference: str
    axis: Axis
    scores: list[ModelScores]
    x: Floats
    y: Floats
    images: tuple[int | None, int | None]
    lines: dict[str, SourceLine | Insufficient]
    baseline: Baseline | None
    effective: Effective | None

    @property
    def sources(self) -> list[str]:
        """The source of each model [n]."""
        return [score.source for score in self.scores]

    def rows(self, source: str) -> list[int]:
        """Which models are of a source."""
        return [i for i, score in enumerate(self.scores) if score.source == source]

    def gaps(self, source: str, other: str) -> list[Gap] | Insufficient:
        """A source against another at five common reference accuracies, or why they cannot be compared."""
        ours, theirs = self.lines[source], self.lines[other]
        for name, line in ((source, ours), (other, theirs)):
            if isinstance(line, Insufficient):
                return Insufficient(f"{name} has no line: {line.reason}")
        assert isinstance(ours, SourceLine) and isinstance(theirs, SourceLine)
        return relative_effective_robustness(ours, theirs)


def study_shifts(
    scores: Sequence[ModelScores],
    reference: str = "val",
    *,
    shifts: Sequence[str] | None = None,
    models: str | None = None,
    axis: Axis = "probit",
    classes: bool | None = None,
) -> list[ShiftStudy]:
    """A study of each shift that models have beside `reference`; all of them use one set of baseline models.

    `models` is "std" or "std+low"; by default the latter as soon as one model has less than 55 %. `classes` takes as
    x the reference on the shift's classes; by default it does where the baseline does, and for shifts
    without one where all models have that figure. InputError where no model has both, or a set is unknown.
    """
    known = [name for score in scores for name in score.accuracy]
    if reference not in known:
        raise InputError(f"no model has the reference {reference!r}; there are {', '.join(sorted(set(known)))}")
    chosen = shifts or [n for n in dict.fromkeys(known) if n != reference and not n.startswith(f"{reference}-on-")]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise InputError(
            f"no model has the shift {', '.join(unknown) or 'of any kind'}; there are {sorted(set(known))}"
        )
    models = models or default_models([s.accuracy[reference] for s in scores if reference in s.accuracy])
    return [_study(scores, reference, shift, models, axis, classes) for shift in chosen]


def _study(
    scores: Sequence[ModelScores], reference: str, shift: str, models: str, axis: Axis, classes: bool | None
) -> ShiftStudy:
    x_name, baseline = _reference(scores, reference, shift, models, axis, classes)
    both = [score for score in scores if x_name in score.accuracy and shift in score.accuracy]
    if not both:
        raise InputError(f"no model has accuracies on both {x_name} and {shift}")
    x, y = (np.array([score.accuracy[name] for score in both]) for name in (x_name, shift))
    images = (_images(both, x_name), _images(both, shift))
    lines = {}
    for source in dict.fromkeys(score.source for score in both):
        rows = [i for i, score in enumerate(both) if score.source == source]
        sizes = [size for i in rows if (size := both[i].size) is not None]
        lines[source] = source_line(
            x[rows], y[rows], sizes if len(sizes) == len(rows) else None, axis=axis, images=images
        )
    effective = effective_robustness(x, y, baseline) if baseline else None
    return ShiftStudy(shift, x_name, axis, both, x, y, images, lines, baseline, effective)


def _reference(
    scores: Sequence[ModelScores], reference: str, shift: str, models: str, axis: Axis, classes: bool | None
) -> tuple[str, Baseline | None]:
    """The set on the x axis, and the baseline of the shift on it, if there is one."""
    own = on_classes(reference, shift)
    if reference != "val":
        everywhere = all(own in score.accuracy for score in scores if shift in score.accuracy)
        return (own if (everywhere if classes is None else classes) else reference), None
    name = default_x(shift, models) if classes is None else own if classes else reference
    if classes is None and not any(name in score.accuracy for score in scores):
        name = reference
    try:
        return name, find_baseline(shift, x=name, models=models, axis=axis)
    except InputError:
        if classes is None and all(own in score.accuracy for score in scores if shift in score.accuracy):
            name = own
        return name, None


def _images(scores: Sequence[ModelScores], name: str) -> int | None:
    """The fewest pictures that any of the models was measured on, which clips all alike."""
    known = [score.images[name] for score in scores if name in score.images]
    return min(known) if known else None
