"""What a process of a training run holds in memory does not grow with the mixture."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.conftest import TinyMix, dataset_of, write_mix
from trainer.loader import Loader, _Ahead
from trainer.order import single_source_order

MEGABYTE = 1 << 20
_GROUP = 1 << 16


def held(pid: int | str, name: str = "smaps_rollup") -> dict[str, int]:
    """What a file of /proc says of a process, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/{name}").read_text(), re.M)
    return {key: int(value) << 10 for key, value in found}


def use(folder: Path) -> None:
    """Open a manifest, make orders, take batches from two workers, and write down what each process holds."""
    before = held("self", "status")["RssAnon"]
    mix = TinyMix(folder / "manifest.parquet", folder / "shards", [], [])
    with Loader(
        dataset_of(mix, view=lambda data, generator: np.zeros((32, 32, 3), np.uint8)), 64, workers=2
    ) as loader:
        for _ in range(5):
            next(loader)
        single_source_order(loader.dataset.rows, 0, 0, 64)
        assert isinstance(loader._batches, _Ahead)
        pids = ["self", *(worker.process.pid for worker in loader._batches._workers._all)]
        files = (path for path in loader.dataset.rows.folder.rglob("*") if path.is_file())
        found = {
            "rows": len(loader.dataset),
            "before": before,
            "anonymous": held("self", "status")["RssAnon"],
            "workers": max(held(str(pid), "status")["RssAnon"] for pid in pids[1:]),
            "together": sum(held(str(pid))["Pss_Anon"] for pid in pids),
            "file": held("self", "status")["RssFile"],
            "disk": sum(path.stat().st_size for path in files),
        }
    (folder / "found.json").write_text(json.dumps(found))


def use_each(folders: list[str]) -> None:
    """`use` in a child for each folder: all begin with the same memory."""
    for folder in folders:
        process = multiprocessing.get_context("fork").Process(target=use, args=(Path(folder),))
        process.start()
        process.join()


def in_a_new_process(function: str, *folders: Path) -> None:
    """Nothing that other tests left is in its memory."""
    program = f"import sys; from tests.trainer.test_memory import {function} as run; run(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", program, *map(str, folders)], check=True)


def write_manifest(folder: Path, count: int, uses: int) -> None:
    """A manifest of `count` rows over the pictures of a tiny mixture, each uid `uses` times, in no order."""
    table = pq.read_table(write_mix(folder, [b"none"] * 48, ["x"] * 48).manifest)
    with pq.ParquetWriter(folder / "manifest.parquet", table.schema, compression="zstd") as writer:
        for start in range(0, count, _GROUP):
            rows = np.arange(start, min(start + _GROUP, count), dtype=np.uint64)
            uid = (rows % np.uint64(count // uses)) * np.uint64(0x9E3779B97F4A7C15)
            digits = np.column_stack([rows * 0, uid]).astype(">u8").tobytes().hex()
            ends = np.arange(len(rows) + 1, dtype=np.int32) * 32
            uids = pa.StringArray.from_buffers(len(rows), pa.py_buffer(ends.tobytes()), pa.py_buffer(digits.encode()))
            group = table.take(pa.array(uid % np.uint64(48)))
            caption = pa.array([f"caption {row} of an image, in eleven words or so" for row in rows.tolist()])
            repeat = pa.array((rows // np.uint64(count // uses)).astype(np.int64))
            for name, column in (("uid", uids), ("caption", caption), ("repeat", repeat)):
                group = group.set_column(group.column_names.index(name), name, column)
            writer.write_table(group, row_group_size=_GROUP)


def found_of(folder: Path, count: int) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / "found.json").read_text())
    print(json.dumps(found))
    assert found["rows"] == count
    return found


def test_memory_does_not_grow_with_the_mixture(tmp_path: Path) -> None:
    """Files grow by 81 MiB, memory by less than 24: two row groups in conversion are in that of both."""
    small, large = 150_000, 900_000
    for count in (small, large):
        write_manifest(tmp_path / str(count), count, 3)
    in_a_new_process("use_each", *(tmp_path / str(count) for count in (small, large)))
    few, many = (found_of(tmp_path / str(count), count) for count in (small, large))
    assert many["disk"] - few["disk"] > 80 * MEGABYTE
    for by in ("anonymous", "workers"):  # what they hold beside what was there before the fork
        assert (many[by] - many["before"]) - (few[by] - few["before"]) < 24 * MEGABYTE


@pytest.mark.slow
def test_12_8_million_rows_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    """A process and its two workers together, what torch and the other libraries take included."""
    write_manifest(tmp_path, 12_800_000, 2)
    in_a_new_process("use_each", tmp_path)
    found = found_of(tmp_path, 12_800_000)
    assert found["together"] < 1 << 30
    assert found["anonymous"] - found["before"] < 256 * MEGABYTE
