"""The report renders from synthetic data, holds every table, and loads nothing from elsewhere."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from evaluation.report import account_table, count, mixture_tables, render_report, seconds, tally_table
from evaluation.report_data import (
    Account,
    AccountLine,
    Attrition,
    Check,
    Gallery,
    Histogram,
    MethodFigure,
    Mixture,
    MixtureSource,
    Picture,
    ReportData,
    SourceSignal,
    StageTime,
    Study,
    StudyLine,
    Tally,
    TaskInfo,
)
from evaluation.report_plots import mark, scatter_png, study_png
from evaluation.results import Figure, Result, SetResult
from filters.errors import InputError
from tests.evaluation.conftest import encode

VOID = {"meta", "img", "br"}
TASKS = [
    TaskInfo("ref", "Reference", "reference", "emojione"),
    TaskInfo("near", "Near", "near", "noto"),
    TaskInfo("line", "Lines", "line drawings"),
]


STUDY = Study(
    thresholds=[0.0, 0.1, 0.2],
    chosen=1,
    false_rate=[0, 0.002, 0.02],
    lines=[
        StudyLine("scale", "× 0.5", 50, [0.1, 0.98, 1.0], 0, goal=True),
        StudyLine("scale", "× 2", 50, [0.1, 1.0, 1.0], 1, goal=True),
        StudyLine("mirror", "left and right", 20, [0.0, 0.05, 0.1], 0, goal=False),
    ],
    pictures=500,
    pairs=124749,
    candidates=321,
    false_pairs=1,
    excused=1,
    goal_recall=0.98,
    goal_false=0.005,
    note="Drawings.",
)


def figure(value: float, n: int = 900) -> Figure:
    half = 1.96 * float(np.sqrt(value * (1 - value) / n))
    return Figure(
        n=n,
        classes=n,
        value=value,
        low=max(value - half, 0.0),
        high=min(value + half, 1.0),
        chance=0.01,
        at_floor=value - half <= 0.01,
        acc1=value / 4,
        acc5=None,
        mean_per_class_recall=value / 4,
    )


def on_set(value: float, reference: float | None, *, same_family: bool = False) -> SetResult:
    plain = figure(value)
    return SetResult(
        **{name: getattr(plain, name) for name in Figure.__dataclass_fields__},
        protocol="expected_100_way",
        template_hash="0123456789ab",
        family="",
        same_family=same_family,
        reference=None if reference is None else figure(reference),
    )


def result(run_id: str, value: float, *, same_family: bool = False) -> Result:
    return Result(
        run_id=run_id,
        kind="single",
        n_total=4321,
        eval={
            "ref": on_set(value, None),
            "near": on_set(value * 0.8, value, same_family=same_family),
            "line": on_set(0.011, value),
        },
    )


def picture(side: int) -> bytes:
    return encode(np.full((side, side, 3), (200, 80, 40), dtype=np.uint8))


@pytest.fixture
def data() -> ReportData:
    return ReportData(
        title="Sources & robustness",
        summary="One plain paragraph.",
        account=Account(
            {"yfcc": 100, "wit": 50},
            [
                AccountLine("yfcc", "success", "ok", 90),
                AccountLine("yfcc", "failed_to_download", "http_404", 10),
                AccountLine("wit", "success", "ok", 50),
            ],
        ),
        checks=[
            Check("exact duplicates", 20, 20, 0, 0, 1.0, "all", True),
            Check("near duplicates", 20, 15, 5, None, 0.75, "at least 90 %", False),
        ],
        tasks=TASKS,
        results=[result("only yfcc", 0.3, same_family=True), result("only wit", 0.2)],
        methods=[
            MethodFigure("even", "zero_shot", "ref", 901, 0.2),
            MethodFigure("even", "umfc", "ref", 901, 0.18, -0.02, -0.034, -0.006, 0.0123),
        ],
        methods_note="Settings were fixed before.",
        mixtures=[
            Mixture(
                "even mix",
                [MixtureSource("yfcc", 0.5, 40, 40), MixtureSource("wit", 0.5, 40, 38)],
                [Attrition("yfcc", "survivors", 90, 88), Attrition("yfcc", "top half", 88, 44)],
            )
        ],
        histograms=[Histogram("yfcc", [0, 0.5, 1], [3, 4]), Histogram("wit", [0, 0.5, 1], [0, 0])],
        signals=[SourceSignal("yfcc", "English", 0.912), SourceSignal("wit", "English", None)],
        duplicates=[Tally("yfcc", "near", "", 7), Tally("wit", "exact bytes", "", 2)],
        overlaps=[
            Tally("yfcc", "Near", "near", 4),
            Tally("yfcc", "Near", "exact_bytes", 1),
            Tally("wit", "Lines", "", 0),
        ],
        near_duplicates=STUDY,
        galleries=[Gallery("yfcc pictures", [Picture(picture(400), "a <b>dog</b> & cat", "score 0.31")])],
        stages=[StageTime("download", 75.2, 12345), StageTime("train", 4.0)],
        credits=["Noto Emoji, Apache-2.0"],
        facts={"seed": "0"},
    )


class Page(HTMLParser):
    """Collects links, text by tag and tag balance of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def test_page_is_whole_and_self_contained(data: ReportData) -> None:
    raw = render_report(data)
    page = Page(raw)
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} == page.ids
    assert "http://" not in raw and "https://" not in raw and "url(" not in raw


def test_every_table_is_there(data: ReportData) -> None:
    page = Page(render_report(data))
    text = re.sub(r"[ \n]+", " ", " ".join(page.text))
    assert page.tags.count("table") == 10
    for expected in (
        "Sources & robustness",
        "One plain paragraph.",
        "failed_to_download http_404 10 0 10",
        "sum 100 50 150 rows in 100 50 150 rows in = sum equal equal equal",
        "near duplicates 20 15 5 – 75.0 at least 90 % missed",
        "only yfcc 4\u202f321 samples 30.0 27.0 to 33.0 900 pictures",
        "24.0 † 21.2 to 26.8 900 pictures reference 30.0",
        "Settings were fixed before.",
        "zero-shot 20.0 901 pictures – – umfc 18.0 \u22122.0 \u22123.4 to \u22120.6 p 0.012 – –",
        "even mix",
        "Source weight at first survivors top half asked got yfcc 0.5 90 88 44 40 40 wit 0.5 – – – 40 38 sum 80 78",
        "a <b>dog</b> & cat score 0.31",
        "download 1 min 15 s 12\u202f345",
        "Noto Emoji, Apache-2.0",
        "among 100 classes",
        "Source near exact bytes all yfcc 7 0 7 wit 0 2 2 sum 7 2 9",
        "Source Near Lines all yfcc 5 near 4 exact bytes 1 0 5 wit 0 0 0 sum 5 0 5",
        "Signal yfcc wit English 91.2 –",
        "124\u202f749 pairs of different ones; 321 of these",
        "99.0\u00a0% of the copies are found, and 0.2\u00a0% of the pictures",
        "scale × 0.5 50 98.0 98.0 0 yes × 2 50 100.0 100.0 1 yes mirror left and right 20 5.0 5.0 0",
    ):
        assert expected in text, expected
    assert text.count("900 pictures") == 6


def test_floor_and_family_marks(data: ReportData) -> None:
    raw = render_report(data)
    assert raw.count('<td class="floor">') == 2
    assert raw.count('<span class="badge">at floor</span></td>') == 2
    assert raw.count("<sup") == 1
    strong = replace(data, results=[replace(r, eval={"ref": r.eval["ref"]}) for r in data.results])
    raw = render_report(strong)
    assert "</span></td>" not in raw and "<sup" not in raw and 'id="shift"' not in raw


def test_unbalanced_account_shows(data: ReportData) -> None:
    assert data.account is not None
    wrong = replace(data, account=replace(data.account, rows_in={"yfcc": 101, "wit": 50}))
    assert account_table(data.account).balanced == [True, True]
    raw = render_report(wrong)
    assert raw.count("NOT equal") == 2
    stray = replace(data.account, lines=[*data.account.lines, AccountLine("cc12m", "success", "ok", 1)])
    with pytest.raises(InputError, match="'cc12m'"):
        account_table(stray)


def test_captions_of_strangers_cannot_spoil_the_page(data: ReportData) -> None:
    captions = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "long " * 3000, "صورة شمس"]
    gallery = Gallery("<i>", [Picture(picture(8), caption, "<b>note</b>") for caption in captions])
    raw = render_report(replace(data, galleries=[gallery], title="</title><script>"))
    page = Page(raw)
    assert page.open == [] and not {"script", "b", "i"} & set(page.tags)
    assert raw.count("long ") < 40 and "…" in raw
    assert raw.count('<span dir="auto">') == 4


def test_mixtures_of_one_source_share_a_table() -> None:
    def alone(source: str, *filters: str) -> Mixture:
        steps = [Attrition(source, name, 10, 9) for name in filters]
        return Mixture(f"only {source}", [MixtureSource(source, 1, 5, 5)], steps)

    both = Mixture("both", [MixtureSource("a", 1, 5, 5), MixtureSource("b", 1, 5, 5)])
    tables = mixture_tables([alone("a", "x"), both, alone("b", "x"), alone("c")])
    assert [(t.title, t.alone, [r.mixture for r in t.rows]) for t in tables] == [
        ("both", False, ["both", "both"]),
        ("One source alone", True, ["only a", "only b"]),
        ("One source alone", True, ["only c"]),
    ]
    assert [(r.source.source, r.first, r.left) for r in tables[1].rows] == [("a", 10, [9]), ("b", 10, [9])]


def test_empty_report_renders() -> None:
    page = Page(render_report(ReportData(title="Nothing yet", summary="-")))
    assert page.open == [] and "table" not in page.tags and "img" not in page.tags


def test_same_data_same_bytes(data: ReportData) -> None:
    assert render_report(data) == render_report(data)


def test_pictures_become_thumbnails(data: ReportData) -> None:
    """A large picture does not weigh on the page, and one that cannot be decoded is named."""
    large = replace(data, galleries=[Gallery("x", [Picture(picture(2000), "big")])])
    small = replace(data, galleries=[])
    sizes = [len(render_report(d)) for d in (large, small)]
    assert sizes[0] - sizes[1] < 5000
    with pytest.raises(InputError, match="sample picture 'broken'"):
        render_report(replace(data, galleries=[Gallery("x", [Picture(b"no", "broken")])]))


def test_scatter_is_a_picture(data: ReportData) -> None:
    png = scatter_png(data.results, TASKS[1:], TASKS[0])
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG" and min(image.size) > 600
    assert scatter_png(data.results, TASKS[1:2], TASKS[0])
    with pytest.raises(InputError, match="at least one shift"):
        scatter_png(data.results, [], TASKS[0])


def test_scatter_bears_extremes() -> None:
    """Figures of 0 and 1 have no probit; they are drawn half a picture inside."""
    extreme = [result("zero", 0.0), result("one", 1.0)]
    assert scatter_png(extreme, TASKS[1:], TASKS[0])


def test_scatter_bears_an_interval_without_width() -> None:
    """Equal values in all pictures make bounds that a rounding error may put on the wrong side of the value."""
    one = result("flat", 0.3)
    above = float(np.nextafter(0.3, 1))
    flat = {n: replace(f, value=0.3, low=above, high=above) for n, f in one.eval.items()}
    flat |= {n: replace(f, reference=replace(flat["ref"])) for n, f in flat.items() if f.reference}
    assert scatter_png([replace(one, eval=flat)], TASKS[1:], TASKS[0])


def test_marks_differ() -> None:
    """Up to 56 models can be told apart, the first eight by shape alone."""
    assert len({mark(i) for i in range(56)}) == 56
    assert len({mark(i).shape for i in range(8)}) == 8


def test_numbers_as_text() -> None:
    assert count(None) == "–" and count(1234567) == "1\u202f234\u202f567"
    assert seconds(3.21) == "3.2 s" and seconds(125.4) == "2 min 5 s"
    assert seconds(59.97) == "1 min 0 s" and seconds(179.7) == "3 min 0 s"


def test_study_sums_over_copies_and_finds_its_goal() -> None:
    assert STUDY.in_use == 0.1
    assert STUDY.recall() == pytest.approx([0.1, 0.99, 1.0])
    assert STUDY.recall(goal=False) == pytest.approx([10 / 120, 100 / 120, 102 / 120])
    assert STUDY.at_goal == 1
    assert replace(STUDY, false_rate=[0.1, 0.2, 0.3]).at_goal == 0


def test_tallies_of_one_cell_add_up() -> None:
    table = tally_table([Tally("a", "x", "near", 1), Tally("a", "x", "near", 2), Tally("b", "y", "", 3)])
    assert table is not None and table.columns == ["x", "y"]
    assert [(row.source, row.cells, row.counts) for row in table.rows] == [
        ("a", [{"near": 3}, {}], [3, 0]),
        ("b", [{}, {"": 3}], [0, 3]),
    ]
    assert table.sums == [3, 3]
    assert tally_table([]) is None


def test_study_of_one_line_is_drawn() -> None:
    assert study_png(replace(STUDY, lines=STUDY.lines[:1]))
