"""Tars that were there already, through to a mixture: img2dataset's own, resharded, the study's, and damaged ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.errors import BudgetExceeded, ConfigError, InputError
from filters.pixels import decode, phash, pixel_hash
from pipelines import adopt, build_mix, dedupe, download, index, score
from pipelines.adopted.publish import publish
from pipelines.adopted.stage import DAMAGE, Stager
from pipelines.identity import uid_of
from pipelines.retry import plan_retry
from pipelines.sql import explain
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.store.schema import SHARD
from pipelines.store.shards import read_images
from tests.pipelines import adoptable
from tests.pipelines.adoptable import as_json, image, resharded, study, uid, write_tar
from tests.pipelines.chain import picture_server
from trainer.dataset import MixtureDataset

LISTED = 23
GONE, BROKEN, OPTED_OUT, SILENT = 3, 4, 5, 22  # SILENT has no caption
FAULTS: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
    f"/{GONE}.png": [(404, {}, b"")],
    f"/{BROKEN}.png": [(200, {}, b"no picture")],
    f"/{OPTED_OUT}.png": [(200, {"X-Robots-Tag": "noai"}, b"")],
}
RESHARDED = [[1, 2, 2, 3], [3, 4, 5]]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders: `img2dataset` (its real output), `resharded` and `study`."""
    folder = tmp_path_factory.mktemp("others")
    with picture_server(FAULTS) as server:
        here = f"http://127.0.0.1:{server.server_address[1]}"
        table = pa.table({
            "url": [f"{here}/{number}.png" for number in range(LISTED)],
            "caption": [f"number {number}" if number != SILENT else None for number in range(LISTED)],
            "similarity": pa.array(np.arange(LISTED) / 64, pa.float32()),
            "NSFW": ["UNLIKELY"] * LISTED,
        })  # fmt: skip
        pq.write_table(table, folder / "listed.parquet")
        adoptable.img2dataset(folder / "listed.parquet", folder / "img2dataset")
    resharded(folder / "resharded", RESHARDED)
    study(folder / "study")
    return folder


@pytest.fixture(scope="module")
def root(others: Path, tiny_model: Path) -> Iterator[Root]:
    """All three adopted into one root, scored, deduplicated and indexed."""
    root = Root(str(others / "root"))
    before = _contents(others)
    for name in SOURCES:
        adopt.run(settings(root, others / name, name))
    assert {path: data for path, data in _contents(others).items() if root.url not in path} == before
    score.run(score.ScoreConfig(root=root.url, local=True, model=str(tiny_model)))
    dedupe.run(dedupe.DedupeConfig(root=root.url))
    index.run(index.IndexConfig(root=root.url))
    yield root


SOURCES = ("img2dataset", "resharded", "study")


def settings(root: Root, tars: Path | str, source: str = "mine", **fields: Any) -> adopt.AdoptConfig:
    values = {"root": root.url, "local": True, "tars": str(tars), "source": source, **fields}
    return adopt.AdoptConfig.model_validate(values)


def rows_of(root: Root, source: str = "mine") -> list[dict[str, Any]]:
    """The rows of a source's shards, in their order."""
    names = root.names("shards", source, suffix=".parquet")
    return [row for name in names for row in root.read_table("shards", source, name).to_pylist()]


def _contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def number_of(row: dict[str, Any]) -> int:
    return int(row["url"].rsplit("/", 1)[1].removesuffix(".png"))


def test_img2datasets_rows_are_all_there_with_their_reasons(root: Root) -> None:
    rows = {number_of(row): row for row in rows_of(root, "img2dataset")}
    failed = {GONE: "http_404", BROKEN: "decode", OPTED_OUT: "opt_out", SILENT: "no_caption"}
    assert {number: row["reason"] for number, row in rows.items()} == {n: failed.get(n, "ok") for n in range(LISTED)}
    assert rows[GONE]["status"] == rows[OPTED_OUT]["status"] == "failed_to_download"
    assert rows[GONE]["error_message"] == "HTTP Error 404: Not Found"
    assert rows[BROKEN]["status"] == "failed_to_resize"
    for number, row in rows.items():
        assert row["uid"] == uid_of("img2dataset", "", row["url"], [row["caption"] or ""])
        assert row["scores_declared"] == [("similarity", number / 64)]
        assert row["nsfw_declared"] == "UNLIKELY"
        if row["reason"] == "ok":
            assert (row["width"], row["original_width"], row["caption"]) == (32, 48, f"number {number}")


def test_img2datasets_own_columns_agree_with_its_parquet(root: Root, others: Path) -> None:
    theirs = pa.concat_tables([pq.read_table(path) for path in sorted((others / "img2dataset").glob("*.parquet"))])
    listed = {row["key"]: row for row in theirs.to_pylist()}
    same = ("url", "caption", "width", "height", "original_width", "original_height", "exif", "sha256")
    for row in rows_of(root, "img2dataset"):
        for name in same:
            assert row[name] == listed[row["key"]][name], name
        if row["reason"] != "no_caption":
            assert (row["status"], row["error_message"]) == tuple(
                listed[row["key"]][name] for name in ("status", "error_message")
            )
    counts = [json.loads(path.read_text()) for path in sorted((others / "img2dataset").glob("*_stats.json"))]
    ours = [root.read_json("shards", "img2dataset", f"{number:05d}_stats.json") for number in range(3)]
    for name in ("count", "failed_to_download", "failed_to_resize"):
        assert [c[name] for c in ours] == [c[name] for c in counts]


def test_resharded_samples_keep_their_uids_and_repetitions_point_at_the_first(root: Root) -> None:
    rows = rows_of(root, "resharded")
    assert [row["reason"] for row in rows] == ["ok", "ok", "duplicate_row", "ok", "duplicate_row", "ok", "ok"]
    assert [row["uid"] for row in rows if row["reason"] == "ok"] == [uid(n) for n in (1, 2, 3, 4, 5)]
    again = [row for row in rows if row["reason"] == "duplicate_row"]
    assert [row["duplicate_row_of"] for row in again] == [uid(2), uid(3)]
    assert [row["uid"] for row in again] == [
        uid_of("resharded", "00000000.tar", "2", ()), uid_of("resharded", "00000001.tar", "0", ()),
    ]  # fmt: skip
    assert {row["status"] for row in again} == {"skipped"}
    assert rows[0]["mime"] == "image/webp"
    assert rows[0]["scores_declared"] == [("clip_l14_similarity_score", 1 / 64)]
    assert rows[0]["original_width"] == 400


def test_the_studys_samples_are_known_by_their_uuids(root: Root) -> None:
    rows = rows_of(root, "study")
    assert len(rows) == 12
    assert {row["shard"] for row in rows} == {"000000", "000001"}
    for number, row in enumerate(rows):
        assert row["uid"] == uid_of("study", row["key"], "", [f"a picture of number {number}"])
        assert row["sha256"] == hashlib.sha256(image(number)).hexdigest()


@pytest.mark.parametrize("source", SOURCES)
def test_offsets_lead_to_the_tars_own_bytes(root: Root, others: Path, source: str) -> None:
    for shard in [shard for shard in root.shards("shards") if shard.source == source]:
        table = root.read_table("shards", source, f"{shard.number}.parquet")
        assert table.schema.equals(SHARD.arrow)
        link = root.local("shards", source, f"{shard.number}.tar")
        assert link.is_symlink() and link.resolve().parent == others / source
        stored = [row for row in table.to_pylist() if row["offset"] is not None]
        with tarfile.open(link) as tar:
            files = {m.offset_data: (m.name, tar.extractfile(m)) for m in tar.getmembers()}
        with tarfile.open(link) as tar:
            wanted = {m.offset_data: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        found = read_images(root, pa.Table.from_pylist(stored, SHARD.arrow))
        for row, data in zip(stored, found, strict=True):
            assert data == wanted[row["offset"]]
            assert files[row["offset"]][0].rsplit(".", 1)[0] == row["key"]
            pixels = decode(data, max_pixels=10**6).rgb
            assert (row["phash"], row["pixel_hash"]) == (phash(pixels), pixel_hash(pixels))
            assert (row["height"], row["width"]) == pixels.shape[:2]


def test_every_later_stage_takes_them_through_to_a_mixture(root: Root, others: Path) -> None:
    successes = {source: sum(r["status"] == "success" for r in rows_of(root, source)) for source in SOURCES}
    assert successes == {"img2dataset": LISTED - 4, "resharded": 5, "study": 12}
    with connect(root) as con:
        query = "SELECT source::VARCHAR, count(*) FILTER (clip_score IS NOT NULL) FROM samples GROUP BY 1 ORDER BY 1"
        assert dict(con.execute(query).fetchall()) == successes
        history = explain(con, uid(2))
        assert history["sample"]["status"] == "success"
    # number 1 is a picture of both of the others, stored in different formats; numbers 2 and 4 are the same bytes
    config = {"root": root.url, "name": "all", "total": 30, "sources": [{"source": s} for s in SOURCES]}
    mix = build_mix.MixJobConfig.model_validate({**config, "on_shortage": "truncate", "exclude_duplicates": False})
    build_mix.run(mix)
    dataset = MixtureDataset(root.local("mixes", "all", "manifest.parquet"), root.local("shards"), image_size=32)
    rows = {row["uid"]: row for source in SOURCES for row in rows_of(root, source)}
    counts = Counter(dataset.table["source"].to_pylist())
    assert counts == {"img2dataset": 10, "resharded": 5, "study": 10}
    for place in range(len(dataset)):
        pixels, caption = dataset[place]
        assert pixels.shape == (32, 32, 3)
        assert caption == rows[dataset.table["uid"][place].as_py()]["caption"]
    assert not dataset.decode_errors
    dataset.close()


def test_a_second_run_reads_nothing_and_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    first = adopt.run(settings(root, folder))
    assert (first["shards_done"], first["shards_skipped"], first["counts"]) == (2, 0, {"success": 12})
    before = _contents(root.local())
    again = adopt.run(settings(root, folder))
    assert (again["shards_done"], again["shards_skipped"]) == (0, 2)
    assert _contents(root.local()) == before
    write_tar(folder / "shard_000001.tar", [("x.jpg", image(50)), ("x.txt", b"x")])
    third = adopt.run(settings(root, folder))
    assert (third["shards_done"], third["shards_skipped"], third["rows_in"]) == (1, 1, 1)
    assert [row["caption"] for row in rows_of(root)][6:] == ["x"]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between reading and publishing: nothing half done is to be seen, and the end is the same."""
    folder = study(tmp_path / "study", tars=3)
    adopt.run(settings(Root(str(tmp_path / "whole")), folder))
    root = Root(str(tmp_path / "root"))
    calls = []

    def dies(root: Root, max_pixels: int, ready: Any) -> dict[str, Any]:
        calls.append(ready)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return publish(root, max_pixels, ready)

    monkeypatch.setattr(adopt, "publish", dies)
    with pytest.raises(KeyboardInterrupt):
        adopt.run(settings(root, folder))
    assert [shard.number for shard in root.shards("shards")] == ["000000"]
    monkeypatch.undo()
    assert adopt.run(settings(root, folder))["shards_skipped"] == 1
    wanted = {name: data for name, (_, data) in _contents(tmp_path / "whole").items()}
    found = {name: data for name, (_, data) in _contents(root.local()).items()}
    assert {name.replace("/whole/", "/root/"): data for name, data in wanted.items()} == found


def test_a_run_that_is_killed_while_it_links_leaves_nothing_behind(tmp_path: Path) -> None:
    """Between making a link and giving it its name; the next run takes it away, also where the tar has moved."""
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study", tars=1)
    arguments = ["--root", root.url, "--source", "mine", "--local", str(folder)]
    killed = subprocess.run([sys.executable, "-c", DIES_AT_RENAME, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (left,) = root.local("shards", "mine", ".writing").iterdir()
    assert left.is_symlink()
    moved = folder.rename(tmp_path / "elsewhere")
    assert adopt.run(settings(root, moved))["shards_done"] == 1
    files = [path.relative_to(root.local()) for path in root.local("shards").rglob("*") if not path.is_dir()]
    assert sorted(path.name for path in files) == ["000000.parquet", "000000.tar", "000000_stats.json"]


DIES_AT_RENAME = """
import os, pathlib, signal, sys
from pipelines import adopt
rename = pathlib.Path.replace
def replace(path, target):
    if path.is_symlink():
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
pathlib.Path.replace = replace
adopt.main(sys.argv[1:])
"""


def test_a_folder_that_moved_is_linked_anew_without_being_read(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    adopt.run(settings(root, folder))
    moved = folder.rename(tmp_path / "elsewhere")
    staged = {path: path.stat().st_mtime_ns for path in root.local("adopted").rglob("*.parquet")}
    assert adopt.run(settings(root, moved))["shards_done"] == 2
    assert {path: path.stat().st_mtime_ns for path in staged} == staged
    assert read_images(root, root.read_table("shards", "mine", "000000.parquet"))[0] == image(0)


def test_damage_is_recorded_and_the_rest_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One tar cut short, with a parquet that knows the missing ones; one with a picture that is none."""
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    files = [(f"{n:04d}.{e}", d) for n in range(6) for e, d in (("jpg", image(n)), ("txt", f"{n}".encode()))]
    cut = write_tar(folder / "0.tar", files)
    cut.write_bytes(cut.read_bytes()[:6200])
    listed = [
        {"key": f"{n:04d}", "url": f"http://a.test/{n}", "caption": f"{n}", "status": "success"} for n in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(listed), folder / "0.parquet")
    write_tar(folder / "1.tar", [("a.jpg", b"none"), ("a.txt", b"a"), ("b.txt", b"b"), ("c.png", image(9, "PNG"))])
    summary = adopt.run(settings(root, folder, max_failed_fraction=1.0))
    reasons = {row["key"]: row["reason"] for row in rows_of(root)}
    assert reasons == {
        "0000": "ok", "0001": "ok", "0002": "missing", "0003": "missing", "0004": "missing", "0005": "missing",
        "a": "decode", "b": "missing", "c": "no_caption",
    }  # fmt: skip
    assert summary["counts"] == {"success": 2, "failed_to_download": 5, "failed_to_resize": 1, "skipped": 1}
    told = ["cut short or damaged at byte 6144: the end marker is missing"]
    assert summary["damage"] == {"mine/0 (0.tar)": told}
    assert json.loads(root.parquet_metadata("shards", "mine", "0.parquet")[DAMAGE]) == told
    assert "mine/0 (0.tar): cut short" in capsys.readouterr().err


def test_too_many_pictures_that_cannot_be_read_are_exit_code_3(tmp_path: Path) -> None:
    """Downloads that failed long ago do not count: they are no failure of this job."""
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    write_tar(folder / "0.tar", [("a.jpg", image(0)), ("a.txt", b"a")])
    failed = [{"key": f"{n}", "url": None, "status": "failed_to_download", "error_message": "x"} for n in range(9)]
    pq.write_table(pa.Table.from_pylist(failed), folder / "0.parquet")
    assert adopt.run(settings(root, folder))["counts"] == {"failed_to_download": 9, "success": 1}
    write_tar(folder / "1.tar", [(f"{n}.jpg", b"none") for n in range(3)])
    with pytest.raises(BudgetExceeded, match="3 of 3 rows failed"):
        adopt.run(settings(root, folder))


def test_a_tar_that_cannot_be_read_costs_nothing_but_itself(tmp_path: Path) -> None:
    folder, root = study(tmp_path / "study", tars=3), Root(str(tmp_path / "root"))
    adopt.run(settings(root, folder))
    (folder / "shard_000001.tar").write_bytes(b"nonsense" * 1000)
    summary = adopt.run(settings(root, folder, max_failed_fraction=1.0))
    assert list(summary["shards_failed"]) == ["mine/000001 (shard_000001.tar)"]
    assert "is no tar" in summary["shards_failed"]["mine/000001 (shard_000001.tar)"]
    assert [shard.number for shard in root.shards("shards")] == ["000000", "000002"]


def test_a_parquet_of_something_else_is_told_and_left_aside(tmp_path: Path) -> None:
    folder, root = study(tmp_path / "study"), Root(str(tmp_path / "root"))
    pq.write_table(pa.table({"uid": ["x"]}), folder / "shard_000000.parquet")
    (folder / "shard_000001.parquet").write_bytes(b"PAR1")
    damage = adopt.run(settings(root, folder))["damage"]
    assert ["has no column `key`" in line for lines in damage.values() for line in lines] == [True, False]
    assert len(rows_of(root)) == 12


def test_a_picture_counts_before_a_failure_of_the_same_sample(tmp_path: Path) -> None:
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    write_tar(folder / "0.tar", [("0.json", as_json(uid=uid(0), caption="x"))])
    write_tar(folder / "1.tar", [("0.jpg", image(0)), ("0.json", as_json(uid=uid(0), caption="x"))])
    adopt.run(settings(root, folder))
    assert [(row["reason"], row["uid"] == uid(0)) for row in rows_of(root)] == [
        ("duplicate_row", False),
        ("ok", True),
    ]


def test_our_own_shards_can_be_adopted_by_another_root(root: Root, tmp_path: Path) -> None:
    """Their rows say the same again, whatever they had failed of."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in root.names("shards", "img2dataset"):
        shutil.copyfile(root.local("shards", "img2dataset", name), copy / name)
    other = Root(str(tmp_path / "root"))
    adopt.run(settings(other, copy, "img2dataset"))
    before = {row["uid"]: row for row in rows_of(root, "img2dataset")}
    after = {row["uid"]: row for row in rows_of(other, "img2dataset")}
    assert {u: {**row, "line": None} for u, row in after.items()} == {
        u: {**row, "line": None} for u, row in before.items()
    }


def test_failed_downloads_can_be_tried_again_and_adopted_once_more(tmp_path: Path) -> None:
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    write_tar(folder / "00000.tar", [("000.jpg", image(0)), ("000.txt", b"zero")])
    with picture_server() as server:
        listed = [
            {
                "key": f"{n:03d}",
                "url": f"http://a.test/{n}.png",
                "caption": f"{n}",
                "status": status,
                "error_message": text,
            }
            for n, status, text in ((0, "success", None), (1, "failed_to_download", "timed out"))
        ]
        pq.write_table(pa.Table.from_pylist(listed), folder / "00000.parquet")
        adopt.run(settings(root, folder))
        fetch = {"resolve": server.resolve, "robots": False}
        assert len(plan_retry(root, "mine", ["timeout"])) == 1
        config = {"root": root.url, "local": True, "fetch": fetch}
        done = download.run(download.DownloadConfig.model_validate(config))
    assert done["counts"] == {"success": 1}
    assert adopt.run(settings(root, folder))["shards_skipped"] == 1
    index.run(index.IndexConfig(root=root.url))
    with connect(root) as con:
        found = con.execute("SELECT shard, attempt, status::VARCHAR FROM samples ORDER BY shard").fetchall()
    assert found == [("00000", 0, "success"), ("00001", 1, "success")]


def test_a_tar_does_not_get_the_number_of_a_retry(tmp_path: Path) -> None:
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    write_tar(folder / "00000.tar", [("000.jpg", image(0)), ("000.txt", b"zero")])
    failed = {"key": "001", "url": "http://a.test/1.png", "caption": "one", "status": "failed_to_download"}
    pq.write_table(pa.Table.from_pylist([failed]), folder / "00000.parquet")
    adopt.run(settings(root, folder))
    assert [str(piece) for piece in plan_retry(root, "mine", ["connection"])] == ["mine/00001"]
    write_tar(folder / "00001.tar", [("010.jpg", image(1)), ("010.txt", b"one")])
    with pytest.raises(InputError, match="number 00001 is that of a retry"):
        adopt.run(settings(root, folder))
    assert adopt.run(settings(root, folder / "00000.tar"))["shards_skipped"] == 1
    assert adopt.run(settings(root, folder / "00001.tar", "later"))["shards_done"] == 1


def test_bytes_that_changed_unseen_are_not_published(tmp_path: Path) -> None:
    """A picture in a tar whose size and time are those of before."""
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    adopt.run(settings(root, folder))
    tar, shard = folder / "shard_000000.tar", root.read_table("shards", "mine", "000000.parquet").to_pylist()[2]
    times = tar.stat()
    data = bytearray(tar.read_bytes())
    data[shard["offset"] + 400] ^= 1
    tar.write_bytes(data)
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    root.remove("shards", "mine", "000000.parquet")
    failed = adopt.run(settings(root, folder, max_failed_fraction=1.0))["shards_failed"]
    assert f"the bytes of {shard['key']} are not those read before" in failed["mine/000000 (shard_000000.tar)"]
    assert [found.number for found in root.shards("shards")] == ["000001"]
    assert adopt.run(settings(root, folder))["shards_done"] == 1  # read anew


def test_numbers_are_the_names_own_where_they_tell_the_tars_apart(tmp_path: Path) -> None:
    def numbers(*names: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            write_tar(folder / name, [])
        found = adopt.plan(settings(Root(str(tmp_path / "root")), folder))["shards"]
        assert list(found.values()) == sorted(names)
        return list(found)

    assert numbers("00000.tar", "00007.tar") == ["00000", "00007"]
    assert numbers("shard_000003.tar", "shard_000012.tar") == ["000003", "000012"]
    assert numbers("12/345.tar", "13/346.tar") == ["345", "346"]
    assert numbers("9.tar", "10.tar") == ["00000", "00001"]
    assert numbers("a0.tar", "b0.tar") == ["00000", "00001"]
    assert numbers("train.tar") == ["00000"]


def test_globs_name_tars_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path / "study", tars=3)
    monkeypatch.chdir(tmp_path)
    root = Root(str(tmp_path / "root"))
    assert list(adopt.plan(settings(root, "study/shard_00000[02].tar"))["shards"]) == ["000000", "000002"]
    assert list(adopt.plan(settings(root, "*/*.tar"))["shards"]) == ["000000", "000001", "000002"]


def test_compressed_tars_beside_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study(tmp_path / "study")
    (folder / "shard_000002.tar.gz").touch()
    adopt.run(settings(Root(str(tmp_path / "root")), folder))
    assert "1 compressed tars are left out, from shard_000002.tar.gz" in capsys.readouterr().err


def test_what_cannot_be_adopted_is_said_in_one_line(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").touch()
    with pytest.raises(InputError, match=r"no tars here; 0\.tar\.gz is compressed"):
        adopt.run(settings(root, tmp_path / "packed"))
    with pytest.raises(InputError, match=r"/nowhere: no such folder or file; check the path"):
        adopt.run(settings(root, tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"/nowhere/\*\.tar: no file has a name like this"):
        adopt.run(settings(root, tmp_path / "nowhere" / "*.tar"))
    with pytest.raises(InputError, match=r"/study/sizes\.json: sizes\.json is no tar; name files \*\.tar"):
        adopt.run(settings(root, folder / "sizes.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"/empty: no tars in this folder or below; name the one that holds"):
        adopt.run(settings(root, tmp_path / "empty"))
    with pytest.raises(ConfigError, match="only local tars"):
        adopt.run(settings(root, "s3://bucket/tars"))
    with pytest.raises(ConfigError, match="needs a local folder"):
        adopt.run(settings(Root("memory://root"), folder))
    shutil.copytree(folder, root.local("shards", "here"))
    with pytest.raises(InputError, match="lies in the root's shards"):
        adopt.run(settings(root, root.local("shards", "here")))
    with pytest.raises(InputError, match="holds 2 shards, from shard_000000, that are not of these tars"):
        adopt.run(settings(root, folder, "here"))
    root.write_bytes(b"", "metadata", "mine", "00000.parquet")
    with pytest.raises(InputError, match="was ingested; choose another --source"):
        adopt.run(settings(root, folder))


@pytest.mark.parametrize("place", range(7))
def test_the_tars_may_be_named_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int) -> None:
    folder = study(tmp_path / "study")
    flags = [["--dry-run"], ["--source", "mine"], ["--root", str(tmp_path / "root")], ["--local"], ["--cpus=1"], []]
    words = [word for flag in [*flags[:place], [str(folder)], *flags[place:]] for word in flag]
    assert adopt.main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["shards"] == {n: f"shard_{n}.tar" for n in ("000000", "000001")}


def test_the_tars_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(study(tmp_path / "study"))
    flags = ["--root", str(tmp_path / "root"), "--source", "mine", "--local"]
    assert adopt.main([*flags, "--tars", folder]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"success": 12}
    assert adopt.main([*flags, "--tars", folder, "other"]) == 2
    assert "headwater adopt: other: --tars says the same; give one of them" in capsys.readouterr().err


def test_a_picture_that_kills_its_decoder_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.adopted.stage.facts", adoptable.fragile_facts)
    folder, root = tmp_path / "tars", Root(str(tmp_path / "root"))
    large = io.BytesIO()
    Image.new("L", (9000, 9000)).save(large, "PNG")
    pictures = [image(0), adoptable.FATAL, large.getvalue(), image(1, "WEBP")]
    files = [(f"{n}.{e}", d) for n, data in enumerate(pictures) for e, d in (("jpg", data), ("txt", b"text"))]
    write_tar(folder / "0.tar", files)
    summary = adopt.run(settings(root, folder))
    assert [row["reason"] for row in rows_of(root)] == ["ok", "crash", "too_many_pixels", "ok"]
    assert summary["counts"] == {"success": 2, "failed_to_resize": 2}


def test_work_travels_to_other_processes(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    make = pickle.loads(pickle.dumps(partial(Stager, root, 10**6)))
    stager = make()
    tars = adopt._tars(root, settings(root, study(tmp_path / "study")))
    assert stager(pickle.loads(pickle.dumps(tars[0])))["rows"] == 6
    stager.close()


@pytest.mark.usefixtures("ray_session")
def test_on_ray_the_shards_are_the_same(tmp_path: Path) -> None:
    folder = study(tmp_path / "study")
    for name, local in (("here", True), ("ray", False)):
        adopt.run(settings(Root(str(tmp_path / name)), folder, local=local))
    here, ray = (_contents(tmp_path / name / "shards") for name in ("here", "ray"))
    assert {n.replace("/here/", "/ray/"): data for n, (_, data) in here.items()} == {
        n: d for n, (_, d) in ray.items()
    }
