"""Adopting what is damaged: what it costs, and what is said of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.errors import BudgetExceeded
from pipelines import adopt
from pipelines.adopted.stage import DAMAGE
from pipelines.store.root import Root
from tests.pipelines import adoptable
from tests.pipelines.adoptable import as_json, image, rows_of, settings, study, uid, write_tar


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
