"""The frame of all jobs: what is printed and written down when a job ends, well or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from filters.errors import BudgetExceeded, HeadwaterError
from pipelines import download
from pipelines.config import JobConfig
from pipelines.job import Account, job_main
from tests.pipelines.chain import picture_server
from tests.pipelines.test_download import prepare


def test_account_says_where_rows_are_lost() -> None:
    account = Account("download")
    account.add(3, {"success": 2})
    with pytest.raises(HeadwaterError, match=r"^3 rows in, 2 accounted for"):
        account.check()


def test_too_many_failed_shards_are_exit_code_3() -> None:
    account = Account("download", shards_done=1, shards_failed={"a/00000": "broken"})
    account.check(max_failed_fraction=0.5)
    with pytest.raises(BudgetExceeded, match=r"1 of 2 shards failed.*first: a/00000: broken") as caught:
        account.check(max_failed_fraction=0.4)
    assert caught.value.exit_code == 3
    assert caught.value.summary == account.summary()


@pytest.mark.parametrize(
    ("counts", "fails"),
    [(None, True), ({}, False), ({"usable": 1, "failed": 1}, False), ({"usable": 1, "failed": 2}, True)],
)
def test_of_the_rows_only_those_of_this_job_may_count(counts: Mapping[str, int] | None, fails: bool) -> None:
    account = Account("adopt")
    account.add(12, {"success": 1, "failed_to_download": 2, "skipped": 9})
    if not fails:
        account.check_rows(0.5, counts)
        return
    with pytest.raises(BudgetExceeded, match=r"^2 of 3 rows failed") as caught:
        account.check_rows(0.5, counts)
    assert caught.value.summary["rows_in"] == 12


def exceeds(config: JobConfig) -> dict[str, Any]:
    account = Account("score", shards_failed={"a/00000": "ShardError: broken"})
    account.add(2, {"success": 1, "failed_to_embed": 1})
    account.check(config.max_failed_fraction)
    return account.summary()


def test_a_job_with_too_many_failures_prints_its_summary_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job_main("score", JobConfig, exceeds, lambda _: {}, ["--root", str(tmp_path)]) == 3
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    summary = json.loads(printed.out)
    assert summary["counts"] == {"failed_to_embed": 1, "success": 1}
    assert printed.err.startswith(
        "headwater score: 1 of 1 shards failed, more than max_failed_fraction=0.5; first: a/"
    )
    (run,) = (tmp_path / "runs").glob("*.json")
    record = json.loads(run.read_text())
    assert (record["status"], record["summary"]) == ("failed", summary)


def test_a_download_with_too_many_failures_says_how_many_on_both_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = prepare(tmp_path, rows=4)
    with picture_server({f"/{n}.png": [(404, {}, b"")] for n in range(3)}) as server:
        resolve = json.dumps(server.resolve)
        capsys.readouterr()
        assert download.main(["--root", root.url, "--local", "--set", f"fetch.resolve={resolve}"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["counts"] == {"failed_to_download": 3, "success": 1}
    assert json.loads(printed.out)["failures"]["http_404"]["rows"] == 3
    assert "headwater download: 3 of 4 rows failed" in printed.err
    assert "download: download:" not in printed.err
