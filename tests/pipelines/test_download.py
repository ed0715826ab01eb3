"""Download over real HTTP on loopback: reasons, shards, resume, the same bytes again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from filters.pixels import decode, pixel_hash
from pipelines import download, ingest
from pipelines.fetch import FetchConfig, is_opted_out
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD
from pipelines.store.shards import key_of, read_images
from tests.pipelines.chain import cc12m_dump, picture, picture_server

ROWS = 12


def prepare(folder: Path, rows: int = ROWS, per_shard: int = 5) -> Root:
    root = folder / "root"
    ingest.run(
        ingest.IngestConfig(
            root=str(root), source="cc12m", metadata=str(cc12m_dump(folder, rows)), samples_per_shard=per_shard
        )
    )
    return Root(str(root))


def settings(root: Root, server: Any, **fetch: Any) -> download.DownloadConfig:
    fast: dict[str, Any] = {"backoff": 0.01, "deadline": 2.0, **fetch}
    return download.DownloadConfig(
        root=root.url, local=True, encode_format="png", fetch=FetchConfig(resolve=server.resolve, **fast)
    )


def rows_of(root: Root) -> dict[int, dict[str, Any]]:
    """The shard rows by the number in their URL."""
    tables = [root.read_table("shards", s.source, f"{s.number}.parquet") for s in root.shards("shards")]
    rows = [row for table in tables for row in table.to_pylist()]
    return {int(str(row["url"]).rsplit("/", 1)[1].split(".")[0]): row for row in rows}


FAULTS: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
    "/0.png": [(404, {}, b"")],
    "/1.png": [(410, {}, b"")],
    "/2.png": [(503, {}, b""), (200, {}, picture(2))],
    "/3.png": [(503, {}, b"")],
    "/4.png": [(429, {"Retry-After": "0"}, b""), (200, {}, picture(4))],
    "/5.png": [(200, {"X-Robots-Tag": "noai"}, picture(5))],
    "/6.png": [(200, {}, b"<html>not a picture</html>")],
    "/7.png": [(200, {}, picture(7)[:60])],
    "/8.png": [(302, {"Location": "/80.png"}, b"")],
    "/9.png": [(302, {"Location": "/9.png"}, b"")],
    "/10.png": [(403, {}, b"")],
}
REASONS = {
    0: "http_404", 1: "http_410", 2: "ok", 3: "http_5xx", 4: "ok", 5: "opt_out", 6: "decode", 7: "decode", 8: "ok",
    9: "redirects", 10: "http_4xx", 11: "ok",
}  # fmt: skip


def test_every_row_has_its_reason_and_every_reason_its_status(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server({path: list(answers) for path, answers in FAULTS.items()}) as server:
        summary = download.run(settings(root, server))
    rows = rows_of(root)
    assert {number: row["reason"] for number, row in rows.items()} == REASONS
    assert summary["rows_in"] == ROWS == sum(summary["counts"].values())
    assert all((row["status"] == "success") == (row["reason"] == "ok") for row in rows.values())
    assert rows[0]["error_message"] == "HTTP Error 404: Not Found"
    assert server.seen.count("/0.png") == server.seen.count("/5.png") == 1
    assert server.seen.count("/3.png") == 3


def test_stored_bytes_are_found_by_offset_and_by_tarfile(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
    for shard in root.shards("shards"):
        table = root.read_table("shards", shard.source, f"{shard.number}.parquet")
        assert table.schema.equals(SHARD.arrow)
        images = read_images(root, table)
        with tarfile.open(root.path("shards", shard.source, f"{shard.number}.tar")) as tar:
            names = tar.getnames()
            for row, image in zip(table.to_pylist(), images, strict=True):
                member = tar.extractfile(f"{row['key']}.png")
                assert member is not None
                assert member.read() == image
                assert pixel_hash(decode(image, max_pixels=10**6).rgb) == row["pixel_hash"]
                facts = json.load(tar.extractfile(f"{row['key']}.json"))  # type: ignore[arg-type]
                assert facts["uid"] == row["uid"]
        keys = [name.split(".")[0] for name in names]
        assert keys == sorted(keys)


def test_counts_file_is_img2datasets(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server({"/0.png": [(404, {}, b"")]}) as server:
        download.run(settings(root, server))
    stats = [root.read_json("shards", "cc12m", name) for name in root.names("shards", "cc12m", suffix="_stats.json")]
    assert sum(s["count"] for s in stats) == ROWS
    assert sum(s["successes"] for s in stats) == ROWS - 1
    assert sum(s["status_dict"].get("HTTP Error 404: Not Found", 0) for s in stats) == 1
    assert set(root.names("shards", "cc12m", suffix=".json")) == {f"{n:05d}_stats.json" for n in range(3)}


def test_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        root = prepare(tmp_path / name)
        with picture_server({"/0.png": [(404, {}, b"")]}) as server:
            download.run(settings(root, server, concurrency=1 if name == "a" else 8))
        names = [n for n in root.names("shards", "cc12m") if not n.endswith("_stats.json")]
        found.append({n: root.read_bytes("shards", "cc12m", n) for n in names})
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_a_second_run_asks_for_nothing_and_a_lost_shard_is_made_again(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
        asked = len(server.seen)
        assert download.run(settings(root, server))["shards_skipped"] == 3
        assert len(server.seen) == asked
        before = root.read_bytes("shards", "cc12m", "00001.tar")
        root.local("shards", "cc12m", "00001.parquet").unlink()
        assert download.run(settings(root, server))["shards_done"] == 1
    assert root.read_bytes("shards", "cc12m", "00001.tar") == before


def test_a_broken_metadata_file_does_not_take_its_neighbours(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    victim = root.local("metadata", "cc12m", "00001.parquet")
    victim.write_bytes(victim.read_bytes()[:-20])
    with picture_server() as server:
        summary = download.run(settings(root, server))
    assert summary["shards_done"] == 2
    assert list(summary["shards_failed"]) == ["cc12m/00001"]
    assert "00001.parquet: cannot be read" in summary["shards_failed"]["cc12m/00001"]


def test_private_addresses_are_refused_without_an_override(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 1, host="localhost")
    root = Root(str(tmp_path / "root"))
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump)))
    download.run(download.DownloadConfig(root=root.url, local=True))
    assert rows_of(root)[0]["reason"] == "private_address"


@pytest.mark.parametrize(
    ("headers", "out"),
    [
        (["noai"], True),
        (["NoAI, nofollow"], True),
        (["somebot: noindex"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["nofollow", "noimageai"], True),
        (["nofollow"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        ([], False),
    ],
)
def test_opt_out_headers(headers: list[str], out: bool) -> None:
    assert is_opted_out(headers, FetchConfig().opt_out) is out


def test_keys_are_img2datasets() -> None:
    """Its documented forms: 9 digits for 10000 rows and 5 digits a shard, 12 with 8."""
    assert key_of(ShardId("x", "00002"), 17, 10_000) == "000020017"
    assert key_of(ShardId("x", "00000002"), 17, 10_000) == "000000020017"
    assert key_of(ShardId("x", "00000003"), 4, 10) == "000000034"


def test_duckdb_reads_the_shards(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
    with duckdb.connect() as con:
        rows = con.execute("SELECT count(*) FROM read_parquet(?)", [root.path("shards", "*", "*.parquet")]).fetchone()
    assert rows == (ROWS,)
