"""Everything a report shows, as plain data: no section knows where its numbers came from.

Every section but the title may be left empty, and is then left out of the page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from evaluation.results import Result


@dataclass(frozen=True, slots=True)
class AccountLine:
    """How many rows of a source ended with one status and reason."""

    source: str
    status: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Account:
    """Where every row went; `rows_in` counts the records of each source before anything was done to them."""

    rows_in: dict[str, int]
    lines: list[AccountLine]


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of planted fault against what was found.

    `false` counts finds where nothing was planted, `rate` is in 0 to 1, `goal` says in words what was aimed at and
    `met` whether it was reached. None leaves a cell empty.
    """

    check: str
    planted: int | None
    found: int | None
    missed: int | None = None
    false: int | None = None
    rate: float | None = None
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """An evaluation set as the report names it; the reference set comes first in `ReportData.tasks`."""

    name: str
    label: str
    role: str
    family: str = ""


@dataclass(frozen=True, slots=True)
class MethodFigure:
    """What a test-time method did to a model's figure on one set, over the same pictures.

    `value` is in 0 to 1; `difference` to the model's zero-shot figure with its 95 % interval, and `p` of McNemar's
    exact test, corrected for the number of sets. None: this is the zero-shot figure.
    """

    model: str
    method: str
    task: str
    n: int
    value: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class MixtureSource:
    """What a mixture asked of one source, and what it got."""

    source: str
    weight: float
    asked: int
    got: int


@dataclass(frozen=True, slots=True)
class Attrition:
    """Rows of one source before and after one filter of a mixture, in the order the filters are applied."""

    source: str
    filter: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """One mixture: its sources, what its filters left out, and a note on that."""

    name: str
    sources: list[MixtureSource]
    attrition: list[Attrition] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores of one source: `edges` [B + 1] and `counts` [B]; all sources share their edges."""

    source: str
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many pictures of a source are of one kind; `column` is what that is said about, as an evaluation set."""

    source: str
    column: str
    kind: str
    pictures: int


@dataclass(frozen=True, slots=True)
class SourceSignal:
    """Share of a source's pictures, 0 to 1, that a signal holds for; None where the signal was not computed."""

    source: str
    signal: str
    share: float | None


@dataclass(frozen=True, slots=True)
class StudyLine:
    """Copies of one transform and strength: how many there are, and the share found at each threshold of the study.

    `astray` counts copies that are called a copy of a different picture at the threshold in use; `goal` says that the
    study's goal is set for these copies.
    """

    transform: str
    strength: str
    copies: int
    recall: list[float]
    astray: int
    goal: bool


@dataclass(frozen=True, slots=True)
class Study:
    """Near duplicates by transform and strength: what is found and what is falsely called, by threshold.

    `false_rate` is the share of the clean `pictures` that are called a copy of a different one at each of
    `thresholds`; `chosen` is the place of the threshold in use. Of all `pairs` of different pictures `candidates`
    were compared closely, and `false_pairs` are called copies at the threshold in use. `excused` pairs look the same
    by nature and count neither way. `goal_recall` is to be reached over all lines with a goal at `goal_false`.
    """

    thresholds: list[float]
    chosen: int
    false_rate: list[float]
    lines: list[StudyLine]
    pictures: int
    pairs: int
    candidates: int
    false_pairs: int
    excused: int
    goal_recall: float
    goal_false: float
    note: str = ""

    @property
    def in_use(self) -> float:
        """The threshold in use."""
        return self.thresholds[self.chosen]

    @property
    def at_goal(self) -> int:
        """Place of the largest threshold whose false rate is within `goal_false`; 0 if none is."""
        return max((place for place, rate in enumerate(self.false_rate) if rate <= self.goal_false), default=0)

    def recall(self, *, goal: bool = True) -> list[float]:
        """Share of the copies found at each threshold: of those with a goal, or of all."""
        counted = [line for line in self.lines if line.goal or not goal]
        total = max(1, sum(line.copies for line in counted))
        return [sum(x.recall[i] * x.copies for x in counted) / total for i in range(len(self.thresholds))]


class Measured(NamedTuple):
    """A figure with its 95 % interval, as a share."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MapLine:
    """How often maps of some kind have their peak on what decides (`pointing`), and their mean IoU with it.

    `first_more` is how many more peaks of the first kind are there, pair by pair; None of that kind itself.
    """

    label: str
    pictures: int
    pointing: Measured
    overlap: Measured
    first_more: Measured | None = None


@dataclass(frozen=True, slots=True)
class MapTest:
    """Do attribution maps find what is known to decide? Each kind of map is a line."""

    title: str
    note: str
    lines: list[MapLine]


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture (WebP, PNG or JPEG) with its caption and a small note under it."""

    image: bytes
    caption: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Sample pictures of a source or mixture."""

    title: str
    pictures: list[Picture]
    note: str = ""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Seconds that one stage took, and how many rows it handled."""

    stage: str
    seconds: float
    rows: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The whole report."""

    title: str
    summary: str
    account: Account | None = None
    checks: list[Check] = field(default_factory=list)
    tasks: list[TaskInfo] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    methods: list[MethodFigure] = field(default_factory=list)
    methods_note: str = ""
    mixtures: list[Mixture] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    signals: list[SourceSignal] = field(default_factory=list)
    duplicates: list[Tally] = field(default_factory=list)
    overlaps: list[Tally] = field(default_factory=list)
    near_duplicates: Study | None = None
    galleries: list[Gallery] = field(default_factory=list)
    attributions: list[Picture] = field(default_factory=list)
    attributions_note: str = ""
    map_tests: list[MapTest] = field(default_factory=list)
    map_examples: Picture | None = None
    source_study: str = ""  # HTML that needs nothing beside it
    stages: list[StageTime] = field(default_factory=list)
    credits: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
