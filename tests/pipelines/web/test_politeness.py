"""Politeness as the server sees it: its log of requests and connections is what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from pipelines.web.cluster import cluster_limits
from pipelines.web.config import FetchConfig, HostLimit
from pipelines.web.fetch import Fetched, Fetcher
from pipelines.web.hosts import Answer, Ledger, Limits, Report, local_limits
from tests.pipelines.web.logged import Log, logged_server


def settings(log: Log, concurrency: int = 8, rate: float | None = None, **more: Any) -> FetchConfig:
    limit = HostLimit(concurrency=concurrency, rate=rate)
    return FetchConfig(resolve=log.resolve, limit=limit, **{"backoff": 0.05, **more})


def urls_of(host: str, count: int, worker: str = "") -> list[str]:
    return [f"http://{host}/{worker}{i}.jpg" for i in range(count)]


async def fetch(config: FetchConfig, limits: Limits, urls: Sequence[str]) -> list[Fetched]:
    found: dict[int, Fetched] = {}

    async def take(index: int, result: Fetched) -> None:
        assert index not in found
        found[index] = result

    fetcher = Fetcher(config, limits)
    try:
        await fetcher.fetch_all(urls, take)
    finally:
        await fetcher.close()
    return [found[index] for index in range(len(urls))]


def run_workers(config: FetchConfig, limits: Limits, work: Sequence[Sequence[str]]) -> list[list[Fetched]]:
    """One fetcher for each list of URLs, all at the same time with the same limits."""

    async def all_of_them() -> list[list[Fetched]]:
        return await asyncio.gather(*(fetch(config, limits, urls) for urls in work))

    return asyncio.run(all_of_them())


class Far:
    """Limits as a worker far from the ledger has them: few exchanges, each with a delay, and another clock."""

    tick = 0.05

    def __init__(self, config: FetchConfig) -> None:
        self._ledger = Ledger(config, clock=lambda: time.monotonic() + 1e6)

    async def exchange(self, worker: str, report: Report) -> Answer:
        await asyncio.sleep(0.005)
        answer = self._ledger.exchange(worker, report)
        await asyncio.sleep(0.02)
        return answer


def test_no_second_has_more_requests_than_the_rate_whatever_the_number_of_workers() -> None:
    with logged_server() as log:
        config = settings(log, rate=20.0)
        limits = Far(config)
        work = [urls_of("a.test", 25, worker) + urls_of("b.test", 10, worker) for worker in "xyz"]
        results = run_workers(config, limits, work)
    assert {result.reason for worker in results for result in worker} == {"ok"}
    busiest = log.busiest_second()
    assert max(busiest.values()) <= 20
    assert len(log.times("a.test")) == 75 + len(log.times("a.test", "/robots.txt")) == 76


def test_no_host_has_more_requests_or_connections_than_its_concurrency() -> None:
    with logged_server(delay=0.03) as log:
        config = settings(log, concurrency=3)
        results = run_workers(config, local_limits(config), [urls_of("a.test", 60), urls_of("b.test", 20)])
    assert {result.reason for worker in results for result in worker} == {"ok"}
    assert max(log.most_open.values()) == 3
    assert log.connections <= 12


def test_workers_share_a_hosts_concurrency() -> None:
    with logged_server(delay=0.03) as log:
        config = settings(log, concurrency=4)
        work = [urls_of("a.test", 40, worker) for worker in "xyz"]
        results = run_workers(config, Far(config), work)
    assert {result.reason for worker in results for result in worker} == {"ok"}
    assert 2 <= log.most_open["a.test"] <= 4


@pytest.mark.parametrize("rate", [None, 20.0])
def test_more_workers_than_a_host_takes_connections(rate: float | None) -> None:
    """They take turns, and who has none keeps no connection open."""
    with logged_server(delay=0.01) as log:
        config = settings(log, concurrency=1, rate=rate)
        work = [urls_of("a.test", 10, worker) for worker in "xyz"]
        results = run_workers(config, Far(config), work)
    assert {result.reason for worker in results for result in worker} == {"ok"}
    assert log.most_open == {"a.test": 1}


def test_retry_after_is_kept_by_every_worker() -> None:
    """Nothing but what was on its way reaches the host in the seconds it asked for; others are not held up."""
    with logged_server({"/x3.jpg": [(429, {"Retry-After": "2"}, b""), (200, {}, b"picture")]}) as log:
        config = settings(log, concurrency=2, rate=20.0)
        work = [urls_of("a.test", 12, "x"), urls_of("a.test", 12, "y") + urls_of("b.test", 12, "y")]
        results = run_workers(config, Far(config), work)
        refused = log.times("a.test", "/x3.jpg")[0]
    assert {result.reason for worker in results for result in worker} == {"ok"}
    during = [at for at in log.times("a.test") if refused + 0.5 < at < refused + 2]
    assert during == []
    assert log.times("a.test", "/x3.jpg")[1] >= refused + 2
    assert min(log.times("b.test")) < refused + 2


def test_retry_after_may_be_a_date() -> None:
    """Dates have whole seconds, so that the one in three seconds is at least two away."""
    until = time.time() + 3
    busy = {"Retry-After": format_datetime(datetime.fromtimestamp(until, UTC), usegmt=True)}
    with logged_server({"/1.jpg": [(503, busy, b""), (200, {}, b"picture")]}) as log:
        config = settings(log, concurrency=1)
        results = run_workers(config, local_limits(config), [urls_of("a.test", 4)])[0]
        ahead = time.time() - time.monotonic()
    assert {result.reason for result in results} == {"ok"}
    refused = log.times("a.test", "/1.jpg")[0]
    assert not [at for at in log.times("a.test") if refused < at < int(until) - ahead - 0.1]
    assert len(log.times("a.test", "/1.jpg")) == 2


def test_retry_after_that_is_too_long_ends_what_waits_for_every_worker() -> None:
    """Whoever has rows of the host left, not only who was refused, gives them back at once."""
    with logged_server({"/x1.jpg": [(503, {"Retry-After": "3600"}, b"")]}) as log:
        config = settings(log, concurrency=1)
        began = time.monotonic()
        work = [urls_of("a.test", 4, "x"), urls_of("a.test", 400, "y") + urls_of("b.test", 2)]
        x, y = run_workers(config, Far(config), work)
        assert time.monotonic() - began < config.shard_deadline / 10
    assert [result.reason for result in x] == ["ok", "http_5xx", "host_budget", "host_budget"]
    assert y[399].reason == "host_budget"
    assert [result.reason for result in y[400:]] == ["ok", "ok"]


def test_retry_after_that_is_too_long_ends_what_waits() -> None:
    """The refused row is `http_429` at once; rows that could not be served before the shard's deadline end too."""
    with logged_server({"/3.jpg": [(503, {"Retry-After": "3600"}, b"")]}) as log:
        config = settings(log, concurrency=1)
        began = time.monotonic()
        results = run_workers(config, local_limits(config), [urls_of("a.test", 10) + urls_of("b.test", 2)])[0]
        assert time.monotonic() - began < config.shard_deadline / 10
    assert [result.reason for result in results] == ["ok"] * 3 + ["http_5xx"] + ["host_budget"] * 6 + ["ok"] * 2
    assert log.paths().count("/3.jpg") == 1


def test_a_host_that_is_too_slow_for_the_shard_leaves_rows_for_later() -> None:
    with logged_server() as log:
        config = settings(log, rate=2.0, shard_deadline=2.0, hosts={"quick.test": HostLimit(rate=None)})
        work = urls_of("slow.test", 50) + urls_of("quick.test", 50)
        results = run_workers(config, local_limits(config), [work])[0]
    reasons = [result.reason for result in results]
    assert set(reasons[50:]) == {"ok"}
    assert set(reasons[:50]) == {"ok", "host_budget"}
    assert 2 <= reasons.count("ok") - 50 <= 4
    assert len(log.times("slow.test")) <= 5


def test_an_opted_out_url_is_asked_for_once() -> None:
    refusals = {
        "/0.jpg": (200, {"X-Robots-Tag": "noai"}, b"picture"),
        "/1.jpg": (200, {"TDM-Reservation": "1"}, b"picture"),
        "/2.jpg": (404, {}, b""),
        "/3.jpg": (410, {}, b""),
        "/4.jpg": (403, {}, b""),
    }
    with logged_server({path: [reply] for path, reply in refusals.items()}) as log:
        config = settings(log, retries=3)
        results = run_workers(config, local_limits(config), [urls_of("a.test", 5)])[0]
    assert [r.reason for r in results] == ["opt_out", "tdm_reserved", "http_404", "http_410", "http_4xx"]
    assert sorted(log.paths()) == [*sorted(refusals), "/robots.txt"]


def test_robots_files_are_obeyed_and_asked_for_once_by_all_workers() -> None:
    rules = b"User-agent: *\nDisallow: /private/\nCrawl-delay: 0.3\n\nUser-agent: headwater\nDisallow: /1.jpg\n"
    with logged_server({"/robots.txt": [(200, {"X-Robots-Tag": "noindex"}, rules)]}) as log:
        config = settings(log)
        limits = local_limits(config)
        results = run_workers(config, limits, [urls_of("a.test", 3), urls_of("a.test", 3)])
        other = config.model_copy(update={"user_agent": "another/1.0"})
        delayed = run_workers(other, limits, [["http://b.test/private/1.jpg", *urls_of("b.test", 4)]])[0]
    assert [[r.reason for r in worker] for worker in results] == [["ok", "robots", "ok"]] * 2
    assert [r.reason for r in delayed] == ["robots", "ok", "ok", "ok", "ok"]
    assert len(log.times("a.test", "/robots.txt")) == 1
    times = log.times("b.test")
    assert min(later - at for at, later in pairwise(times[1:])) >= 0.29


@pytest.mark.parametrize(
    ("status", "reason", "asked"), [(404, "ok", 1), (403, "ok", 1), (503, "http_5xx", 3), (429, "http_429", 3)]
)
def test_a_host_without_a_robots_file_allows_all_and_one_that_fails_nothing(
    status: int, reason: str, asked: int
) -> None:
    with logged_server({"/robots.txt": [(status, {}, b"")]}) as log:
        config = settings(log, backoff=0.01)
        results = run_workers(config, local_limits(config), [urls_of("a.test", 3)])[0]
    assert [result.reason for result in results] == [reason] * 3
    assert log.paths().count("/robots.txt") == asked
    assert len(log.seen) == asked + (3 if reason == "ok" else 0)


def fetch_in_a_task(config: FetchConfig, limits: Limits, urls: Sequence[str]) -> list[str]:
    """What a Ray worker does with its shard; the reasons."""
    return [result.reason for result in asyncio.run(fetch(config, limits, urls))]


@pytest.mark.usefixtures("ray_session")
def test_limits_hold_over_the_processes_of_a_cluster_even_if_the_ledger_is_lost() -> None:
    import ray

    with logged_server(delay=0.02) as log:
        config = settings(log, concurrency=2, rate=20.0)
        limits = cluster_limits(config)
        task = ray.remote(num_cpus=0)(fetch_in_a_task)
        refs = [task.remote(config, limits, urls_of("a.test", 40, worker)) for worker in "xy"]
        while len(log.seen) < 20:
            time.sleep(0.01)
        waiting = limits.waiting()
        assert waiting is not None
        assert (waiting.shards, [name for name, _, _ in waiting.hosts]) == (2, ["a.test"])
        assert 0 < waiting.rows < 80
        ray.kill(limits.find(), no_restart=True)  # type: ignore[attr-defined]
        reasons = ray.get(refs)
    assert reasons == [["ok"] * 40] * 2
    assert log.most_open["a.test"] <= 2
    assert log.busiest_second()["a.test"] <= 20
