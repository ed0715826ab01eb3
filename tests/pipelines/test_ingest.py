"""Ingest: identity, rules, order, and one row out for each row in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from filters.errors import ConfigError
from pipelines.ingest import IngestConfig, canonical, is_fetchable, run, uid_of
from pipelines.sources import SOURCES
from pipelines.store.root import Root
from pipelines.store.schema import RAW
from tests.pipelines.chain import cc12m_dump


def raw(**changes: object) -> dict[str, object]:
    row = {
        "file": "f.tsv", "line": 0, "url": "http://a.test/1.jpg", "native_id": "", "license": None,
        "caption_raw": [("caption", "a dog")], "nsfw_declared": None, "language_declared": None, "reason": "ok",
    }  # fmt: skip
    return {**row, **changes}


def ingest(source: str, *records: dict[str, object]) -> list[dict[str, object]]:
    table = pa.Table.from_pylist(list(records), RAW.arrow)
    rows: list[dict[str, object]] = canonical(table, SOURCES[source], SOURCES[source].default_recipe).to_pylist()
    return rows


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
    uids = {canonical(table, SOURCES["yfcc"], recipe)["uid"][0].as_py() for recipe in SOURCES["yfcc"].recipes}
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


def test_d8_the_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 40)
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = IngestConfig(root=str(tmp_path / name), source="cc12m", metadata=str(dump), seed=seed)
        run(config)
        orders.append(Root(config.root).read_table("metadata", "cc12m", "00000.parquet")["uid"].to_pylist())
    assert orders[0] == orders[1] != orders[2]
