"""Download over real HTTP on loopback: reasons, shards, resume, the same bytes again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from PIL import Image

from filters.errors import BudgetExceeded, InputError, ShardError
from filters.pixels import decode, pixel_hash
from filters.stored import Recipe, Stored, store
from pipelines import adopt, download, ingest
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD
from pipelines.store.shards import key_of, read_images
from pipelines.web.config import FetchConfig, HostLimit
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
    fast: dict[str, Any] = {"backoff": 0.01, "deadline": 2.0, "limit": HostLimit(rate=None), **fetch}
    return download.DownloadConfig(
        root=root.url,
        local=True,
        encode_format="png",
        max_failed_fraction=1.0,
        fetch=FetchConfig(resolve=server.resolve, **fast),
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


def test_too_many_failed_rows_are_exit_code_3(tmp_path: Path) -> None:
    """Every shard is done, and still: a machine that is offline must not pass for a source that is dead."""
    root = prepare(tmp_path)
    with picture_server({f"/{n}.png": [(404, {}, b"")] for n in range(7)}) as server:
        config = settings(root, server).model_copy(update={"max_failed_fraction": 0.5})
        with pytest.raises(BudgetExceeded, match=r"7 of 12 rows failed.*headwater failures"):
            download.run(config)
    assert len(rows_of(root)) == ROWS


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


def test_a_servers_own_words_cannot_break_a_shard(tmp_path: Path) -> None:
    """The reason phrase is bytes of the server's choice, and a table holds text."""
    root = prepare(tmp_path)
    with picture_server({"/0.png": [(404, {}, b"")]}) as server:
        server.phrase = "Nicht da \xff"
        summary = download.run(settings(root, server))
    assert summary["shards_failed"] == {}
    assert rows_of(root)[0]["error_message"] == "HTTP Error 404: Nicht da ?"


def test_shards_of_an_earlier_longer_ingest_are_refused_and_left_alone(tmp_path: Path) -> None:
    """They may be all that is left of pictures whose servers are gone, so they are for their owner to move."""
    with picture_server() as server:
        download.run(settings(prepare(tmp_path), server))
        root = prepare(tmp_path, per_shard=10)
        before = root.names("shards", "cc12m")
        with pytest.raises(InputError, match="1 shards, from 00002, are not of the present ingest"):
            download.run(settings(root, server))
    assert root.names("shards", "cc12m") == before


def test_adopted_tars_are_not_replaced(tmp_path: Path) -> None:
    """A source that was adopted, and has an ingest of the same name from elsewhere."""
    with picture_server() as server:
        theirs = prepare(tmp_path / "theirs")
        download.run(settings(theirs, server))
        root = Root(str(tmp_path / "root"))
        tars = str(theirs.local("shards", "cc12m"))
        adopt.run(adopt.AdoptConfig(root=root.url, tars=tars, source="cc12m", local=True))
        before = {path.name: path.read_bytes() for path in root.local("shards", "cc12m").glob("0*")}
        shutil.copytree(theirs.local("metadata"), root.local("metadata"))
        for config in (settings(root, server), settings(root, server).model_copy(update={"retry": ["timeout"]})):
            with pytest.raises(InputError, match="shards/cc12m: holds adopted tars"):
                download.run(config)
    assert {path.name: path.read_bytes() for path in root.local("shards", "cc12m").glob("0*")} == before
    assert root.local("shards", "cc12m", "00000.tar").is_symlink()


def test_an_unfinished_ingest_is_refused(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    root.remove("metadata", "cc12m", "00001.parquet")
    with pytest.raises(InputError, match="its ingest was not finished"):
        download.run(download.DownloadConfig(root=root.url, local=True))


def test_a_kill_between_tar_and_parquet_leaves_no_false_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
        smaller = settings(root, server).model_copy(update={"image_size": 16, "overwrite": True})
        monkeypatch.setattr(Root, "write_json", killed)
        assert len(download.run(smaller.model_copy(update={"max_failed_fraction": 1.0}))["shards_failed"]) == 3
        assert root.shards("shards") == []
        monkeypatch.undo()
        assert download.run(smaller)["shards_done"] == 3


def killed(*_: object) -> None:
    raise OSError("killed here")


def test_a_tar_cut_short_is_named(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
    table = root.read_table("shards", "cc12m", "00000.parquet")
    tar = root.local("shards", "cc12m", "00000.tar")
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"00000\.tar: is cut short"):
        read_images(root, table)


def test_a_redirect_into_a_private_network_is_a_failed_download(tmp_path: Path) -> None:
    """Found before any request, the same reason skips the row."""
    root = prepare(tmp_path)
    with picture_server() as server:
        server.faults["/8.png"] = [(302, {"Location": f"http://127.0.0.1:{server.server_address[1]}/1.png"}, b"")]
        download.run(settings(root, server))
    assert (rows_of(root)[8]["reason"], rows_of(root)[8]["status"]) == ("private_address", "failed_to_download")


def declare_hashes(root: Root, hashes: dict[int, str]) -> None:
    """As a dump that names the hashes of its pictures."""
    for name in root.names("metadata", "cc12m"):
        table, marks = root.read_table("metadata", "cc12m", name), root.parquet_metadata("metadata", "cc12m", name)
        numbers = [int(url.rsplit("/", 1)[1].split(".")[0]) for url in table["url"].to_pylist()]
        column = pa.array([hashes.get(number) for number in numbers], pa.string())
        index = table.column_names.index("hash_declared")
        root.write_table(table.set_column(index, "hash_declared", column), "metadata", "cc12m", name, metadata=marks)


def test_hashes_that_the_dump_names_are_compared(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    declare_hashes(root, {
        1: f"sha256:{hashlib.sha256(picture(1)).hexdigest()}", 2: f"md5:{hashlib.md5(picture(2)).hexdigest()}",
        3: f"sha256:{hashlib.sha256(picture(4)).hexdigest()}", 4: f"md5:{hashlib.md5(picture(3)).hexdigest()}",
    })  # fmt: skip
    with picture_server() as server:
        download.run(settings(root, server))
        reasons = {number: row["reason"] for number, row in rows_of(root).items()}
        assert reasons == {number: "hash_mismatch" if number in (3, 4) else "ok" for number in range(ROWS)}
        download.run(settings(root, server).model_copy(update={"verify_hash": False, "overwrite": True}))
        assert {row["reason"] for row in rows_of(root).values()} == {"ok"}


def test_known_error_pages_are_placeholders(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    known = f"sha256:{hashlib.sha256(picture(3)).hexdigest()}"
    with picture_server() as server:
        download.run(settings(root, server).model_copy(update={"placeholder_hashes": (known,)}))
    assert [number for number, row in rows_of(root).items() if row["reason"] == "placeholder"] == [3]


def deadly(data: bytes, recipe: Recipe, hash_declared: str | None) -> Stored:
    """A decoder that one picture kills, and that does not know what to do with another."""
    if data == picture(5):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == picture(6):
        raise ValueError("dimension over 65500")
    return store(data, recipe, hash_declared)


def test_a_decoder_that_dies_costs_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = prepare(tmp_path)
    monkeypatch.setattr(download, "store", deadly)
    with picture_server() as server:
        download.run(settings(root, server))
    rows = rows_of(root)
    assert {number: row["error_message"] for number, row in rows.items() if row["reason"] != "ok"} == {
        5: "decoder crashed: the process died (SIGSEGV)",
        6: "decoder crashed: ValueError: dimension over 65500",
    }
    assert {(rows[n]["reason"], rows[n]["status"]) for n in (5, 6)} == {("crash", "failed_to_resize")}


def test_a_picture_that_its_format_cannot_hold_says_so(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    long = io.BytesIO()
    Image.new("L", (16_384, 2)).save(long, "PNG")
    with picture_server({"/5.png": [(200, {}, long.getvalue())]}) as server:
        download.run(settings(root, server).model_copy(update={"encode_format": "webp", "resize_mode": "no"}))
    row = rows_of(root)[5]
    assert (row["status"], row["reason"]) == ("failed_to_resize", "too_many_pixels")
    assert row["error_message"] == "image area too large: a side of a stored webp has at most 16383 pixels"


def test_what_is_stored_makes_shards_anew_and_how_fast_does_not(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        config = settings(root, server)
        download.run(config)
        speed = {
            "processes": 2,
            "cpus": 1.0,
            "fetch": config.fetch.model_copy(update={"concurrency": 2, "deadline": 9.0}),
        }
        assert download.plan(config.model_copy(update=speed))["shards"] == []
        for changes in (
            {"resize_mode": "center_crop"}, {"exact_decode": True}, {"min_image_size": 8}, {"max_aspect_ratio": 2.0},
            {"verify_hash": False}, {"fetch": config.fetch.model_copy(update={"opt_out": ()})},
        ):  # fmt: skip
            with pytest.raises(InputError, match=r"made with other settings or from other rows \(3 such shards\)"):
                download.run(config.model_copy(update=changes))
            assert len(download.plan(config.model_copy(update={**changes, "overwrite": True}))["shards"]) == 3
        download.run(config.model_copy(update={"image_size": 32, "resize_mode": "center_crop", "overwrite": True}))
    assert {(row["width"], row["height"]) for row in rows_of(root).values()} == {(32, 32)}


def test_a_shard_that_waits_for_a_paused_host_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = prepare(tmp_path, rows=6, per_shard=6)
    monkeypatch.setattr(download, "QUIET", 0.4)
    pause = [(429, {"Retry-After": "2"}, b""), (200, {}, picture(0))]
    with picture_server({f"/{n}.png": list(pause) for n in range(6)}) as server:
        assert download.run(settings(root, server, deadline=9.0))["counts"] == {"success": 6}
    said = [line for line in capsys.readouterr().err.splitlines() if "under way" in line]
    assert len(said) >= 2
    assert re.fullmatch(
        r"download: 1 shard under way, 6 rows wait for their hosts, most for pictures\.test 6 \(paused for [12] s\)",
        said[0],
    )


def test_large_jobs_test_dns_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    root = prepare(tmp_path)
    asked: list[str] = []

    def check(hosts: list[str], _: FetchConfig) -> list[str]:
        asked.extend(hosts)
        return ["DNS: is slow"]

    monkeypatch.setattr(download, "check", check)
    with picture_server() as server:
        download.run(settings(root, server))
        assert asked == []
        again = {"self_test": ROWS, "image_size": 32, "overwrite": True}
        download.run(settings(root, server).model_copy(update=again))
    assert asked == ["pictures.test"]
    assert "download: DNS: is slow" in capsys.readouterr().err


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
