"""From published files to SQL and to a mixture: how long each takes at 1, 10 and 100 million rows.

    python -m benchmarks.catalog [--quick] [--rows N,N] [--folder DIR]

Rows are made up from a seed, in the real schema: six sources in shards of 10,000 rows, each with a sidecar of scores,
verdicts and signals (`benchmarks.synthetic_root`). Measured are `headwater index` from nothing and after one more
shard (seconds, bytes written, peak memory, DuckDB limited to 5 GB), three questions to the open catalog, the lookup
of a uid (median of 50; and once by `headwater explain`, starting up included), and `headwater mix` over all six
sources with a condition and a threshold, for 12.8 of 100 rows. 1 and 10 million rows unless --rows says otherwise;
100 million need 45 GB of disk and half an hour on two cores.

Beside it, at the smallest size, the usual way: pyarrow over the parquet files for the same question, and copying
samples into new tars (20,000 pictures of 8 KB) against writing a manifest. Budgets in seconds are scaled by how long
a fixed loop takes beside the two-core machine that they were set for.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow.dataset as ds

from benchmarks.measure import Cost, run_measured
from benchmarks.synthetic_root import MODEL, ROWS, RUN, SOURCES, make_root, write_shard
from filters.errors import HeadwaterError
from pipelines.store.catalog import connect
from pipelines.store.root import Root

T = TypeVar("T")
HEADWATER = str(Path(sys.executable).parent / "headwater")
MEMORY = "5GB"
SIZES, QUICK = (1_000_000, 10_000_000), (100_000,)
NOMINAL = 0.12  # seconds
SHARE = 0.128  # of all rows, in the mixture: 12.8 M of 100 M
BUDGETS = {"group_by_s": 2.0, "lookup_s": 0.1, "mix_s": 120.0, "peak_gib": 8.0}
QUESTIONS = {
    "group_by_s": "SELECT source, status, count(*), avg(clip_score) FROM samples GROUP BY ALL",
    "reasons_s": "SELECT reason, count(*) FROM samples GROUP BY reason",
    "threshold_s": "SELECT count(*) FROM samples WHERE clip_score > 0.28 AND language = 'en' AND kind IS NULL",
}
PICTURES, PICTURE_BYTES = 20_000, 8_192


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds and the result."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def calibration() -> float:
    """How long a fixed piece of work takes, in parts of what it took on the machine that the budgets were set for."""

    def work() -> None:
        values = np.random.default_rng(0).random(2_000_000)
        for _ in range(6):
            np.sort(values)

    return min(timed(work)[0] for _ in range(3)) / NOMINAL


def command(work: Path, *words: str) -> Cost:
    """One run of `headwater`; its output is in `work`."""
    return run_measured([HEADWATER, *words], work / f"{words[0]}.log", lambda _: "headwater")


def summary(work: Path, job: str) -> dict[str, Any]:
    """The JSON line that a command printed last."""
    lines = (work / f"{job}.log").read_text(encoding="utf-8").splitlines()
    found: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    return found


def ask(root: Root) -> dict[str, float]:
    """Seconds of each question, the better of two, and of looking up one uid, the median of 50."""
    figures = {}
    opening, con = timed(lambda: connect(root))
    figures["open_s"] = opening
    with con:
        for name, query in QUESTIONS.items():
            figures[name] = min(timed(con.sql(query).fetchall)[0] for _ in range(2))
        uids = [uid for (uid,) in con.execute("SELECT uid FROM samples USING SAMPLE 51 ROWS").fetchall()]
        lookups = [timed(con.execute("SELECT * FROM samples WHERE uid = ?", [uid]).fetchall)[0] for uid in uids]
        figures["lookup_s"] = statistics.median(lookups[1:])
    return figures


def measure(work: Path, rows: int) -> dict[str, float]:
    """All figures of one size."""
    root = Root(str(work / f"root-{rows}"))
    shards = make_root(root, rows)
    index = command(work, "index", "--root", root.url, "--memory", MEMORY)
    done = summary(work, "index")
    figures = {
        "index_s": index.wall,
        "index_cpu_s": index.cpu,
        "index_gib": index.peak_memory / 2**30,
        "index_bytes_a_row": done["bytes_written"] / rows,
        "segments": done["segments"],
        **ask(root),
    }
    write_shard(root, shards, 0)
    again = command(work, "index", "--root", root.url, "--memory", MEMORY)
    added = sum(root.stat(*place)[0] for place in _files(shards))
    figures |= {"increment_s": again.wall, "increment_bytes_ratio": summary(work, "index")["bytes_written"] / added}
    mix = command(
        work, "mix", "--root", root.url, "--memory", MEMORY, "--config", str(_mixture(work, int(rows * SHARE)))
    )
    figures |= {"mix_s": mix.wall, "mix_cpu_s": mix.cpu, "mix_gib": mix.peak_memory / 2**30}
    check = command(work, "mix", "--root", root.url, "--verify", "benchmark")
    figures |= {"verify_s": check.wall}
    with connect(root) as con:
        [(uid,)] = con.execute("SELECT uid FROM samples LIMIT 1").fetchall()
    figures["explain_s"] = command(work, "explain", "--root", root.url, uid).wall
    figures["peak_gib"] = max(figures["index_gib"], figures["mix_gib"])
    return figures


def _files(number: int) -> list[tuple[str, ...]]:
    source, name = SOURCES[number % len(SOURCES)], f"{number // len(SOURCES):05d}.parquet"
    folders = (("shards",), ("features", MODEL), ("verdicts", RUN), ("signals", RUN))
    return [(*folder, source, name) for folder in folders]


def _mixture(work: Path, total: int) -> Path:
    """A mixture of all six sources, the first with twice the weight; about two fifths of the rows pass."""
    sources = [{"source": name, "weight": 2 if name == SOURCES[0] else 1} for name in SOURCES]
    mix = {"name": "benchmark", "total": total, "where": "clip_score > 0.2 AND language = 'en'", "sources": sources}
    path = work / "mix.yaml"
    path.write_text(json.dumps(mix), encoding="utf-8")  # JSON is YAML
    return path


def usual(work: Path, rows: int) -> dict[str, float]:
    """The usual way at one size: pyarrow over all shards and scores, and samples copied from tar to tar."""
    folder = work / f"root-{rows}"

    def question() -> None:
        samples = ds.dataset(folder / "shards").to_table(columns=["uid", "source", "status"])
        scores = ds.dataset(folder / "features" / MODEL, exclude_invalid_files=True).to_table(
            columns=["uid", "clip_score"]
        )
        samples.join(scores, "uid").group_by(["source", "status"]).aggregate(
            [("uid", "count"), ("clip_score", "mean")]
        )

    tar, copy = work / "some.tar", work / "copy.tar"
    body = np.random.default_rng(0).bytes(PICTURE_BYTES)
    with tarfile.open(tar, "w") as out:
        for number in range(PICTURES):
            member = tarfile.TarInfo(f"{number:09d}.jpg")
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))

    def copied() -> None:
        with tarfile.open(tar) as source, tarfile.open(copy, "w") as out:
            for member in source:
                out.addfile(member, source.extractfile(member))

    return {
        "usual_group_by_s": min(timed(question)[0] for _ in range(2)),
        "usual_copy_a_s": PICTURES / timed(copied)[0],
    }


def table(found: dict[int, dict[str, float]]) -> str:
    """A line a figure, a column a size, and how it grew from one size to the next."""
    sizes = list(found)
    lines = [
        f"{'':24}" + "".join(f"{size:>14,}" for size in sizes) + "    growth, from 10 times the rows 10 is linear"
    ]
    for name in found[sizes[0]]:
        values = [found[size][name] for size in sizes]
        growth = [f"{b / a:.1f}" if a else "" for a, b in itertools.pairwise(values)]
        lines.append(f"{name:24}" + "".join(f"{value:14.3f}" for value in values) + "    " + "  ".join(growth))
    return "\n".join(lines)


def run(work: Path, sizes: Sequence[int]) -> None:
    """Measure and print."""
    speed = calibration()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, DuckDB {duckdb.__version__}, ", end="")
    print(f"Python {platform.python_version()}, calibration {speed:.2f}", flush=True)
    found = {}
    for rows in sizes:
        found[rows] = measure(work, rows)
        print(json.dumps({"rows": rows, **{k: round(v, 3) for k, v in found[rows].items()}}), flush=True)
        if rows != sizes[0]:
            shutil.rmtree(work / f"root-{rows}")
    peer = usual(work, sizes[0])
    print(table(found))
    first, last = found[sizes[0]], found[sizes[-1]]
    mixed = sizes[0] * SHARE / first["mix_s"]
    ratios = {
        "group_by_ratio": peer["usual_group_by_s"] / first["group_by_s"],
        "mix_ratio": mixed / peer["usual_copy_a_s"],
    }
    print(f"the same question by pyarrow, {sizes[0]:,} rows: {peer['usual_group_by_s']:.2f} s, ", end="")
    print(f"{ratios['group_by_ratio']:.0f} times as long")
    print(f"copying samples into a tar: {peer['usual_copy_a_s']:,.0f} a second; into a mixture: {mixed:,.0f}")
    goals = {name: budget * (speed if name.endswith("_s") else 1.0) for name, budget in BUDGETS.items()}
    met = {name: last[name] <= goal for name, goal in goals.items()}
    for name, goal in goals.items():
        print(f"{name} at {sizes[-1]:,} rows: {last[name]:.3f}, goal {goal:.3f}: {'met' if met[name] else 'missed'}")
    figures = {f"{name}_{size}": round(value, 4) for size, of in found.items() for name, value in of.items()}
    print(json.dumps({"benchmark": "catalog", "figures": {**figures, **peer, **ratios}, "goals": goals, "met": met}))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalog", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    parser.add_argument("--rows", help="numbers of rows, separated by commas")
    parser.add_argument("--folder", type=Path, help="where to work (default: temporary)")
    arguments = parser.parse_args(argv)
    sizes = (
        [int(rows) for rows in arguments.rows.split(",")] if arguments.rows else QUICK if arguments.quick else SIZES
    )
    if any(rows < ROWS for rows in sizes):
        print(f"python -m benchmarks.catalog: --rows takes numbers from {ROWS:,}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="headwater-benchmark-") as temporary:
        work = (arguments.folder or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            run(work, sizes)
        except HeadwaterError as error:
            print(f"python -m benchmarks.catalog: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
