from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.errors import HeadwaterError, InputError, SchemaError
from tests.trainer.conftest import TinyMix
from trainer import rows as rows_module
from trainer import sorting
from trainer.rows import open_rows

NONE = np.zeros(1, np.uint64)


def table_of(count: int, uses: int = 1) -> pa.Table:
    """A manifest of `count` rows of two sources that take turns, each uid `uses` times."""
    return pa.table(
        {
            "uid": [f"{i // uses:032x}" for i in range(count)],
            "source": ["ab"[i % 2] for i in range(count)],
            "shard": [f"{i // 10:05d}" for i in range(count)],
            "offset": pa.array([512 * i for i in range(count)], pa.int64()),
            "size": pa.array([100 + i for i in range(count)], pa.int64()),
            "caption": [f"Bild {i} äöü" * (i % 3) for i in range(count)],
            "repeat": pa.array([i % uses for i in range(count)], pa.int32()),
        }
    )


def write(path: Path, table: pa.Table, **options: int) -> Path:
    pq.write_table(table, path, **options)
    return path


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize("batch", [7, 1 << 16])
def test_rows_are_those_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(rows_module, "_BATCH", batch)
    table = table_of(50)
    rows = open_rows(write(tmp_path / "m.parquet", table, row_group_size=20), tmp_path)
    assert (len(rows), rows.sources, rows.counts.tolist()) == (50, ["a", "b"], [25, 25])
    chosen = np.array([49, 0, 7, 7])
    places = rows.take(chosen)
    for place, row in zip(places, chosen.tolist(), strict=True):
        expected = table.slice(row, 1).to_pylist()[0]
        assert rows.files[place["file"]] == f"{expected['source']}/{expected['shard']}.tar"
        assert rows.sources[place["source"]] == expected["source"]
        assert (place["offset"], place["size"]) == (expected["offset"], expected["size"])
        assert rows.uid(row) == expected["uid"]
        assert rows.captions(np.array([row]), NONE) == [expected["caption"]]


def test_of_several_captions_the_draw_names_one(tmp_path: Path) -> None:
    captions = [["one"], ["first", "second"], ["x", "y", ""]] * 4
    table = replaced(table_of(12), "caption", pa.array(captions, pa.list_(pa.string())))
    rows = open_rows(write(tmp_path / "m.parquet", table, row_group_size=5), tmp_path)
    for draw in range(7):
        found = rows.captions(np.arange(12), np.full(12, draw, np.uint64))
        assert found == [texts[draw % len(texts)] for texts in captions]


def test_the_next_rows_of_a_source_come_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_SCAN", 3)
    rows = open_rows(write(tmp_path / "m.parquet", table_of(20)), tmp_path)
    assert list(rows.following(15)) == [17, 19, 1, 3, 5, 7, 9, 11, 13]


@pytest.mark.parametrize("chunk", [4, 1 << 19])
def test_the_uses_of_a_uid_are_numbered_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(sorting, "CHUNK", chunk)
    uids = [f"{uid:032x}" for uid in [3, 1, 3, 2, 3, 3, 1, 9, 3, 3, 3, 3]]
    repeats = [uids[:i].count(uid) for i, uid in enumerate(uids)]
    table = replaced(table_of(12), "uid", pa.array(uids))
    table = replaced(table, "repeat", pa.array(repeats, pa.int32()))
    rows = open_rows(write(tmp_path / "m.parquet", table), tmp_path)
    assert rows._use is not None
    assert rows._use["turn"].tolist() == repeats
    assert rows._use["uses"].tolist() == [uids.count(uid) for uid in uids]


def test_what_is_no_manifest_is_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.parquet cannot be read"):
        open_rows(tmp_path / "nothing.parquet", tmp_path)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"text\.parquet cannot be read as a manifest: [^\n]*$"):
        open_rows(tmp_path / "text.parquet", tmp_path)
    with pytest.raises(InputError, match="no samples"):
        open_rows(write(tmp_path / "empty.parquet", table_of(0)), tmp_path)
    cut = write(tmp_path / "cut.parquet", table_of(50)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(cut[:-20])
    with pytest.raises(InputError, match=r"cut\.parquet cannot be read"):
        open_rows(tmp_path / "cut.parquet", tmp_path)


WRONG = {
    "no column offset": table_of(3).drop_columns(["offset"]),
    "nulls in caption": replaced(table_of(3), "caption", pa.array(["a", None, "b"])),
    "nulls in caption ": replaced(table_of(3), "caption", pa.array([["a"], ["b", None], ["c"]])),
    "rows without a caption": replaced(table_of(3), "caption", pa.array([["a"], [], ["c"]])),
    "caption is int64": replaced(table_of(3), "caption", pa.array([1, 2, 3])),
    "numbers below 0 in offset": replaced(table_of(3), "offset", pa.array([0, -1, 3])),
    "not 32 hex characters": replaced(table_of(3), "uid", pa.array(["a" * 32, "b" * 31, "c" * 32])),
    "not 32 hex characters ": replaced(table_of(3), "uid", pa.array(["a" * 32, "x" * 32, "c" * 32])),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_manifest_with_wrong_columns_is_a_schema_error(tmp_path: Path, message: str) -> None:
    with pytest.raises(SchemaError, match=message.strip()):
        open_rows(write(tmp_path / "m.parquet", WRONG[message]), tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_are_made_once_and_again_if_they_are_cut(mix: TinyMix, tmp_path: Path) -> None:
    first = open_rows(mix.manifest, tmp_path)
    folder, places, uid = first.folder / "rows", first.places.copy(), first.uid(7)
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(open_rows(mix.manifest, tmp_path)) == 48
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made
    for spoil in (
        lambda: (folder / "place").write_bytes(b"\0" * 48),
        lambda: (folder / "uid").unlink(),
        lambda: (folder / "about.json").write_text("{"),
        lambda: (folder / "about.json").write_text("{}"),
    ):
        spoil()
        again = open_rows(mix.manifest, tmp_path)
        assert again.uid(7) == uid
        np.testing.assert_array_equal(again.places, places)
    assert not list(tmp_path.rglob("*.tmp"))


def test_several_processes_may_make_them_at_once(mix: TinyMix, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_rows, args=(mix.manifest, tmp_path)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(open_rows(mix.manifest, tmp_path)) == 48
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_a_killed_process_left_is_tidied_away(mix: TinyMix, tmp_path: Path) -> None:
    rows = open_rows(mix.manifest, tmp_path)
    left = rows.folder / "rows.0123.tmp"
    left.mkdir()
    (left / "place").write_bytes(b"half")
    (rows.folder / "rows" / "uid").unlink()
    open_rows(mix.manifest, tmp_path)
    assert not left.exists()


def test_a_folder_that_cannot_be_written_is_named(mix: TinyMix, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadwaterError, match=r"file: the loader's files cannot be written there"):
        open_rows(mix.manifest, tmp_path / "file")
