"""The reader `table`: known and told column names, every format, hostile records."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import ConfigError, InputError, SchemaError
from pipelines.ingest import IngestConfig, run
from pipelines.sources import SOURCES, table
from pipelines.store.root import Root
from tests.pipelines.source_dumps import NOTHING, captions, laion_dump, rows

SHA, MD5 = "ab" * 32, "cd" * 16


def told(file: Path, **columns: Any) -> list[dict[str, Any]]:
    """The rows of a table whose columns are told."""
    read = pa.concat_tables(table.read_file(str(file), file.name, table.Columns(**columns)))
    return [{**row, "caption_raw": dict(row["caption_raw"])} for row in read.to_pylist()]


def test_laion_names_are_known(tmp_path: Path) -> None:
    file = laion_dump(
        tmp_path,
        SAMPLE_ID=pa.array([7, 8]),
        URL=pa.array(["http://a/1", "http://a/2"]),
        TEXT=pa.array(["a dog", None]),
        HEIGHT=pa.array([10, 20], pa.int32()),
        WIDTH=pa.array([30, None], pa.int32()),
        LICENSE=pa.array(["?", None]),
        NSFW=pa.array(["UNLIKELY", "NSFW"]),
        similarity=pa.array([0.25, 0.5]),
        hash=pa.array([-5170364564832841000, 1]),
        md5=pa.array([MD5, None]),
    )
    first, second = rows("table", file)
    assert first == {
        **NOTHING,
        "file": file.name,
        "line": 0,
        "url": "http://a/1",
        "native_id": "7",
        "caption_raw": {"TEXT": "a dog"},
        "license": "?",
        "nsfw_declared": "UNLIKELY",
        "hash_declared": f"md5:{MD5}",
        "scores_declared": [("HEIGHT", 10.0), ("WIDTH", 30.0), ("similarity", 0.25)],
        "reason": "ok",
    }
    assert second["hash_declared"] is None
    assert second["scores_declared"] == [("HEIGHT", 20.0), ("WIDTH", None), ("similarity", 0.5)]
    assert captions("table", file) == [["a dog"], []]


def test_the_laion_reader_keeps_its_numbers_and_hashes(tmp_path: Path) -> None:
    file = laion_dump(
        tmp_path, URL=pa.array(["u"]), TEXT=pa.array(["t"]), NSFW=pa.array(["UNSURE"]),
        similarity=pa.array([0.5]), md5=pa.array([MD5.upper()]),
    )  # fmt: skip
    (row,) = rows("laion", file)
    assert (row["scores_declared"], row["hash_declared"]) == ([("similarity", 0.5)], f"md5:{MD5}")


def test_coyo_names_are_known(tmp_path: Path) -> None:
    file = laion_dump(
        tmp_path,
        id=pa.array([841814333321]),
        url=pa.array(["http://a/1"]),
        text=pa.array(["a dog"]),
        width=pa.array([30]),
        image_phash=pa.array(["c9b6a7d8469c1959"]),
        clip_similarity_vitb32=pa.array([0.25], pa.float32()),
        nsfw_score_opennsfw2=pa.array([0.5]),
        watermark_score=pa.array([0.125]),
        aesthetic_score_laion_v2=pa.array([4.5]),
    )
    (row,) = rows("table", file)
    assert row["native_id"] == "841814333321"
    assert dict(row["scores_declared"]) == {
        "width": 30.0,
        "clip_similarity_vitb32": 0.25,
        "nsfw_score_opennsfw2": 0.5,
        "watermark_score": 0.125,
        "aesthetic_score_laion_v2": 4.5,
    }


def test_cc3m_has_no_header_and_the_caption_first(tmp_path: Path) -> None:
    file = tmp_path / "Train_GCC-training.tsv"
    file.write_text('a very typical "bus station\thttp://a/1.jpg\nsierra looked stunning\thttp://a/2.jpg\n')
    read = rows("table", file)
    assert [(row["url"], row["caption_raw"], row["line"]) for row in read] == [
        ("http://a/1.jpg", {"caption": 'a very typical "bus station'}, 0),
        ("http://a/2.jpg", {"caption": "sierra looked stunning"}, 1),
    ]


def test_sbu_is_an_object_of_columns(tmp_path: Path) -> None:
    file = tmp_path / "sbu-captions-all.json"
    whole = {"image_urls": ["http://a/1", "http://a/2"], "captions": ["one", "two"], "user_ids": ["x", "y"]}
    file.write_text(json.dumps(whole))
    assert [(row["url"], row["caption_raw"]) for row in rows("table", file)] == [
        ("http://a/1", {"captions": "one"}),
        ("http://a/2", {"captions": "two"}),
    ]
    file.write_text(json.dumps({**whole, "captions": ["one"]}))
    with pytest.raises(InputError, match=r"sbu-captions-all\.json: its columns image_urls, captions are not of one"):
        rows("table", file)


RECORDS: list[dict[str, Any]] = [
    {"id": 1, "url": "http://a/1", "text": 'said "hi"', "width": 30, "sha256": SHA},
    {"id": 2, "url": "http://a/2", "text": "a, b", "width": None, "sha256": None},
    {"id": 3, "url": None, "text": "no address", "width": 2.5, "sha256": "xyz"},
]


def write(file: Path) -> Path:
    """RECORDS in the format that the file's name says."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    elif file.suffix == ".json":
        file.write_text(json.dumps(RECORDS))
    elif file.suffix == ".tsv":
        lines = [list(RECORDS[0]), *([str(value or "") for value in record.values()] for record in RECORDS)]
        file.write_text("".join("\t".join(line) + "\n" for line in lines))
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(RECORDS[0]))
            writer.writeheader()
            writer.writerows(RECORDS)
    return file


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl", "t.json"])
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    read = rows("table", write(tmp_path / name))
    assert [(row["native_id"], row["url"] or "", row["reason"], row["line"]) for row in read] == [
        ("1", "http://a/1", "ok", 0), ("2", "http://a/2", "ok", 1), ("3", "", "bad_row", 2),
    ]  # fmt: skip
    assert [row["caption_raw"] for row in read] == [{"text": record["text"]} for record in RECORDS]
    assert [dict(row["scores_declared"]) for row in read] == [{"width": 30.0}, {"width": None}, {"width": 2.5}]
    assert [row["hash_declared"] for row in read] == [f"sha256:{SHA}", None, None]


def test_columns_may_be_told(tmp_path: Path) -> None:
    file = tmp_path / "odd.dat"
    file.write_text(f"k1|x\tlong text\tshort\thttp://a/1\t{SHA}\t0.5\tCC-BY\n")
    names = ["key", "long", "short", "link", "digest", "rank", "terms"]
    (row,) = told(
        file, format="tsv", names=names, url="link", captions=["short", "long"], native_id="key", hashes=["digest"],
        scores=["rank"], license="terms",
    )  # fmt: skip
    assert row == {
        **NOTHING, "file": "odd.dat", "line": 0, "url": "http://a/1", "native_id": "k1|x", "license": "CC-BY",
        "caption_raw": {"short": "short", "long": "long text"}, "hash_declared": f"sha256:{SHA}",
        "scores_declared": [("rank", 0.5)], "reason": "ok",
    }  # fmt: skip


def test_recipes_over_several_captions(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    texts = [("a", "b"), (None, "b"), (" ", None), ("a", "")]
    lines = [json.dumps({"url": f"http://a/{n}", "one": x, "two": y}) for n, (x, y) in enumerate(texts)]
    file.write_text("\n".join([*lines, "no json"]) + "\n")
    read = partial(table.read_file, columns=table.Columns(captions=["one", "two"]))
    raw = pa.concat_tables(read(str(file), "t.jsonl"))
    made = {recipe: SOURCES["table"].captions(raw, recipe).to_pylist() for recipe in table.RECIPES}
    assert made == {
        "first": [["a"], ["b"], [], ["a"], []],
        "each": [["a", "b"], ["b"], [], ["a"], []],
        "joined": [["a b"], ["b"], [], ["a"], []],
    }
    sliced = raw.slice(1, 3)
    assert SOURCES["table"].captions(sliced, "each").to_pylist() == made["each"][1:4]


def test_lines_that_are_no_objects_are_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    good = b'{"url": "http://a/1", "text": "half \\ud800 pair"}'
    file.write_bytes(good + b'\n{"url": \n[1]\n\xff\n{"url": "http://a/5", "text": ["x"]}\n')
    read = rows("table", file)
    assert [row["reason"] for row in read] == ["ok", "bad_row", "bad_row", "bad_row", "ok"]
    assert read[0]["caption_raw"] == {"text": "half \\ud800 pair"}
    assert [row["caption_raw"].get("raw") for row in read[1:4]] == ['{"url": ', "[1]", "\\xff"]
    assert read[4]["caption_raw"] == {"text": '["x"]'}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=9))
@pytest.mark.parametrize(("ending", "first"), [("jsonl", b'{"url": "u", "text": "t"}'), ("tsv", b"url\ttext\nu\tt")])
def test_one_row_for_every_line_of_anything(
    tmp_path_factory: pytest.TempPathFactory, ending: str, first: bytes, lines: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / f"any.{ending}"
    file.write_bytes(b"".join(line + b"\n" for line in [first, *lines]))
    assert len(rows("table", file)) == 1 + len(lines)


HOSTILE = ["[" * 3000 + "]" * 3000, '{"url": ' + "[" * 3000 + "]" * 3000 + "}", "9" * 5000, '{"a": "\\ud800"}']


@pytest.mark.parametrize("record", HOSTILE)
def test_a_hostile_record_costs_no_other(tmp_path: Path, record: str) -> None:
    good = '{"url": "http://a/1", "text": "x", "caption": "x", "face_bboxes": null}'
    (tmp_path / "t.jsonl").write_text(f"{good}\n{record}\n{good}\n")
    (tmp_path / "r.json").write_text(f"[{good}, {record}, {good}]")
    for source, name in (("table", "t.jsonl"), ("redcaps", "r.json")):
        assert [row["reason"] for row in rows(source, tmp_path / name)] == ["ok", "bad_row", "ok"]


@pytest.mark.parametrize("boxes", ["[" * 100_000, f"[[{'9' * 400}]]", "[[null]]", "{"])
def test_boxes_that_are_none_are_left_out(tmp_path: Path, boxes: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f'url,text,face_bboxes\nhttp://a/1,x,"{boxes}"\n')
    assert rows("table", file)[0]["face_bboxes"] is None


def test_tables_that_cannot_be_understood_are_one_line(tmp_path: Path) -> None:
    plain = write(tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"t\.parquet: no column link; it has id, url, text"):
        told(plain, url="link")
    other = laion_dump(tmp_path, "o.parquet", address=pa.array(["u"]), text=pa.array(["t"]))
    with pytest.raises(SchemaError, match=r"o\.parquet: which column is it.*--set table\.url=NAME"):
        rows("table", other)
    with pytest.raises(SchemaError, match=r"o\.parquet: which column is it.*--set 'table\.captions=\[NAME\]'"):
        told(laion_dump(tmp_path, "o.parquet", url=pa.array(["u"])))
    (tmp_path / "x.dat").write_text("")
    with pytest.raises(InputError, match=r"x\.dat: its name does not say what it is"):
        rows("table", tmp_path / "x.dat")
    three = tmp_path / "n.tsv"
    three.write_text("http://a/1\tx\ty\n")
    with pytest.raises(SchemaError, match=r"n\.tsv: has no header line; name its 3 columns"):
        rows("table", three)
    with pytest.raises(SchemaError, match=r"its first line has 3 fields, table\.names has 2"):
        told(three, names=["url", "text"])


def test_a_source_of_ones_own_needs_a_reader_and_a_name(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    config = IngestConfig(root=str(tmp_path / "root"), source="mine", reader="table", metadata=str(tmp_path))
    assert run(config)["counts"] == {"bad_row": 1, "ok": 2}
    found = Root(config.root).read_table("metadata", "mine", "00000.parquet")
    assert set(found["source"].to_pylist()) == {"mine"}
    with pytest.raises(ConfigError, match=r"source 'mine': expected one of .*; or say with --reader how it is read"):
        run(config.model_copy(update={"reader": None}))
    with pytest.raises(ConfigError, match="reader 'tables': expected one of cc12m"):
        run(config.model_copy(update={"reader": "tables"}))
    with pytest.raises(ConfigError, match=r"source '\.\./x': names a folder"):
        run(config.model_copy(update={"source": "../x"}))
