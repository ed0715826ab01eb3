"""What became of rows and shards, among the metrics that Ray exports to Prometheus."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any


def count(job: str, rows: Mapping[str, int], outcome: str) -> None:
    """Add a shard with this outcome, and its rows by status, to `ray_headwater_shards_total` and
    `ray_headwater_rows_total`; nothing where Ray does not run."""
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return
    all_rows, shards = _counters()
    shards.inc(1, {"job": job, "status": outcome})
    for status, number in rows.items():
        if number:  # Ray refuses to add nothing
            all_rows.inc(number, {"job": job, "status": status})


@functools.cache
def _counters() -> tuple[Any, Any]:
    from ray.util.metrics import Counter

    tags = ("job", "status")
    return (
        Counter("headwater_rows", "rows by what became of them", tag_keys=tags),
        Counter("headwater_shards", "shards done and failed", tag_keys=tags),
    )
