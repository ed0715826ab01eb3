"""The engine on real Ray: results, errors and crashes of single shards, and the account."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from filters.errors import ConfigError, InputError
from pipelines.engine import Work, gated, map_shards, room

CRASHES, FAILS = 3, 5


def make() -> Work:
    def work(item: int) -> dict[str, Any]:
        if item == CRASHES:
            os._exit(1)
        if item == FAILS:
            raise ValueError(f"item {item}\nis bad")
        return {"rows": 1, "counts": {"done": 1}, "item": item}

    return work


def test_local_runs_record_errors_and_go_on() -> None:
    results = dict(map_shards([1, FAILS, 2], make, local=True))
    assert results[FAILS] == {"error": f"ValueError: item {FAILS} is bad"}
    assert [results[i]["item"] for i in (1, 2)] == [1, 2]


def slow() -> Work:
    def work(item: int) -> dict[str, Any]:
        time.sleep(0.05)
        return {"item": item}

    return work


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_gate_ends_a_run_after_what_is_under_way(lanes: int) -> None:
    seen: list[Any] = []

    def gate(result: dict[str, Any]) -> bool:
        seen.append(result["item"])
        return len(seen) >= 3

    with gated(gate):
        found = [item for item, _ in map_shards(list(range(9)), slow, local=True, lanes=lanes)]
    assert 3 <= len(found) <= 3 + lanes - 1 and sorted(found) == sorted(seen)
    assert len(dict(map_shards(list(range(9)), slow, local=True))) == 9


@pytest.mark.usefixtures("ray_session")
def test_a_gate_ends_a_run_on_ray() -> None:
    with gated(lambda _result: True):
        assert len(dict(map_shards(list(range(9)), slow))) == 1
    assert len(dict(map_shards(list(range(9)), slow))) == 9


@pytest.mark.usefixtures("ray_session")
def test_on_ray_a_crash_is_blamed_on_its_item_alone() -> None:
    results = dict(map_shards(list(range(8)), make))
    assert sorted(results) == list(range(8))
    assert results[CRASHES] == {"error": "its worker process died 4 times; the shard is left out"}
    assert "is bad" in results[FAILS]["error"]
    assert all(results[i]["item"] == i for i in range(8) if i not in (CRASHES, FAILS))


@pytest.mark.usefixtures("ray_session")
def test_on_ray_a_worker_killed_from_outside_costs_its_item_a_second_try(tmp_path: Path) -> None:
    """Each item kills the worker that takes it first, as a machine that goes away would."""
    results = dict(map_shards(list(range(4)), partial(killed_once, tmp_path)))
    assert results == {item: {"item": item} for item in range(4)}
    tries = [path.read_text().split() for path in sorted(tmp_path.iterdir())]
    assert [len(pids) for pids in tries] == [2] * 4


def killed_once(folder: Path) -> Work:
    def work(item: int) -> dict[str, Any]:
        tries = folder / str(item)
        is_first = not tries.exists()
        with tries.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"item": item}

    return work


@pytest.mark.usefixtures("ray_session")
def test_on_ray_a_worker_that_dies_while_it_starts_fails_its_items_and_ends() -> None:
    results = dict(map_shards([1, 2], partial(os._exit, 1)))
    assert sorted(results) == [1, 2]
    assert all("error" in result for result in results.values())


def test_local_work_is_closed_at_the_end() -> None:
    class Closing:
        closed = 0

        def __call__(self, item: int) -> dict[str, Any]:
            return {"item": item, "closed": self.closed}

        def close(self) -> None:
            self.closed += 1

    work = Closing()
    assert [result["closed"] for _, result in map_shards([1, 2], lambda: work, local=True)] == [0, 0]
    assert work.closed == 1


class Preparing:
    """Handles an item while the next one is read, and says by how many items the reading was ahead of it."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def prepare(self, item: int) -> None:
        if item not in self.read:
            self.read.append(item)

    def __call__(self, item: int) -> dict[str, Any]:
        time.sleep(0.2)
        if item == CRASHES:
            os._exit(1)
        return {"item": item, "ahead": len(self.read) - self.read.index(item) - 1}


def test_local_work_is_prepared_one_item_ahead() -> None:
    results = [result for _, result in map_shards([0, 1, 2, 4], Preparing, local=True, ahead=True)]
    assert results == [{"item": item, "ahead": int(item != 4)} for item in (0, 1, 2, 4)]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_on_ray_work_is_prepared_one_item_ahead_and_a_crash_is_blamed_on_its_item_alone() -> None:
    ours = [item for item in range(12) if item != CRASHES]
    results = dict(map_shards(ours, Preparing, ahead=True))
    assert sorted(results) == ours
    # Read and not begun: one item, never two.
    assert {result["ahead"] for result in results.values()} == {0, 1}
    crashed = dict(map_shards([CRASHES, 4, 5, 6], AlonePreparing, ahead=True))
    assert "died" in crashed.pop(CRASHES)["error"]
    assert {item: result["item"] for item, result in crashed.items()} == {4: 4, 5: 5, 6: 6}


class AlonePreparing(Preparing):
    """Where a worker died, items are done one by one and unprepared."""

    def __call__(self, item: int) -> dict[str, Any]:
        self.prepare(item)
        return super().__call__(item)


def cannot() -> Work:
    raise InputError("no such model")


@pytest.mark.usefixtures("ray_session")
def test_on_ray_a_worker_that_cannot_start_says_why() -> None:
    results = dict(map_shards([1, 2], cannot))
    assert results == {item: {"error": "InputError: no such model"} for item in (1, 2)}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("wants", "says"), [({"gpus": 99}, "99 GPUs"), ({"cpus": 9999}, "9999 CPUs")])
def test_a_worker_that_fits_nowhere_is_not_waited_for(wants: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        list(map_shards([1], make, **wants))


def test_a_worker_needs_its_room_on_one_node() -> None:
    head, cpu, gpu = {"CPU": 0.0}, {"CPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}
    assert room([head, cpu, gpu], {"CPU": 2, "GPU": 0}) == 1 + 4
    assert room([head, cpu, gpu], {"CPU": 3, "GPU": 1}) == 2
    assert room([head, cpu], {"CPU": 0.5, "GPU": 0}) == 6
    with pytest.raises(ConfigError, match=r"4 CPUs, Ray has 3 on its largest node; lower --cpus"):
        room([cpu, cpu], {"CPU": 4, "GPU": 0})
    with pytest.raises(ConfigError, match=r"8 CPUs and 1 GPUs, and no node"):
        room([{"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}], {"CPU": 8, "GPU": 1})


@pytest.mark.slow
def test_one_cpu_is_enough_for_a_pool_and_more_is_refused() -> None:
    """In a process of its own, for a Ray of its own: a pool that took all of its CPU would wait for what feeds it."""
    script = """
from pipelines.engine import map_shards
from pipelines.ray_session import start_ray, stop_ray
from tests.pipelines.test_engine import small
start_ray(cpus=1)
print(sorted(item for item, _ in map_shards([0, 1, 2], small, cpus=1)))
try:
    list(map_shards([0], small, cpus=2))
except Exception as error:
    print(error)
stop_ray()
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout.splitlines() == [
        "[0, 1, 2]", "a worker asks for 2 CPUs, Ray has 1 on its largest node; lower --cpus"
    ], done.stderr  # fmt: skip


def small() -> Work:
    return lambda item: {"item": item}


def test_nothing_to_do_starts_nothing() -> None:
    assert list(map_shards([], make)) == []


def test_a_cluster_that_does_not_answer_is_ended_all_the_same() -> None:
    """Its head is stopped, so that it takes questions and never answers: in a process of its own, which must end."""
    script = """
import psutil
from pipelines.ray_session import start_ray, stop_ray
start_ray()
(head,) = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("gcs_server")]
head.suspend()
stop_ray(1.0)
print(len(psutil.Process().children(recursive=True)), "left")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "0 left\n"), done.stderr
