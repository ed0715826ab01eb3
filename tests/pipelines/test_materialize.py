"""Exports of a mixture: what the files hold, resuming after a kill, damaged shards, wrong input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from filters.errors import BudgetExceeded, HeadwaterError
from pipelines import materialize
from pipelines.cli import main
from pipelines.exports import write
from pipelines.exports.plan import Contents, Export, contents, pieces, tar_prefix
from pipelines.exports.uses import Rows
from pipelines.store.root import Root
from pipelines.store.schema import MANIFEST
from tests.pipelines.adoptable import image
from tests.pipelines.mixtures import ENDINGS, add_mixture, files_of, format_of, json_of, members, mixture

SOURCES = {"cc12m": (12, 12), "wit": (8, 20), "yfcc": (25, 18)}
ROWS = sum(uses for _, uses in SOURCES.values())
PER_FILE = 20


def export(root: Root, mixture: str = "even", **fields: Any) -> dict[str, Any]:
    settings = {"local": True, "samples_per_shard": PER_FILE, **fields}
    return materialize.run(materialize.MaterializeConfig(root=root.url, mixture=mixture, **settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, pa.Table]:
    """A mixture with both layouts of tars, undisturbed."""
    root, manifest = mixture(tmp_path_factory.mktemp("made"), SOURCES)
    export(root)
    export(root, layout="by_source")
    return root, manifest


def test_mixed_tars_hold_the_rows_in_the_order_of_the_manifest(made: tuple[Root, pa.Table]) -> None:
    root, manifest = made
    tars = sorted(root.local("mixes", "even", "tars").glob("*.tar"))
    assert [tar.name for tar in tars] == ["even-00000000.tar", "even-00000001.tar", "even-00000002.tar"]
    found = [member for tar in tars for member in members(tar)]
    expected = []
    for row in manifest.to_pylist():
        key = f"{row['uid']}-{row['repeat']}"
        number = int(row["caption"].split()[-1])
        expected += [f"{key}.{ENDINGS[format_of(number)]}", f"{key}.json", f"{key}.txt"]
    assert [name for name, _ in found] == expected
    assert len(set(expected)) == 3 * ROWS
    for place, row in enumerate(manifest.to_pylist()):
        picture, record, text = (data for _, data in found[3 * place : 3 * place + 3])
        number = int(row["caption"].split()[-1])
        assert picture == image(number, format_of(number), (16, 12))
        assert text.decode() == row["caption"]
        told = json.loads(record)
        assert {name: told[name] for name in ("uid", "source", "caption", "repeat", "shard")} == {
            name: row[name] for name in ("uid", "source", "caption", "repeat", "shard")
        }


def test_tars_are_plain_ustar_without_times(made: tuple[Root, pa.Table]) -> None:
    for path in made[0].local("mixes", "even", "tars").glob("*.tar"):
        data = path.read_bytes()
        assert data[257:265] == b"ustar\x0000"
        with tarfile.open(path) as tar:
            assert all(info.mtime == 0 and info.isreg() and info.mode == 0o444 for info in tar)


def test_accounts_have_each_row_and_where_its_picture_lies(made: tuple[Root, pa.Table]) -> None:
    root, manifest = made
    tables = [root.read_table("mixes", "even", "accounts", "tars", f"even-{n:08d}.parquet") for n in range(3)]
    assert pa.concat_tables(tables)["uid"].to_pylist() == manifest["uid"].to_pylist()
    for number, table in enumerate(tables):
        tar = root.read_bytes("mixes", "even", "tars", f"even-{number:08d}.tar")
        by_name = {name.split(".")[0]: data for name, data in reversed(members_of(root, number))}
        for row in table.to_pylist():
            assert tar[row["offset"] : row["offset"] + row["size"]] == by_name[row["key"]]
            assert (row["status"], row["reason"], row["error_message"]) == ("success", "ok", None)


def members_of(root: Root, number: int) -> list[tuple[str, bytes]]:
    return members(root.local("mixes", "even", "tars", f"even-{number:08d}.tar"))


def test_names_and_counts_are_those_of_img2dataset_and_datacomp(made: tuple[Root, pa.Table]) -> None:
    root, manifest = made
    folder = root.local("mixes", "even", "tars")
    sizes = json_of(root, "mixes", "even", "tars", "sizes.json")
    assert sizes == {"even-00000000.tar": 20, "even-00000001.tar": 20, "even-00000002.tar": 10}
    for tar, size in sizes.items():
        stats = json.loads((folder / tar.replace(".tar", "_stats.json")).read_text())
        assert stats == {"count": size, "successes": size, "reasons": {"ok": size}}
    # DataComp's train.py goes by the digits at a tar's end, from 0 on, and takes each folder for more tars; one with
    # a meta.json it expands by number, which no name with letters is.
    assert [path.name for path in folder.iterdir() if path.is_dir() or path.name == "meta.json"] == []
    ids = np.load(folder / "sample_ids.npy")
    assert ids.dtype == np.dtype("u8,u8")
    assert sorted(f"{hi:016x}{lo:016x}" for hi, lo in ids.tolist()) == sorted(manifest["uid"].to_pylist())
    assert ids.tolist() == sorted(ids.tolist())
    meta = json_of(root, "mixes", "even", "tars.meta.json")
    assert meta["output_shard_format"].format(2) == "even-00000002.tar"
    assert (meta["output_shard_count"], meta["output_count"], meta["processed_count"]) == (3, ROWS, ROWS)
    assert all(isinstance(meta[name], str) for name in ("output_dir", "subset_file", "shard_size", "apply_blur"))


def test_by_source_has_each_sample_once_and_the_factors(made: tuple[Root, pa.Table]) -> None:
    root, manifest = made
    folder = root.local("mixes", "even", "by_source")
    firsts = {}
    for source, (samples, uses) in SOURCES.items():
        tars = sorted(folder.glob(f"even+{source}-*.tar"))
        found = [data.decode() for tar in tars for name, data in members(tar) if name.endswith(".txt")]
        rows = manifest.filter((pa.compute.field("source") == source) & (pa.compute.field("repeat") == 0))
        assert found == rows["caption"].to_pylist()
        assert len(found) == min(samples, uses)
        firsts[source] = len(found)
    call = json_of(root, "mixes", "even", "by_source", "open_clip.json")
    factors = [float(factor) for factor in call["train_data_upsampling_factors"].split("::")]
    assert factors == [uses / ROWS / firsts[source] for source, (_, uses) in SOURCES.items()]
    assert call["train_data"].split("::")[2] == f"{folder}/even+yfcc-{{00000000..00000000}}.tar"
    assert (call["train_num_samples"], call["dataset_resampled"]) == (ROWS, True)
    assert "--dataset-resampled" in call["command"]
    assert [(s["source"], s["tars"], s["samples"]) for s in call["sources"]] == [
        ("cc12m", 1, 12), ("wit", 1, 8), ("yfcc", 1, 18),
    ]  # fmt: skip


def test_nothing_is_done_twice_and_the_command_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    arguments = ["materialize", "--root", root.url, "--mixture", "even", "--samples-per-shard", "20", "--local"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    summary = json.loads(first.out)
    assert summary["counts"] == {"success": ROWS}
    assert (summary["rows_in"], summary["files"], summary["shards_done"]) == (ROWS, 3, 3)
    assert summary["command"] in first.err
    before = {path: path.stat().st_mtime_ns for path in root.local("mixes", "even", "tars").glob("*.tar")}
    assert main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["shards_done"], again["shards_skipped"], again["rows_in"]) == (0, 3, ROWS)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    before = files_of(root)
    assert main(["materialize", "--root", root.url, "--mixture", "even", "--layout", "by_source", "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["files"], found["rows"]) == (3, 12 + 8 + 18)
    assert files_of(root) == before


def test_other_settings_leave_nothing_of_earlier_ones(tmp_path: Path, made: tuple[Root, pa.Table]) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    export(root, samples_per_shard=3)
    assert len(list(root.local("mixes", "even", "tars").glob("*.tar"))) == 17
    export(root)
    assert own(root) == own(made[0])


def own(root: Root, form: str = "tars") -> dict[str, bytes]:
    """All files of an export but for those that name the root's folder."""
    files = {**files_of(root, "mixes", "even", form), **files_of(root, "mixes", "even", "accounts", form)}
    return {name: data for name, data in files.items() if not name.endswith("open_clip.json")}


KILLED = """
import os, signal, sys
from pipelines import materialize
from pipelines.exports import write
add, left = write.add_member, int(sys.argv[2])
def member(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    add(*arguments)
write.add_member = member
materialize.main(["--root", sys.argv[1], "--mixture", "even", "--samples-per-shard", "20", "--local"])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, made: tuple[Root, pa.Table]) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    done = subprocess.run([sys.executable, "-c", KILLED, root.url, "100"], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    there = files_of(root, "mixes", "even", "tars")
    assert "even-00000000.tar" in there
    assert not {"even-00000001.tar", "sizes.json"} & there.keys()
    assert list(root.local("mixes", "even", "accounts", "tars", ".writing").iterdir())
    summary = export(root)
    assert (summary["shards_skipped"], summary["shards_done"]) == (1, 2)
    assert own(root) == own(made[0])


def test_with_ray_the_bytes_are_the_same(ray_session: None, tmp_path: Path, made: tuple[Root, pa.Table]) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    summary = export(root, local=False)
    assert (summary["shards_done"], summary["counts"]) == (3, {"success": ROWS})
    assert own(root) == own(made[0])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "gone": lambda tar: tar,
    "cut": lambda tar: tar[: len(tar) // 3],
    "zeros": lambda tar: tar[: len(tar) // 3] + bytes(len(tar) - len(tar) // 3),
    "texts": lambda tar: re.sub(rb"\xff\xd8\xff|\x89PNG|WEBP|GIF8", lambda magic: b"-" * len(magic[0]), tar),
    # Made anew without its second sample: the others lie elsewhere.
    "anew": lambda tar: tar[:3584] + tar[6656:] + bytes(3072),
}


@pytest.mark.parametrize("damage", ["gone", "cut", "zeros", "texts", "anew"])
def test_a_damaged_shard_is_named_and_the_others_go_on(
    damage: str, tmp_path: Path, made: tuple[Root, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    root, manifest = mixture(tmp_path, SOURCES)
    tar = root.local("shards", "wit", "00000.tar")
    whole = tar.read_bytes()
    tar.write_bytes(DAMAGES[damage](whole))
    if damage == "gone":
        tar.unlink()
    summary = export(root)
    rows = pa.concat_tables(
        root.read_table("mixes", "even", "accounts", "tars", f"even-{n:08d}.parquet") for n in range(3)
    ).to_pylist()
    lost = [row for row in rows if row["reason"] != "ok"]
    assert {row["source"] for row in lost} == {"wit"}
    # Zeros may begin between a header and its picture.
    reasons = {"texts": {"decode"}, "zeros": {"decode", "missing"}}.get(damage, {"missing"})
    assert {row["reason"] for row in lost} <= reasons
    assert len(lost) == 20 if damage in ("gone", "texts") else 0 < len(lost) < 20
    assert all(row["error_message"] and row["offset"] is None for row in lost)
    assert [row["uid"] for row in rows] == manifest["uid"].to_pylist()
    assert summary["counts"]["success"] == summary["samples"] == ROWS - len(lost)
    assert summary["unreadable"]["wit/00000"]["rows"] == len(lost)
    assert "wit/00000" in capsys.readouterr().err
    assert sum(json_of(root, "mixes", "even", "tars", "sizes.json").values()) == ROWS - len(lost)
    # What could not be read is tried again, and nothing else.
    tar.write_bytes(whole)
    assert export(root)["counts"] == {"success": ROWS}
    assert own(root) == own(made[0])


def test_a_source_of_which_nothing_can_be_read_has_no_factor(tmp_path: Path) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    root.local("shards", "wit", "00000.tar").unlink()
    summary = export(root, layout="by_source")
    assert summary["unreadable"]["wit/00000"] == {"rows": 8, "why": "shards/wit/00000.tar cannot be read"}
    call = json_of(root, "mixes", "even", "by_source", "open_clip.json")
    assert call["train_data"].count("::") == call["train_data_upsampling_factors"].count("::") == 1
    assert [source["factor"] is None for source in call["sources"]] == [False, True, False]


def test_too_many_unreadable_rows_are_exit_code_3(tmp_path: Path) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    root.local("shards", "wit", "00000.tar").unlink()
    with pytest.raises(BudgetExceeded, match=r"20 of 50 rows cannot be read.*shards/wit/00000.tar cannot be read"):
        export(root, max_failed_fraction=0.3)
    assert root.exists("mixes", "even", "tars", "sizes.json")


def test_a_file_that_cannot_be_written_is_named_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    real = write.write_piece

    def full(root: Root, export: Export, piece: Any, table: pa.Table) -> dict[str, Any]:
        if piece.name == "even-00000001":
            raise OSError("No space left on device")
        return real(root, export, piece, table)

    monkeypatch.setattr(write, "write_piece", full)
    with pytest.raises(HeadwaterError, match=r"1 of 3 files could not be written; first: even-00000001: OSError: No"):
        export(root)
    assert sorted(files_of(root, "mixes", "even", "tars")) == [
        "even-00000000.tar", "even-00000000_stats.json", "even-00000002.tar", "even-00000002_stats.json",
    ]  # fmt: skip
    monkeypatch.undo()
    assert export(root)["shards_done"] == 1


def test_large_pictures_are_read_a_block_at_a_time(
    tmp_path: Path, made: tuple[Root, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = mixture(tmp_path, SOURCES)
    monkeypatch.setattr("pipelines.exports.uses._BLOCK", 1000)
    export(root)
    assert own(root) == own(made[0])


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 25),
    st.sampled_from(["mixed", "by_source"]),
)
def test_the_files_together_have_every_row_once(
    uses: list[tuple[str, int]], group: int, per_file: int, layout: Any
) -> None:
    rows = [
        {"uid": f"{i:032x}", "source": s, "shard": "0", "offset": i, "size": 1, "caption": "", "repeat": r}
        for i, (s, r) in enumerate(uses)
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(MANIFEST.conform(pa.Table.from_pylist(rows).select(MANIFEST.names)), buffer, row_group_size=group)
    manifest = pq.ParquetFile(pa.BufferReader(buffer.getvalue()))
    there = contents(manifest)
    assert there.uses == Counter(source for source, _ in uses)
    planned = pieces(Export("m", layout, "tars", ""), there, per_file)
    tables = [Rows(manifest).of(piece) for piece in planned]
    assert [table.num_rows for table in tables] == [piece.rows for piece in planned]
    found = [offset for table in tables for offset in table["offset"].to_pylist()]
    if layout == "mixed":
        assert found == list(range(len(rows)))
        assert all(piece.rows == per_file for piece in planned[:-1])
    else:
        by_source = [i for s in "abc" for i, row in enumerate(rows) if row["source"] == s and row["repeat"] == 0]
        assert found == by_source
        assert all(
            table["source"].unique().to_pylist() == [p.source] for table, p in zip(tables, planned, strict=True)
        )


def test_no_two_exports_have_a_tar_of_one_name() -> None:
    """open_clip adds sizes up by the tars' names alone."""
    names = [tar_prefix(m, s) for m in ("a", "a-b", "a-b-c") for s in (None, "b", "c", "b-c", "a")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mixture", "evn"], "no such mixture; there is empty, even, none, other"),
        (["--mixture", "../even"], "field 'mixture': string should match pattern"),
        (["--mixture", "none"], "is no manifest"),
        (["--mixture", "other"], "has no column uid, source"),
        (["--mixture", "empty"], "the mixture is empty"),
        (["--mixture", "even", "--layout", "by-source"], "field 'layout'"),
        (["--mixture", "even", "--samples-per-shard", "0"], "field 'samples_per_shard'"),
        ([], "field 'mixture': field required"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, manifest = mixture(tmp_path, {"wit": (3, 3)})
    root.write_bytes(b"PAR1", "mixes", "none", "manifest.parquet")
    root.write_table(pa.table({"x": [1]}), "mixes", "other", "manifest.parquet")
    root.write_table(manifest.slice(0, 0), "mixes", "empty", "manifest.parquet")
    before = files_of(root)
    assert main(["materialize", "--root", root.url, "--local", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert {name: data for name, data in files_of(root).items() if not name.startswith("runs/")} == before


def test_a_root_that_open_clip_cannot_name_is_refused(tmp_path: Path) -> None:
    root, _ = mixture(tmp_path / "a{1,2}", {"wit": (3, 3)})
    with pytest.raises(HeadwaterError, match=r"open_clip cannot name files with \{ in their path"):
        export(root)
    assert root.names("mixes", "even") == ["manifest.parquet", "mix.lock.json", "uids.npy"]
    assert export(root, form="hf")["files"] == 1


def test_a_mixture_on_another_file_system(tmp_path: Path, made: tuple[Root, pa.Table]) -> None:
    memory = fsspec.filesystem("memory")
    local, _ = mixture(tmp_path, SOURCES)
    for name, data in files_of(local).items():
        memory.pipe_file(f"/far/{name}", data)
    root = Root("memory://far")
    export(root)
    assert root.names("mixes", "even", "tars", suffix=".tar") == [f"even-{n:08d}.tar" for n in range(3)]
    for name in ("even-00000002.tar", "sizes.json", "sample_ids.npy"):
        expected = made[0].read_bytes("mixes", "even", "tars", name)
        assert root.read_bytes("mixes", "even", "tars", name) == expected
    call = json.loads(root.read_bytes("mixes", "even", "tars", "open_clip.json"))
    assert call["train_data"] == "memory:///far/mixes/even/tars/even-{00000000..00000002}.tar"


def test_contents_of_nothing() -> None:
    assert pieces(Export("m", "mixed", "tars", ""), Contents(), 5) == []


def test_a_mixture_that_headwater_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the catalog through `mix` to tars."""
    root, _ = mixture(tmp_path, {"wit": (12, 1), "yfcc": (12, 1)})
    shutil.rmtree(root.local("mixes"))
    page = tmp_path / "page.yaml"
    page.write_text("name: built\ntotal: 16\nsources: [{source: wit}, {source: yfcc}]\n")
    assert main(["index", "--root", root.url]) == 0
    assert main(["mix", "--root", root.url, "--config", str(page)]) == 0
    capsys.readouterr()
    assert main(["materialize", "--root", root.url, "--mixture", "built", "--local"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"success": 16}
    captions = root.read_table("mixes", "built", "manifest.parquet")["caption"].to_pylist()
    found = members(root.local("mixes", "built", "tars", "built-00000000.tar"))
    assert [data.decode() for name, data in found if name.endswith(".txt")] == captions


def test_add_mixture_rows_may_repeat_in_any_order(tmp_path: Path) -> None:
    root, manifest = mixture(tmp_path, {"wit": (3, 6)})
    rows = manifest.to_pylist()
    add_mixture(root, "turned", rows[::-1])
    export(root, "turned", layout="by_source")
    call = json_of(root, "mixes", "turned", "by_source", "open_clip.json")
    assert call["train_data_upsampling_factors"] == repr(1 / 3)
