"""Adopting once more: after a kill, a change, a move, a retry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.errors import InputError
from pipelines import adopt, download, index
from pipelines.adopted.publish import publish
from pipelines.retry import Policy, plan_retry
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.store.shards import read_images
from tests.pipelines.adoptable import contents, image, rows_of, settings, study, write_tar
from tests.pipelines.chain import picture_server


def test_a_second_run_reads_nothing_and_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    first = adopt.run(settings(root, folder))
    assert (first["shards_done"], first["shards_skipped"], first["counts"]) == (2, 0, {"success": 12})
    before = contents(root.local())
    again = adopt.run(settings(root, folder))
    assert (again["shards_done"], again["shards_skipped"]) == (0, 2)
    assert contents(root.local()) == before
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
    wanted = {name: data for name, (_, data) in contents(tmp_path / "whole").items()}
    found = {name: data for name, (_, data) in contents(root.local()).items()}
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
        assert len(plan_retry(root, "mine", Policy(["timeout"]))) == 1
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
    assert [str(piece) for piece in plan_retry(root, "mine", Policy(["connection"]))] == ["mine/00001"]
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
