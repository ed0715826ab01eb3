"""The six readers on golden rows in each exact raw format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.sources import SOURCES
from pipelines.sources.yfcc import clean
from tests.pipelines.source_dumps import (
    NOTHING,
    WIT_HEADER,
    annotation,
    captions,
    laion_dump,
    redcaps_dump,
    rows,
    wit_dump,
    yfcc_dump,
    yfcc_line,
)


def test_yfcc_golden_row(tmp_path: Path) -> None:
    file = yfcc_dump(tmp_path, yfcc_line(3, "My+dog%27s+day", "", "dog,cute+puppy"))
    assert rows("yfcc", file) == [
        {
            "file": "yfcc100m_dataset",
            "line": 0,
            "url": "http://farm1.staticflickr.com/1/503_x.jpg",
            "native_id": "503",
            "caption_raw": {"title": "My+dog%27s+day", "description": "", "usertags": "dog,cute+puppy"},
            **NOTHING,
            "license": "Attribution License",
            "reason": "ok",
        }
    ]


def test_yfcc_marks_videos_and_broken_lines_and_keeps_their_place(tmp_path: Path) -> None:
    lines = [
        yfcc_line(0, "a", "b"),
        "cut\toff",
        yfcc_line(1, "c", "d", marker="1"),
        "",
        yfcc_line(2, "e", "f", url=""),
    ]
    read_rows = rows("yfcc", yfcc_dump(tmp_path, *lines))
    assert [row["reason"] for row in read_rows] == ["ok", "bad_row", "video", "bad_row", "bad_row"]
    assert [row["line"] for row in read_rows] == list(range(5))
    assert read_rows[1]["caption_raw"] == {"raw": "cut\toff"}
    assert read_rows[3]["caption_raw"] == {"raw": ""}
    assert read_rows[4]["caption_raw"]["title"] == "e"


def test_yfcc_recipes(tmp_path: Path) -> None:
    about = (
        "See+%3Ca+href%3D%22http%3A%2F%2Fx.org%2Fa%22+rel%3D%22nofollow%22%3Ethe+%3Cb%3Efarm%3C%2Fb%3E%3C%2Fa%3E%0A"
    )
    about += "%26amp%3B+more+at+www.example.com%2Fb%3Fc%3D1"
    file = yfcc_dump(tmp_path, yfcc_line(0, "Dog%2BCat", about, "dog,cute+puppy"), yfcc_line(1, "+", "%20", ""))
    text = "See the farm & more at"
    assert captions("yfcc", file) == [[f"Dog+Cat {text}"], []]
    assert captions("yfcc", file, "title") == [["Dog+Cat"], []]
    assert captions("yfcc", file, "description") == [[text], []]
    assert captions("yfcc", file, "title+description+tags") == [[f"Dog+Cat {text} dog, cute puppy"], []]
    assert captions("yfcc", file, "sample_one") == [["Dog+Cat", text], []]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("caf%C3%A9+%F0%9F%90%B6", "café 🐶"),
        ("%22quoted%22", '"quoted"'),
        ("I+%3C3+cats+%26+a+%3C+b+%3E+c", "I <3 cats & a < b > c"),
        ("one%3Cbr+%2F%3Etwo%0D%0A%09three%C2%A0four%00", "one two three four"),
        ("%26lt%3Bb%26gt%3B", "<b>"),
        ("%28see+https%3A%2F%2Fa.b%2Fc%29+100%25+50%zz", "(see ) 100% 50%zz"),
        ("%FF%FE", "��"),
        ("%3Ca+href%3D%22http%3A%2F%2Fa.b%22%3E%3C%2Fa%3E", None),
    ],
)
def test_yfcc_text_becomes_words(raw: str, words: str | None) -> None:
    assert clean(pa.array([raw])).to_pylist() == [words]


def test_laion_golden_rows(tmp_path: Path) -> None:
    file = laion_dump(
        tmp_path,
        SAMPLE_ID=pa.array([11, 12, 13, 14], pa.int64()),
        URL=pa.array(["http://a/1.jpg", "http://a/2.jpg", None, "http://a/4.jpg"]),
        TEXT=pa.array(['5" pipe', None, "x", " \n"]),
        HEIGHT=pa.array([1, 2, 3, 4]),
        LICENSE=pa.array(["?", None, "?", "cc"]),
        NSFW=pa.array(["UNLIKELY", "UNSURE", "UNLIKELY", None]),
        similarity=pa.array([0.3, 0.4, 0.5, 0.3]),
    )
    read_rows = rows("laion", file)
    assert [row["native_id"] for row in read_rows] == ["11", "12", "13", "14"]
    assert [row["nsfw_declared"] for row in read_rows] == ["UNLIKELY", "UNSURE", "UNLIKELY", None]
    assert [row["license"] for row in read_rows] == ["?", None, "?", "cc"]
    assert [row["reason"] for row in read_rows] == ["ok", "ok", "bad_row", "ok"]
    assert [row["caption_raw"]["TEXT"] for row in read_rows] == ['5" pipe', None, "x", " \n"]
    assert captions("laion", file) == [['5" pipe'], [], ["x"], []]
    assert SOURCES["laion"].allowed_nsfw == frozenset({"UNLIKELY"})


def test_laion_reads_other_arrow_types_and_spells_out_broken_utf8(tmp_path: Path) -> None:
    file = laion_dump(
        tmp_path,
        SAMPLE_ID=pa.array([1.0, None, 3.0]),
        URL=pa.array([b"http://a/1", b"http://a/2", b"http://a/\xff"]),
        TEXT=pa.array(["a", "b", "c"], pa.large_string()),
        NSFW=pa.array(["UNLIKELY", "NSFW", "UNLIKELY"]).dictionary_encode(),
    )
    read_rows = rows("laion", file)
    assert [row["native_id"] for row in read_rows] == ["1", "", ""]
    assert [row["reason"] for row in read_rows] == ["ok", "ok", "bad_row"]
    assert read_rows[2]["caption_raw"] == {"raw": "http://a/\\xff c"}
    assert read_rows[1]["nsfw_declared"] == "NSFW"


def test_cc12m_golden_rows(tmp_path: Path) -> None:
    file = tmp_path / "cc12m.tsv"
    file.write_bytes(
        b"http://a/1.jpg\t<PERSON> at home\r\nhttp://a/2.jpg\ta\tb\n\tno address\nhttp://a/4.jpg\tcaf\xe9\nhttp://a/5"
    )
    read_rows = rows("cc12m", file)
    assert [row["reason"] for row in read_rows] == ["ok", "bad_row", "bad_row", "bad_row", "bad_row"]
    assert read_rows[0]["caption_raw"] == {"caption": "<PERSON> at home"}
    assert read_rows[0]["native_id"] == ""
    assert read_rows[1]["caption_raw"] == {"raw": "http://a/2.jpg\ta\tb"}
    assert read_rows[3]["caption_raw"] == {"raw": "http://a/4.jpg\tcaf\\xe9"}


def test_wit_golden_rows_and_recipes(tmp_path: Path) -> None:
    reference, attribution, alt = WIT_HEADER[6:9]
    file = wit_dump(
        tmp_path,
        {
            "language": "en",
            "image_url": "http://u/1.jpg",
            reference: "A dog",
            attribution: "English: Dog",
            alt: "dog",
        },
        {"language": "de", "image_url": "http://u/2.png", attribution: "Hund"},
        {"language": "en", "image_url": "http://u/3.svg", alt: 'the "flag"'},
        {"language": "en", "image_url": "http://u/4.svg"},
    )
    read_rows = rows("wit", file)
    assert [row["language_declared"] for row in read_rows] == ["en", "de", "en", "en"]
    assert [row["url"] for row in read_rows] == [f"http://u/{n}" for n in ("1.jpg", "2.png", "3.svg", "4.svg")]
    assert list(read_rows[0]["caption_raw"]) == [reference, attribution, alt]
    assert captions("wit", file) == [["A dog"], [], [], []]
    assert captions("wit", file, "reference|alt") == [["A dog"], [], ['the "flag"'], []]
    assert captions("wit", file, "reference|attribution") == [["A dog"], ["Hund"], [], []]
    assert captions("wit", file, "concat") == [["A dog English: Dog dog"], ["Hund"], ['the "flag"'], []]
    assert SOURCES["wit"].allowed_languages == frozenset({"en"})


def test_wit_fields_may_hold_line_ends(tmp_path: Path) -> None:
    long = 'first paragraph\n\nsecond, with a "quote"\nand a third'
    file = wit_dump(
        tmp_path, *({"image_url": f"http://u/{n}", WIT_HEADER[6]: f"c{n}", WIT_HEADER[16]: long} for n in range(3))
    )
    assert captions("wit", file) == [["c0"], ["c1"], ["c2"]]


def test_redcaps_golden_row(tmp_path: Path) -> None:
    broken: list[Any] = [7, {"image_id": "z"}, {**annotation(2), "caption": 5}, "half \ud800 pair"]
    file = redcaps_dump(tmp_path, [annotation(1), *broken])
    read_rows = rows("redcaps", file)
    assert read_rows[0] == {
        "file": "itookapicture_2016.json",
        "line": 0,
        "url": "https://i.redd.it/1.jpg",
        "native_id": "id1",
        "caption_raw": {
            "raw_caption": "A dog on a beach [OC]",
            "caption": "a dog on a beach",
            "subreddit": "itookapicture",
        },
        **NOTHING,
        "reason": "ok",
    }
    assert [row["reason"] for row in read_rows[1:]] == ["bad_row"] * 4
    assert read_rows[1]["caption_raw"] == {"raw": "7"}
    assert read_rows[2]["native_id"] == "z"


def test_shutterstock_tells_tabs_from_commas(tmp_path: Path) -> None:
    tabs = tmp_path / "s.tsv"
    tabs.write_text('http://s/1.jpg\tred, round "apple", isolated\nhttp://s/2.jpg\tone, two\n')
    assert captions("shutterstock", tabs) == [['red, round "apple", isolated'], ["one, two"]]
    commas = tmp_path / "s.csv"
    commas.write_text(
        'http://s/1.jpg,"red, round ""apple"""\r\nhttp://s/2.jpg,plain\nhttp://s/3.jpg,a,b\n"http://s/4.jpg","two\nlines"\n'
    )
    assert captions("shutterstock", commas) == [['red, round "apple"'], ["plain"], [], ["two\nlines"]]
    assert [row["line"] for row in rows("shutterstock", commas)] == [0, 1, 2, 3]
