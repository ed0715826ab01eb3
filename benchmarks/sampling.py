"""Ordering samples for a mixture: our 64-bit mix against MD5 of the text, the usual way to a stable order in SQL.

    python -m benchmarks.sampling [--quick]

Both sides rank the same rows in DuckDB, in turn, with the same threads. The goal is a ratio: at least 3.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from filters.sampling import salt, sample_order_sql

ROUNDS = 5
GOAL = 3.0
OURS = f"sample_order(uid_lo, {salt('mix', 7)}::UBIGINT)"
USUAL = "md5_number_lower(uid || '7')"


def seconds(con: duckdb.DuckDBPyConnection, key: str) -> float:
    """CPU seconds to compute `key` for every row."""
    start = time.process_time()
    con.execute(f"SELECT max({key}) FROM samples").fetchall()
    return time.process_time() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goal is met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sampling", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    rows = 500_000 if parser.parse_args(argv).quick else 5_000_000
    low = np.random.default_rng(0).integers(0, 2**64, rows, dtype=np.uint64)
    con = duckdb.connect()
    con.execute(sample_order_sql())
    con.register("given", pa.table({"uid_lo": low}))
    con.execute("CREATE TABLE samples AS SELECT uid_lo, lpad(to_hex(uid_lo), 32, '0') AS uid FROM given")
    times: dict[str, list[float]] = {OURS: [], USUAL: []}
    for _ in range(ROUNDS):
        for key, found in times.items():
            found.append(seconds(con, key))
    print(f"{rows:,} rows, {os.cpu_count()} cores, DuckDB {duckdb.__version__}, Python {platform.python_version()}")
    for key, found in times.items():
        print(f"{statistics.median(found):8.3f} s CPU  ({min(found):.3f} to {max(found):.3f})  {key}")
    ratio = statistics.median(u / o for u, o in zip(times[USUAL], times[OURS], strict=True))
    print(f"{ratio:8.2f} times as fast, pair by pair")
    figures = {"rows": rows, "ratio": round(ratio, 3)}
    goals, met = {"ratio": GOAL}, {"ratio": ratio >= GOAL}
    print(json.dumps({"benchmark": "sampling", "figures": figures, "goals": goals, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
