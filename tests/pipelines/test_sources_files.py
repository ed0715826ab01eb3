"""Dump files of every packing, files that are not what they should be, and properties of reading any text."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import ConfigError, InputError, SchemaError
from pipelines.sources import SOURCES
from pipelines.sources import files as dump_files
from pipelines.sources import rows as raw_tables
from pipelines.sources.files import chosen_files, find_files, plain_name
from tests.pipelines.source_dumps import (
    WIT_HEADER,
    annotation,
    captions,
    laion_dump,
    read,
    rows,
    wit_dump,
    yfcc_dump,
    yfcc_line,
)

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_compressed_files_read_as_plain_ones(tmp_path: Path, suffix: str) -> None:
    tsv = "".join(f"http://a/{n}\tcaption é {n}\n" for n in range(50)).encode()
    file = tmp_path / f"cc12m.tsv{suffix}"
    file.write_bytes(PACKERS[suffix](tsv))
    assert captions("cc12m", file) == [[f"caption é {n}"] for n in range(50)]
    redcaps = tmp_path / f"a_2010.json{suffix}"
    redcaps.write_bytes(PACKERS[suffix](json.dumps({"info": {}, "annotations": [annotation(1)]}).encode()))
    assert len(rows("redcaps", redcaps)) == 1
    assert find_files(tmp_path, SOURCES["cc12m"].patterns) == [str(file)]


@pytest.mark.parametrize("suffix", list(PACKERS)[1:])
def test_compressed_files_of_several_members_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"cc12m.tsv{suffix}"
    file.write_bytes(PACKERS[suffix](b"http://a/1\tone\n") + PACKERS[suffix](b"http://a/2\ttwo\n"))
    assert captions("cc12m", file) == [["one"], ["two"]]


def test_fsspec_urls_and_equal_names_in_two_folders(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "cc12m.tsv").write_text(f"http://a/1\tin {folder}\n")
    urls = [f"file://{tmp_path}/{folder}/cc12m.tsv" for folder in ("b", "a")]
    assert [(row["file"], row["caption_raw"]["caption"]) for row in rows("cc12m", *urls)] == [
        ("a/cc12m.tsv", "in a"),
        ("b/cc12m.tsv", "in b"),
    ]


def test_files_in_an_archive_are_found_and_named_without_it(tmp_path: Path) -> None:
    """RedCaps is published as a ZIP."""
    archive = tmp_path / "redcaps.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("b_2016", "a_2016"):
            file.writestr(f"annotations/{name}.json", json.dumps([{**annotation(1), "image_id": name}]))
    for metadata in (f"zip://annotations/*.json::{archive}", f"zip://::{archive}"):
        found = rows("redcaps", *chosen_files(metadata, SOURCES["redcaps"].patterns))
        assert [(row["file"], row["native_id"]) for row in found] == [
            ("a_2016.json", "a_2016"),
            ("b_2016.json", "b_2016"),
        ]
    copy = archive.rename(tmp_path / "copy.zip")
    archive.write_bytes(copy.read_bytes())
    both = chosen_files([f"zip://*/a*::{tmp_path}/{name}.zip" for name in ("redcaps", "copy")], ())
    assert len({row["file"] for row in rows("redcaps", *both)}) == 2


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/data/a?.tsv.gz", "/data/a?.tsv.gz"),
        ("https://host.test/a.tsv.gz?download=1", "https://host.test/a.tsv.gz"),
        ("zip://a.tsv.gz::https://host.test/b.zip?x", "zip://a.tsv.gz"),
        ("simplecache::s3://bucket/a.tsv.gz", "s3://bucket/a.tsv.gz"),
    ],
)
def test_the_name_of_a_file_tells_how_it_is_packed(file: str, name: str) -> None:
    assert plain_name(file) == name


def test_small_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [yfcc_line(n, f"t{n}", "d" * (n % 7)) if n % 5 else "broken" for n in range(60)]
    file = yfcc_dump(tmp_path, *lines)
    whole = read("yfcc", file)
    monkeypatch.setattr(dump_files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(raw_tables, "BATCH_ROWS", 7)
    monkeypatch.setattr(raw_tables, "SNIFF_ROWS", 99)
    assert read("yfcc", file).equals(whole)
    assert whole["line"].to_pylist() == list(range(60))


def test_byte_order_mark_is_no_part_of_the_address(tmp_path: Path) -> None:
    file = tmp_path / "cc12m.tsv"
    file.write_bytes(b"\xef\xbb\xbfhttp://a/1\tone\n")
    assert rows("cc12m", file)[0]["url"] == "http://a/1"


@pytest.mark.parametrize("source", ["cc12m", "yfcc", "shutterstock"])
def test_an_empty_file_has_no_records(tmp_path: Path, source: str) -> None:
    (tmp_path / "e.tsv").write_bytes(b"")
    assert len(read(source, tmp_path / "e.tsv")) == 0


def test_files_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    two_columns = tmp_path / "list.tsv"
    two_columns.write_text("http://a/1\ta\n" * 20)
    with pytest.raises(SchemaError, match=r"list\.tsv: none of its first 20 records has 25 tab separated fields"):
        read("yfcc", two_columns)
    with pytest.raises(SchemaError, match=r"list\.tsv: its header has no column language, image_url"):
        read("wit", two_columns)
    with pytest.raises(SchemaError, match=r"part\.parquet: no column NSFW; it has URL, TEXT"):
        read("laion", laion_dump(tmp_path, "part.parquet", URL=pa.array(["u"]), TEXT=pa.array(["t"])))
    (tmp_path / "sizes.json").write_text('{"shard_000000.tar": 990}')
    with pytest.raises(SchemaError, match=r"sizes\.json: neither a list nor an object"):
        read("redcaps", tmp_path / "sizes.json")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read"):
        read("laion", tmp_path / "x.parquet")
    whole = gzip.compress("".join(f"http://a/{n}\t{n * 7919}\n" for n in range(5000)).encode())
    (tmp_path / "cut.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.tsv\.gz: cannot be read"):
        read("cc12m", tmp_path / "cut.tsv.gz")
    with pytest.raises(InputError, match=r"gone\.tsv: cannot be read"):
        read("cc12m", tmp_path / "gone.tsv")
    (tmp_path / "cut.json").write_text(json.dumps({"annotations": [annotation(1), annotation(2)]})[:-40])
    with pytest.raises(InputError, match=r"cut\.json: not JSON"):
        read("redcaps", tmp_path / "cut.json")
    with pytest.raises(InputError, match="no file for --metadata here; expected one of"):
        find_files(tmp_path, ["*.nothing"])


def test_unknown_recipe_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("http://a/1\tone\n")
    with pytest.raises(ConfigError, match="cc12m: no caption recipe 'title'; its recipes are caption"):
        captions("cc12m", tmp_path / "c.tsv", "title")


FIELD = st.text(st.characters(exclude_characters="\t\n", exclude_categories=["Cs"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), max_size=30))
def test_tab_separated_text_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "round.tsv"
    file.write_bytes("".join(f"u{url}\t{caption}.\n" for url, caption in pairs).encode())
    read_rows = rows("cc12m", file)
    assert [(row["url"], row["caption_raw"].get("caption")) for row in read_rows] == [
        (f"u{u}", f"{c}.") for u, c in pairs
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=9))
@pytest.mark.parametrize("source", ["cc12m", "yfcc"])
def test_one_row_for_every_line_of_anything(
    tmp_path_factory: pytest.TempPathFactory, source: str, lines: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.tsv"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    assert len(rows(source, file)) == len(lines)


# no carriage returns: Python's own writer puts a lone one outside quotes
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXT.map(lambda text: text.replace("\n", "")), TEXT), max_size=20))
def test_quoted_text_with_line_ends_comes_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    records = ({"image_url": f"u{u}", WIT_HEADER[6]: caption, WIT_HEADER[16]: caption} for u, caption in pairs)
    file = wit_dump(tmp_path_factory.getbasetemp(), *records)
    assert [row["caption_raw"][WIT_HEADER[6]] for row in rows("wit", file)] == [caption for _, caption in pairs]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.text('ab", '), min_size=14, max_size=14), max_size=8))
def test_wit_written_without_quoting_keeps_its_records(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]]
) -> None:
    lines = [["en", "p", f"http://u/{n}", *cells] for n, cells in enumerate(texts)]
    file = tmp_path_factory.getbasetemp() / "lone.tsv"
    file.write_text("".join("\t".join(line) + "\n" for line in [WIT_HEADER, *lines]))
    assert [row["url"] for row in rows("wit", file)] == [line[2] for line in lines]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20).map(lambda line: b"a," + line.replace(b"\t", b"")), min_size=1, max_size=9))
def test_comma_separated_anything_is_read_to_its_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(b"".join(line + b"\n" for line in [*lines, b"http://last,caption"]))
    assert rows("shutterstock", file)[-1]["url"] == "http://last"


def test_redcaps_with_a_byte_that_is_not_utf8_is_one_readable_line(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'[{"url": "\xff"}]')
    with pytest.raises(InputError, match=r"not JSON \(lexical error: invalid bytes in UTF8 string"):
        list(SOURCES["redcaps"].read([file]))
