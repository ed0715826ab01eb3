"""The dumps are what their formats say, by parsers that share no code with this project."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_plus

import pandas as pd
import pyarrow.parquet as pq
import pytest

from demo.dumps import WIT_COLUMNS, write_dumps
from demo.plan import make_plan, to_records
from demo.web_record import SOURCES, Record

ROWS = 1200


class Dumps:
    """Written dumps and what was planned for them."""

    def __init__(self, folder: Path, seed: int) -> None:
        plan = make_plan(seed, ROWS)
        self.folder = folder
        self.files = write_dumps(plan, folder)
        self.records = to_records(plan)

    def of(self, source: str, *, whole: bool = True) -> list[Record]:
        """The source's records in order of file and line, without the broken ones if `whole`."""
        return [r for r in self.records if r.source == source and not (whole and r.plant == "bad_row")]

    def broken(self, source: str, param: str) -> int:
        return sum(r.plant == "bad_row" and r.param == param for r in self.of(source, whole=False))


@pytest.fixture(scope="module", params=[0, 20231])
def dumps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dumps]:
    yield Dumps(tmp_path_factory.mktemp("dumps"), request.param)


def read_headerless(path: Path, columns: int) -> tuple[pd.DataFrame, int, int]:
    """The whole rows of a headerless TSV by pandas, and how many rows have too few and too many fields."""
    frame = pd.read_csv(
        path,
        sep="\t",
        header=None,
        names=list(range(columns + 2)),
        dtype=object,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        na_values=[],
        engine="python",
    )
    is_short, is_long = frame[columns - 1].isna(), frame[columns].notna()
    return frame[~is_short & ~is_long], int(is_short.sum()), int(is_long.sum())


def test_same_plan_same_bytes(dumps: Dumps, tmp_path: Path) -> None:
    again = write_dumps(make_plan(0, ROWS), tmp_path / "a")
    other = write_dumps(make_plan(0, ROWS), tmp_path / "b")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in other]
    assert {p.relative_to(dumps.folder).parts[0] for p in dumps.files} == set(SOURCES)


def test_yfcc_core_table(dumps: Dumps) -> None:
    frame, short, long = read_headerless(dumps.folder / "yfcc" / "yfcc100m_dataset.tsv", 25)
    planned = dumps.of("yfcc")
    assert (short, long) == (dumps.broken("yfcc", "fields_missing"), dumps.broken("yfcc", "fields_extra"))
    assert frame[16].tolist() == [r.url for r in planned]
    assert frame[1].tolist() == [r.native_id for r in planned]
    assert frame[8].tolist() == [r.caption_fields["title"] for r in planned]
    assert frame[9].tolist() == [r.caption_fields["description"] for r in planned]
    assert frame[24].tolist() == ["1" if r.plant == "video" else "0" for r in planned]
    assert frame[18].str.startswith("http://creativecommons.org/licenses/").all()
    texts = (frame[8] + " " + frame[9]).map(unquote_plus)
    assert texts.str.contains("<a href=", regex=False).any()
    for text, record in zip(texts, planned, strict=True):
        if record.plant == "clean":
            assert record.true_name in text.lower()


@pytest.mark.parametrize(("source", "file"), [("cc12m", "cc12m.tsv"), ("shutterstock", "shutterstock.tsv")])
def test_address_and_caption_tables(dumps: Dumps, source: str, file: str) -> None:
    frame, short, long = read_headerless(dumps.folder / source / file, 2)
    planned = dumps.of(source)
    assert (short, long) == (dumps.broken(source, "fields_missing"), dumps.broken(source, "fields_extra"))
    assert frame[0].tolist() == [r.url for r in planned]
    assert frame[1].tolist() == [r.caption_fields["caption"] for r in planned]
    lines = (dumps.folder / source / file).read_text().split("\n")
    assert len(lines) - 1 == len(dumps.of(source, whole=False))


def test_laion_parquet(dumps: Dumps) -> None:
    planned = dumps.of("laion", whole=False)
    start = 0
    for path in (p for p in dumps.files if p.relative_to(dumps.folder).parts[0] == "laion"):
        table = pq.read_table(path)
        names = ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"]
        assert table.column_names == names
        part = planned[start : start + table.num_rows]
        assert table["URL"].to_pylist() == [r.url for r in part]
        assert table["TEXT"].to_pylist() == [r.caption_fields["TEXT"] for r in part]
        assert table["NSFW"].to_pylist() == [r.nsfw_declared for r in part]
        assert all(0.3 <= value < 1 for value in table["similarity"].to_pylist())
        start += table.num_rows
    assert start == len(planned)


def test_wit_tables(dumps: Dumps) -> None:
    whole = {(r.file, r.url): r for r in dumps.of("wit")}
    seen, multiline = 0, 0
    for path in (p for p in dumps.files if p.relative_to(dumps.folder).parts[0] == "wit"):
        with gzip.open(path, "rt", newline="") as stream:
            header, *rows = csv.reader(stream, delimiter="\t")
        assert tuple(header) == WIT_COLUMNS
        assert len(header) == 17
        for row in (r for r in rows if len(r) == 17):
            value = dict(zip(header, row, strict=True))
            record = whole[path.name, value["image_url"]]
            assert value["language"] == record.language_declared
            assert value["caption_reference_description"] == record.caption_fields["caption_reference_description"]
            assert value["mime_type"].startswith("image/")
            seen += 1
            multiline += "\n" in value["context_section_description"]
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, on_bad_lines="skip")
        assert frame.columns.tolist() == header
        assert len(frame) == sum(len(row) <= 17 for row in rows)
    assert seen == len(dumps.of("wit"))
    assert multiline > 0


def test_redcaps_annotations(dumps: Dumps) -> None:
    files = sorted((dumps.folder / "redcaps" / "annotations").glob("*.json"))
    shapes = set()
    planned = iter(dumps.of("redcaps", whole=False))
    for path in files:
        content = json.loads(path.read_text())
        shapes.add(type(content))
        annotations = content if isinstance(content, list) else content["annotations"]
        assert isinstance(content, list) or set(content["info"]) >= {"start_date", "end_date", "url", "version"}
        for annotation in annotations:
            record = next(planned)
            if record.plant == "bad_row":
                assert not isinstance(annotation, dict) or "url" not in annotation
                continue
            assert (annotation["url"], annotation["image_id"]) == (record.url, record.native_id)
            assert annotation["caption"] == record.caption_fields["caption"]
            assert annotation["caption"] is None or annotation["caption"].isascii()
            assert path.name.startswith(annotation["subreddit"])
    assert next(planned, None) is None
    assert shapes == {dict, list}
