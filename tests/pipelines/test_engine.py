"""The engine on real Ray: results, errors and crashes of single shards, and the account."""

from __future__ import annotations

import os
from typing import Any

import pytest

from filters.errors import BudgetExceeded, ConfigError, HeadwaterError, InputError
from pipelines.engine import Work, map_shards
from pipelines.job import Account

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


@pytest.mark.usefixtures("ray_session")
def test_on_ray_a_crash_is_blamed_on_its_item_alone(capsys: pytest.CaptureFixture[str]) -> None:
    results = dict(map_shards(list(range(8)), make))
    assert sorted(results) == list(range(8))
    assert "worker process died" in results[CRASHES]["error"]
    assert "is bad" in results[FAILS]["error"]
    assert all(results[i]["item"] == i for i in range(8) if i not in (CRASHES, FAILS))
    assert "a worker was lost" in capsys.readouterr().err


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


def test_nothing_to_do_starts_nothing() -> None:
    assert list(map_shards([], make)) == []


def test_account_says_where_rows_are_lost() -> None:
    account = Account("download")
    account.add(3, {"success": 2})
    with pytest.raises(HeadwaterError, match="3 rows in, 2 accounted for"):
        account.check()


def test_too_many_failed_shards_are_exit_code_3() -> None:
    account = Account("download", shards_done=1, shards_failed={"a/00000": "broken"})
    account.check(max_failed_fraction=0.5)
    with pytest.raises(BudgetExceeded, match=r"1 of 2 shards failed.*first: a/00000: broken") as caught:
        account.check(max_failed_fraction=0.4)
    assert caught.value.exit_code == 3
