"""Counts of rows and shards among the metrics that a real Ray exports."""

from __future__ import annotations

import importlib.util
import re
import time
import urllib.request

import pytest

from pipelines.engine import record
from pipelines.job import Account

EXPORTERS = ("opencensus", "prometheus_client", "aiohttp_cors")


def test_without_ray_nothing_is_counted_and_nothing_fails() -> None:
    account = Account("score")
    record(account, "laion/00000", {"rows": 2, "counts": {"success": 2}}, 1)
    assert account.counts == {"success": 2}


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, EXPORTERS)), reason="Ray exports nothing without: pip install ray[default]"
)
@pytest.mark.usefixtures("ray_session")
def test_rows_and_shards_are_exported_by_job_and_status() -> None:
    account = Account("measured")
    for shard in range(2):
        record(account, shard, {"rows": 5, "counts": {"success": 4, "failed_to_download": 1, "skipped": 0}}, 3)
    record(account, 2, {"error": "disk full"}, 3)
    wanted = {
        ("rows", "success"): 8.0,
        ("rows", "failed_to_download"): 2.0,
        ("shards", "done"): 2.0,
        ("shards", "failed"): 1.0,
    }
    end = time.monotonic() + 60  # Ray sends them every few seconds
    while (found := exported("measured")) != wanted and time.monotonic() < end:
        time.sleep(1)
    assert found == wanted


def exported(job: str) -> dict[tuple[str, str], float]:
    """What the node's metrics port says of a job, by (rows or shards, status)."""
    import ray

    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if (name := re.match(r"ray_headwater_(rows|shards)_total\{", line)) and f'job="{job}"' in line:
            (status,) = re.findall(r'status="([^"]*)"', line)
            found[name[1], status] = float(line.rsplit(" ", 1)[1])
    return found
