"""Ingest: identity, rules, and one row out for each row in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import ConfigError, InputError, SchemaError
from pipelines.canonical import canonical, is_fetchable
from pipelines.cli import main
from pipelines.identity import identified, uid_of
from pipelines.ingest import IngestConfig, plan, run
from pipelines.shuffle import Shuffle
from pipelines.sources import SOURCES
from pipelines.store.root import Root
from pipelines.store.schema import RAW
from tests.pipelines.chain import cc12m_dump
from tests.pipelines.source_dumps import annotation, laion_dump, raw, redcaps_dump, wit_dump, yfcc_dump, yfcc_line


def ingest(source: str, *records: dict[str, object]) -> list[dict[str, object]]:
    """The canonical rows of RAW records, in the order of their lines."""
    table = pa.Table.from_pylist(list(records), RAW.arrow)
    with Shuffle(source, 0, limit=1 << 20) as shuffle:
        shuffle.add(identified(table, source))
        tables = [canonical(part, SOURCES[source], SOURCES[source].default_recipe) for part in shuffle.tables()]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: int(row["line"]))


def test_uid_golden_values() -> None:
    """These may never change: mixtures and retries refer to samples by them."""
    assert uid_of("cc12m", "", "http://a.test/1.jpg", ["a dog"]) == "775c70817c2c82ceeec2d9a6842d9959"
    assert uid_of("yfcc", "17", "http://a.test/ü.jpg", ["", "t\x00"]) == "c280e34f2eea2aec9ce62b523cd56b6b"


def test_uid_lo_is_the_low_half() -> None:
    (row,) = ingest("cc12m", raw())
    assert row["uid_lo"] == int(str(row["uid"])[16:], 16)


def test_a_new_recipe_keeps_the_uid() -> None:
    table = pa.Table.from_pylist(
        [raw(caption_raw=[("title", "a"), ("description", "b"), ("usertags", "")])], RAW.arrow
    )
    rows = identified(table, "yfcc")
    uids = {canonical(rows, SOURCES["yfcc"], recipe)["uid"][0].as_py() for recipe in SOURCES["yfcc"].recipes}
    assert len(uids) == 1


def test_a_repeated_record_is_skipped_and_points_at_the_first() -> None:
    first, second, third = ingest("cc12m", raw(), raw(line=1), raw(line=2))
    assert first["reason"] == "ok"
    assert [row["reason"] for row in (second, third)] == ["duplicate_row"] * 2
    assert second["duplicate_row_of"] == third["duplicate_row_of"] == first["uid"]
    assert len({row["uid"] for row in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("source", "changes", "reason"),
    [
        ("cc12m", {}, "ok"),
        ("cc12m", {"reason": "bad_row", "url": None}, "bad_row"),
        ("yfcc", {"reason": "video"}, "video"),
        ("cc12m", {"url": "ftp://a.test/1.jpg"}, "bad_url"),
        ("cc12m", {"url": "http://user:secret@a.test/1.jpg"}, "bad_url"),
        ("cc12m", {"caption_raw": [("caption", None)]}, "no_caption"),
        ("cc12m", {"caption_raw": [("caption", "  ")]}, "no_caption"),
        ("laion", {"caption_raw": [("TEXT", "x")], "nsfw_declared": "UNLIKELY"}, "ok"),
        ("laion", {"caption_raw": [("TEXT", "x")], "nsfw_declared": "UNSURE"}, "nsfw_declared"),
        ("laion", {"caption_raw": [("TEXT", "x")], "nsfw_declared": None}, "nsfw_declared"),
        ("wit", {"caption_raw": [("caption_reference_description", "x")], "language_declared": "de"},
         "language_declared"),
    ],
)  # fmt: skip
def test_rules(source: str, changes: dict[str, object], reason: str) -> None:
    (row,) = ingest(source, raw(**changes))
    assert row["reason"] == reason


@pytest.mark.parametrize("url", ["", None, "http://", "javascript:1", "http://[::1", "//a/b", "http:///x"])
def test_unusable_urls(url: str | None) -> None:
    assert not is_fetchable(url)


def test_shards_hold_every_row_once_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 25)
    config = IngestConfig(root=str(tmp_path / "root"), source="cc12m", metadata=str(dump), samples_per_shard=10)
    assert run(config)["shards_done"] == 3
    root = Root(config.root)
    shards = [root.read_table("metadata", "cc12m", f"{n:05d}.parquet") for n in range(3)]
    assert [shard.num_rows for shard in shards] == [10, 10, 5]
    lines = pa.concat_tables(shards)["line"].to_pylist()
    assert sorted(lines) == list(range(25))
    assert lines != sorted(lines)
    before = [root.read_bytes("metadata", "cc12m", f"{n:05d}.parquet") for n in range(3)]
    assert run(config)["shards_skipped"] == 3
    assert before == [root.read_bytes("metadata", "cc12m", f"{n:05d}.parquet") for n in range(3)]


def test_a_changed_dump_is_ingested_again(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 5)
    config = IngestConfig(root=str(tmp_path / "root"), source="cc12m", metadata=str(dump))
    run(config)
    cc12m_dump(tmp_path, 6)
    assert run(config)["rows_in"] == 6


def test_fewer_shards_leave_none_of_the_earlier_behind(tmp_path: Path) -> None:
    dump, root = cc12m_dump(tmp_path, 25), str(tmp_path / "root")
    for per_shard, shards in ((5, 5), (20, 2)):
        config = IngestConfig(root=root, source="cc12m", metadata=str(dump), samples_per_shard=per_shard)
        assert run(config)["shards_done"] == shards
        assert len(Root(root).names("metadata", "cc12m")) == shards
        assert run(config)["shards_skipped"] == shards


def test_too_few_digits_are_refused(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 11)
    with pytest.raises(ConfigError, match="11 shards do not fit shard_digits=1"):
        run(IngestConfig(
            root=str(tmp_path / "root"), source="cc12m", metadata=str(dump), samples_per_shard=1, shard_digits=1
        ))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(), st.lists(st.tuples(st.text(max_size=3), st.none() | st.text()), max_size=3))
def test_uids_of_whole_columns_are_those_of_single_rows(
    native_id: str, url: str, fields: list[tuple[str, str | None]]
) -> None:
    row = raw(native_id=native_id, url=url, caption_raw=fields)
    try:
        table = pa.Table.from_pylist([raw(), row, raw(caption_raw=None)], RAW.arrow)
    except UnicodeEncodeError:
        return  # a lone surrogate: no reader lets one through
    found = identified(table.slice(1), "s")
    assert found["uid_hi"][0].as_py() << 64 | found["uid_lo"][0].as_py() == int(
        uid_of("s", native_id, url, [text or "" for _, text in fields]), 16
    )
    assert f"{found['uid_lo'][1].as_py():016x}" == uid_of("s", "", "http://a.test/1.jpg", [])[16:]


def test_files_globs_lists_and_urls(tmp_path: Path) -> None:
    for name in ("a.tsv", "b.tsv", "c.txt"):
        (tmp_path / name).write_text(f"http://{name}/1.jpg\tone\n")

    def files(metadata: str | list[str]) -> list[str]:
        return list(plan(IngestConfig(root="r", source="cc12m", metadata=metadata))["files"])

    here = str(tmp_path)
    assert files(here) == files(f"{here}/*.tsv") == files(f"file://{here}/?.tsv") == ["a.tsv", "b.tsv"]
    assert files(f"{here}/c.txt") == ["c.txt"]
    assert files([f"{here}/c.txt", f"{here}/a*"]) == ["a.tsv", "c.txt"]
    with pytest.raises(InputError, match=r"x\*: no file has a name like this"):
        files(f"{here}/x*")


def test_declared_tags_to_keep_may_be_told(tmp_path: Path) -> None:
    tags = ["UNLIKELY", "UNSURE", "NSFW", None]
    laion_dump(
        tmp_path,
        URL=pa.array([f"http://a/{n}" for n in range(4)]),
        TEXT=pa.array(["t"] * 4),
        NSFW=pa.array(tags),
        LANGUAGE=pa.array(["en", "en", "de", None]),
    )

    def counts(**rules: Any) -> dict[str, int]:
        config = IngestConfig(root=str(tmp_path / "root"), source="laion", metadata=str(tmp_path), **rules)
        return dict(run(config)["counts"])

    assert counts() == {"nsfw_declared": 3, "ok": 1}
    assert counts(allowed_nsfw=["UNLIKELY", "UNSURE"]) == {"nsfw_declared": 2, "ok": 2}
    assert counts(allowed_nsfw=[]) == {"ok": 4}
    assert counts(allowed_nsfw=[], allowed_languages=["en"]) == {"language_declared": 2, "ok": 2}


def test_hashes_may_be_listed_beside_the_dump(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 6)
    lines = [f"http://pictures.test/{n}.png\t{n:064X}\t{n:032x}\n" for n in (4, 1, 99)]
    side = tmp_path / "hashes.tsv"
    side.write_text("url\tsha256\tmd5\n" + "".join(lines))
    config = IngestConfig(root=str(tmp_path / "root"), source="cc12m", metadata=str(dump), hashes=str(side))
    run(config)
    root = Root(config.root)

    def declared() -> dict[str, str]:
        found = root.read_table("metadata", "cc12m", "00000.parquet").to_pylist()
        return {row["url"][21:]: row["hash_declared"] for row in found if row["hash_declared"]}

    assert declared() == {"1.png": f"sha256:{1:064x}", "4.png": f"sha256:{4:064x}"}
    side.write_text(f"http://pictures.test/2.png\t{2:032x}\n")
    assert run(config)["shards_done"] == 1
    assert declared() == {"2.png": f"md5:{2:032x}"}
    side.write_text("http://pictures.test/2.png\tnot a hash\n")
    with pytest.raises(InputError, match=r"none\.tsv: no such file or folder; check --hashes"):
        run(config.model_copy(update={"hashes": str(tmp_path / "none.tsv")}))
    with pytest.raises(InputError, match=r"none\*: no file has a name like this; check --hashes"):
        run(config.model_copy(update={"hashes": str(tmp_path / "none*")}))
    with pytest.raises(SchemaError, match=r"hashes\.tsv: has no line with an address and its SHA-256 or MD5"):
        run(config)


DUMPS: dict[str, Callable[[Path], object]] = {
    "yfcc": lambda folder: yfcc_dump(folder, yfcc_line(0, "a", "b"), "broken"),
    "laion": lambda folder: laion_dump(
        folder, URL=pa.array(["http://a/1", None]), TEXT=pa.array(["a", "b"]), NSFW=pa.array(["UNLIKELY"] * 2)
    ),
    "cc12m": lambda folder: (folder / "cc12m.tsv").write_text("http://a/1\tone\nbroken\n"),
    "wit": lambda folder: wit_dump(
        folder,
        {"language": "en", "image_url": "http://a/1", "caption_reference_description": "c"},
        {"language": "en"},
    ),
    "redcaps": lambda folder: redcaps_dump(folder, [annotation(1), 7]),
    "shutterstock": lambda folder: (folder / "s.csv").write_text("http://a/1,one\nbroken\n"),
    "table": lambda folder: (folder / "t.jsonl").write_text('{"url": "http://a/1", "text": "one"}\nbroken\n'),
    "datacomp": lambda folder: laion_dump(
        folder, uid=pa.array(["0" * 32, "broken"]), url=pa.array(["http://a/1"] * 2), text=pa.array(["a", "b"])
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_reader_from_the_command_line(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of plain files, then a glob of compressed ones, where the format has not its own compression."""
    dump = tmp_path / "dump"
    dump.mkdir()
    DUMPS[source](dump)
    for number, metadata in enumerate((str(dump), f"{dump}/*")):
        arguments = ["ingest", "--root", str(tmp_path / f"root{number}"), "--source", source, "--metadata", metadata]
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["counts"] == {"bad_row": 1, "ok": 1}
        assert f"ingest: {source}: 2 rows: 1 bad_row, 1 ok" in printed.err
        (file,) = dump.iterdir()
        if file.suffix not in (".gz", ".parquet"):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()


def test_what_was_adopted_is_not_ingested_over(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    root.write_bytes(b"", "adopted", "cc12m", "00000.parquet")
    with pytest.raises(InputError, match="adopted/cc12m: was adopted; ingest under another --source"):
        run(IngestConfig(root=root.url, source="cc12m", metadata=str(cc12m_dump(tmp_path, 2))))


def test_a_table_from_the_command_line_with_its_columns_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.csv").write_text("link,words\nhttp://a/1,one\n")
    arguments = ["ingest", "--root", str(tmp_path / "root"), "--source", "mine", "--reader", "table"]
    arguments += ["--metadata", f"{tmp_path}/*.csv", "--set", "table.url=link"]
    assert main([*arguments, "--set", "table.captions=[words]", "--recipe", "joined"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"ok": 1}
    assert main([*arguments, "--set", "table.caption=words"]) == 2
    assert "unknown key 'table.caption'; did you mean 'captions'?" in capsys.readouterr().err
