"""What a process of a training run holds in memory does not grow with the mixture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.conftest import write_mix

MEGABYTE = 1 << 20
_GROUP = 1 << 16
# Opens a manifest, makes an order, takes batches from two workers, and says what each process holds.
PROGRAM = """
import json, re, sys
from pathlib import Path
from tests.trainer.conftest import TinyMix, dataset_of
from trainer.loader import Loader
from trainer.order import single_source_order

def held(pid, name="smaps_rollup"):
    found = dict(re.findall(r"^(\\w+):\\s+(\\d+) kB", Path(f"/proc/{pid}/{name}").read_text(), re.M))
    return {key: int(value) << 10 for key, value in found.items()}

before = held("self", "status")["RssAnon"]
folder = Path(sys.argv[1])
mix = TinyMix(folder / "manifest.parquet", folder / "shards", [], [])
with Loader(dataset_of(mix), 64, workers=2) as loader:
    for _ in range(5):
        next(loader)
    single_source_order(loader.dataset.rows, 0, 0, 64)
    pids = ["self", *(worker.process.pid for worker in loader._batches._workers._all)]
    print(json.dumps({
        "rows": len(loader.dataset),
        "before": before,
        "anonymous": held("self", "status")["RssAnon"],
        "workers": [held(pid, "status")["RssAnon"] for pid in pids[1:]],
        "together": sum(held(pid)["Pss_Anon"] for pid in pids),
        "file": held("self", "status")["RssFile"],
        "disk": sum(path.stat().st_size for path in loader.dataset.rows.folder.rglob("*") if path.is_file()),
    }))
"""


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


def measure(folder: Path, count: int, uses: int) -> dict[str, int]:
    write_manifest(folder, count, uses)
    program = PROGRAM.replace("dataset_of(mix)", "dataset_of(mix, view=lambda data, generator: 0)")
    out = subprocess.run([sys.executable, "-c", program, str(folder)], check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, int] = json.loads(out)
    print(json.dumps(found))
    assert found["rows"] == count
    return found


def test_memory_does_not_grow_with_the_mixture(tmp_path: Path) -> None:
    """Files grow by 32 MiB, memory by less than 12: two row groups in conversion are in that of both."""
    small, large = (measure(tmp_path / str(count), count, 3) for count in (150_000, 450_000))
    assert large["disk"] - small["disk"] > 30 * MEGABYTE
    assert large["together"] - small["together"] < 12 * MEGABYTE
    assert large["anonymous"] - small["anonymous"] < 12 * MEGABYTE


@pytest.mark.slow
def test_12_8_million_rows_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    """A process and its two workers together, what torch and the other libraries take included."""
    found = measure(tmp_path, 12_800_000, 2)
    assert found["together"] < 1 << 30
    assert found["anonymous"] < 1 << 30
    assert found["anonymous"] - found["before"] < 256 * MEGABYTE
