"""The report: one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2

from evaluation import report_plots as plots
from evaluation.report_data import (
    Account,
    Measured,
    MethodFigure,
    Mixture,
    MixtureSource,
    Picture,
    ReportData,
    SourceSignal,
    Study,
    StudyLine,
    Tally,
)
from evaluation.results import Figure, Result
from filters.errors import InputError
from trainer.images import decode_rgb

_THUMBNAIL, _WIDE = 128, 1040  # pixels


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One line of the account: rows by source for one status and reason."""

    status: str
    reason: str
    rows: list[int]


@dataclass(frozen=True, slots=True)
class AccountTable:
    """The account turned so that sources are columns; `balanced` compares rows in with the sum, by source."""

    sources: list[str]
    rows: list[AccountRow]
    sums: list[int]
    rows_in: list[int]
    balanced: list[bool]


@dataclass(frozen=True, slots=True)
class MixtureRow:
    """One source of a mixture: its rows at first and what each filter left."""

    mixture: str
    source: MixtureSource
    first: int | None
    left: list[int | None]


@dataclass(frozen=True, slots=True)
class MixtureTable:
    """One mixture, or all mixtures of one source that have the same filters (`alone`); filters are columns."""

    title: str
    alone: bool
    filters: list[str]
    rows: list[MixtureRow]
    note: str = ""


def render_report(data: ReportData) -> str:
    """The page, as HTML.

    It holds its style and pictures, loads nothing and runs no script. The same data gives the same bytes for
    the same versions of matplotlib and Pillow. InputError for a sample picture that cannot be decoded.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=percent, points=points, count=count, span=span, seconds=seconds)
    environment.filters.update(thumbnail=thumbnail, wide=wide)
    reference, shifts = (data.tasks[0], data.tasks[1:]) if data.tasks else (None, [])
    drawn = [shift for shift in shifts if any(shift.name in result.eval for result in data.results)]
    return environment.get_template("report.html.j2").render(
        data=data,
        account=None if data.account is None else account_table(data.account),
        mixtures=mixture_tables(data.mixtures),
        markers=[_uri(plots.marker_png(i)) for i in range(len(data.results))],
        panels=[(s, _uri(plots.panel_png(data.results, drawn, s, reference))) for s in drawn if reference],
        histograms=_uri(plots.histogram_png(data.histograms)) if data.histograms else None,
        study=study_tables(data.near_duplicates) if data.near_duplicates else None,
        duplicates=tally_table(data.duplicates),
        overlaps=tally_table(data.overlaps),
        signals=signal_table(data.signals),
        same_family=any(s.same_family for result in data.results for s in result.eval.values()),
        reading=reading(data.results),
        methods=method_rows(data.methods),
    )


def account_table(account: Account) -> AccountTable:
    """Rows by status and reason (down) and source (across); statuses stay together, success first."""
    sources = list(account.rows_in)
    cells: Counter[tuple[str, str, str]] = Counter()
    for line in account.lines:
        cells[line.status, line.reason, line.source] += line.rows
        if line.source not in account.rows_in:
            raise InputError(f"the account has rows of {line.source!r}, a source without a number of rows in")
    kinds = sorted({(status != "success", status, reason) for status, reason, _ in cells})
    rows = [AccountRow(status, reason, [cells[status, reason, s] for s in sources]) for _, status, reason in kinds]
    sums = [sum(row.rows[i] for row in rows) for i in range(len(sources))]
    rows_in = [account.rows_in[source] for source in sources]
    return AccountTable(sources, rows, sums, rows_in, [a == b for a, b in zip(sums, rows_in, strict=True)])


def mixture_tables(mixtures: list[Mixture]) -> list[MixtureTable]:
    """A table for each mixture of several sources, then the mixtures of one source together."""
    several = [mixture for mixture in mixtures if len(mixture.sources) != 1]
    tables = [MixtureTable(m.name, False, _filters(m), _mixture_rows(m), m.note) for m in several]
    alone: dict[tuple[str, ...], list[MixtureRow]] = {}
    for mixture in mixtures:
        if len(mixture.sources) == 1:
            alone.setdefault(tuple(_filters(mixture)), []).extend(_mixture_rows(mixture))
    return tables + [MixtureTable("One source alone", True, list(names), rows) for names, rows in alone.items()]


def _filters(mixture: Mixture) -> list[str]:
    return list(dict.fromkeys(step.filter for step in mixture.attrition))


def _mixture_rows(mixture: Mixture) -> list[MixtureRow]:
    """Attrition by source, each filter in the order applied; None where a source lacks a filter."""
    filters, first = _filters(mixture), dict[str, int]()
    after: dict[tuple[str, str], int] = {}
    for step in mixture.attrition:
        first.setdefault(step.source, step.before)
        after[step.source, step.filter] = step.after
    return [
        MixtureRow(mixture.name, s, first.get(s.source), [after.get((s.source, name)) for name in filters])
        for s in mixture.sources
    ]


def reading(results: list[Result]) -> str:
    """What the figures are, in one sentence, from the figures themselves; empty without results."""
    first = next((figure for result in results for figure in result.eval.values()), None)
    if first is None:
        return ""
    ways = round(1 / first.chance)
    return (
        "Each figure is the expected accuracy, in percent, of finding the true class among "
        f"{ways} classes drawn from all that the set shares with the reference; guessing gives "
        f"{percent(first.chance)}. Below it stand the 95\u00a0% interval (bootstrap over pictures), the number of "
        "pictures, and the same model's figure for the reference on the same classes."
    )


def method_rows(figures: list[MethodFigure]) -> dict[str, dict[str, dict[str, MethodFigure]]]:
    """Figures by model, then by method, then by set, in the order given."""
    rows: dict[str, dict[str, dict[str, MethodFigure]]] = {}
    for figure in figures:
        rows.setdefault(figure.model, {}).setdefault(figure.method, {})[figure.task] = figure
    return rows


@dataclass(frozen=True, slots=True)
class TallyRow:
    """One source: pictures by kind for each column, and all of them."""

    source: str
    cells: list[dict[str, int]]

    @property
    def counts(self) -> list[int]:
        """Pictures of each column, whatever their kind."""
        return [sum(cell.values()) for cell in self.cells]


@dataclass(frozen=True, slots=True)
class TallyTable:
    """Sources down, columns across."""

    columns: list[str]
    rows: list[TallyRow]
    sums: list[int]


def tally_table(tallies: list[Tally]) -> TallyTable | None:
    """The tallies turned into a table, in the order given; None without any."""
    if not tallies:
        return None
    columns = list(dict.fromkeys(tally.column for tally in tallies))
    rows = {tally.source: TallyRow(tally.source, [{} for _ in columns]) for tally in tallies}
    for tally in tallies:
        cell = rows[tally.source].cells[columns.index(tally.column)]
        cell[tally.kind] = cell.get(tally.kind, 0) + tally.pictures
    sums = [sum(counts) for counts in zip(*(row.counts for row in rows.values()), strict=True)]
    return TallyTable(columns, list(rows.values()), sums)


def signal_table(signals: list[SourceSignal]) -> dict[str, dict[str, float | None]]:
    """Shares by signal, then by source."""
    table: dict[str, dict[str, float | None]] = {}
    for signal in signals:
        table.setdefault(signal.signal, {})[signal.source] = signal.share
    return table


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study's plots as data URIs; its lines, with recall at the threshold in use and at that of the goal."""

    thresholds: str
    curves: str
    lines: list[tuple[StudyLine, float, float]]


def study_tables(study: Study) -> StudyView:
    """What the page shows of a study."""
    lines = [(line, line.recall[study.chosen], line.recall[study.at_goal]) for line in study.lines]
    return StudyView(_uri(plots.threshold_png(study)), _uri(plots.study_png(study)), lines)


def percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash for None."""
    return "–" if value is None else f"{value * 100:.1f}"


def points(value: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{value * 100:+.1f}".replace("-", "\u2212")


def span(figure: Figure | Measured) -> str:
    """A figure's interval in percent."""
    return f"{percent(figure.low)} to {percent(figure.high)}"


def count(value: int | None) -> str:
    """A whole number with thin spaces between thousands; a dash for None."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def seconds(value: float) -> str:
    """A duration a person can read."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{value:.1f} s"


def thumbnail(picture: Picture) -> str:
    """A data URI of the picture, at most 128 pixels a side, as WebP."""
    return _webp(picture, _THUMBNAIL)


def wide(picture: Picture) -> str:
    """The same of a figure that is to be read, at most 1,040 pixels a side."""
    return _webp(picture, _WIDE)


def _webp(picture: Picture, side: int) -> str:
    try:
        small = decode_rgb(picture.image, side)
    except InputError as error:
        raise InputError(f"the sample picture {picture.caption!r}: {error}") from error
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return _uri(buffer.getvalue(), "webp")


def _uri(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
