"""Everything a report shows, as plain data: no section knows where its numbers came from.

Every section but the title may be left empty, and is then left out of the page.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """One mixture: its sources and what its filters left out."""

    name: str
    sources: list[MixtureSource]
    attrition: list[Attrition] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores of one source: `edges` [B + 1] and `counts` [B]; all sources share their edges."""

    source: str
    edges: list[float]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Curve:
    """Near duplicates: share found (`recall`) and share of clean pictures called duplicates, by threshold."""

    thresholds: list[float]
    recall: list[float]
    false_rate: list[float]
    chosen: float | None = None
    label: str = "threshold"


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
    mixtures: list[Mixture] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    near_duplicates: Curve | None = None
    galleries: list[Gallery] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    credits: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
