"""Curation over a web that grows: each run does the new work alone, and all end as one over the final web."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from filters.errors import BudgetExceeded, ConfigError, InputError
from pipelines import curate
from pipelines.config import load_config
from pipelines.lease import lease
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from tests.pipelines.chain import picture, picture_server

Answers = list[tuple[int, dict[str, str], bytes]]
GONE: Answers = [(404, {}, b"")]
BUSY: Answers = [(503, {}, b"")]
# Where a row stands in a root, and how often it was tried, is a matter of its history.
HISTORY = ("key", "shard", "offset", "attempt")


def lines(*numbers: int, word: str = "of") -> str:
    return "".join(f"http://pictures.test/{n}.png\ta picture {word} number {n}\n" for n in numbers)


def configured(folder: Path, root: str, server: Any, model: Path | None, **more: Any) -> curate.CurateConfig:
    """The configuration as from a file, for the dump under `folder`."""
    mix = {"name": "all", "total": 12, "sources": [{"source": "cc12m"}]}
    (folder / "mix.yaml").write_text(yaml.safe_dump(mix), encoding="utf-8")
    fetch = {"resolve": server.resolve, "backoff": 0.01, "deadline": 5.0, "retries": 0, "limit": {"rate": None}}
    given = {
        "root": str(folder / root), "local": True,
        "ingest": [{"source": "cc12m", "metadata": str(folder / "dump"), "samples_per_shard": 5}],
        "download": {"fetch": fetch, "encode_format": "png", "lanes": 1, "processes": 1},
        "retry": {"wait": 0, "reasons": ["http_5xx"]},
        "score": model and {"model": str(model)},
        "mix": {"configs": [str(folder / "mix.yaml")]},
        **more,
    }  # fmt: skip
    (folder / "curate.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return load_config(curate.CurateConfig, str(folder / "curate.yaml"), [])


def samples(root: Root) -> dict[str, dict[str, Any]]:
    """The rows of `samples` by uid, without their history and without those that the dump no longer has."""
    with connect(root) as con:
        rows = con.sql("FROM samples WHERE reason <> 'withdrawn'").to_arrow_table().drop_columns(HISTORY).to_pylist()
    # A score depends in its last digits on which pictures go through the model together.
    return {row["uid"]: {name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()} for row in rows}


def files(root: Root) -> dict[str, tuple[int, bytes]]:
    paths = sorted(path for path in root.local().rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def asked(server: Any) -> list[str]:
    found = sorted(path for path in server.seen if path != "/robots.txt")
    server.seen.clear()
    return found


def paths(*numbers: int) -> list[str]:
    return sorted(f"/{n}.png" for n in numbers)


def test_three_runs_do_the_new_work_alone_and_end_as_one(tmp_path: Path, tiny_model: Path) -> None:
    root, dump = Root(str(tmp_path / "root")), tmp_path / "dump"
    dump.mkdir()
    # 3 and 13 are dead, 5 is for a while; 15 is a copy of 6.
    faults: dict[str, Answers] = {
        "/3.png": GONE, "/13.png": GONE, "/5.png": list(BUSY),
        "/15.png": [(200, {"Content-Type": "image/png"}, picture(6))],
    }  # fmt: skip
    with picture_server(faults) as server:
        config = configured(tmp_path, "root", server, tiny_model, mix={"configs": []})
        (dump / "a.tsv").write_text(lines(*range(12)), encoding="utf-8")
        first = curate.run(config)
        assert asked(server) == paths(*range(12), 5)  # the one that may come back twice
        config = configured(tmp_path, "root", server, tiny_model)

        # New rows; 2 has another caption; nothing is tried again.
        (dump / "a.tsv").write_text(lines(0, 1) + lines(2, word="with") + lines(*range(3, 12)), encoding="utf-8")
        (dump / "b.tsv").write_text(lines(*range(12, 20)), encoding="utf-8")
        del server.faults["/5.png"]
        server.faults["/14.png"] = list(BUSY)
        second = curate.run(config.model_copy(update={"retry": None}))
        assert asked(server) == paths(2, *range(12, 20))

        # New rows; 7 has another caption; 11 has gone from the dump; 5 and 14 have come back.
        text = lines(0, 1) + lines(2, word="with") + lines(3, 4, 5, 6) + lines(7, word="with") + lines(8, 9, 10)
        (dump / "a.tsv").write_text(text, encoding="utf-8")
        (dump / "c.tsv").write_text(lines(*range(20, 24)), encoding="utf-8")
        del server.faults["/14.png"]
        third = curate.run(config)
        assert asked(server) == paths(7, *range(20, 24), 14, 5)

        before = files(root)
        assert curate.run(config) == {"job": "curate", "rows_in": 0, "nothing_new": True}
        assert asked(server) == [] and files(root) == before
        assert not root.exists("curate.lease")

        fresh = Root(str(tmp_path / "fresh"))
        curate.run(configured(tmp_path, "fresh", server, tiny_model))
        assert asked(server) == paths(*range(11), *range(12, 24))

    counts = [
        {name: stage["counts"] for name, stage in done["stages"].items() if name in ("ingest:cc12m", "download")}
        for done in (first, second, third)
    ]
    assert counts == [
        {"ingest:cc12m": {"ok": 12}, "download": {"success": 10, "failed_to_download": 2}},
        {"ingest:cc12m": {"ok": 9, "withdrawn": 1},
         "download": {"success": 7, "failed_to_download": 2, "skipped": 1}},
        {"ingest:cc12m": {"ok": 5, "withdrawn": 2}, "download": {"success": 5, "skipped": 2}},
    ]  # fmt: skip
    # Scored is each new picture once: 10; 7; 5 and two that came back.
    assert [done["stages"]["score"]["rows_in"] for done in (first, second, third)] == [10, 7, 7]
    assert first["stages"]["download"]["picture_bytes"] > 1000 and first["cost"]["cpu_seconds"] > 0
    assert third["differences"]["mixtures"] == {"all": "changed"} and second["differences"]["mixtures"] == {
        "all": "new"
    }
    assert third["differences"]["samples"] == {
        "cc12m failed_to_download": -2, "cc12m skipped": 2, "cc12m success": 5,
    }  # fmt: skip

    assert samples(root) == samples(fresh)
    assert sum(row["duplicate_of"] is not None for row in samples(root).values()) == 1
    uids = [np.load(where.local("mixes", "all", "uids.npy")) for where in (root, fresh)]
    assert (uids[0] == uids[1]).all() and len(uids[0]) == 12
    locks = [where.read_json("mixes", "all", "mix.lock.json") for where in (root, fresh)]
    assert locks[0]["digest"] == locks[1]["digest"]
    with connect(root) as con:
        rows = con.execute("SELECT status, summary FROM runs WHERE job = 'curate' ORDER BY id").fetchall()
    assert [status for status, _ in rows] == ["done"] * 3
    assert [json.loads(text)["stages"]["download"]["counts"] for _, text in rows] == [c["download"] for c in counts]


def test_a_budget_ends_between_shards_and_the_next_run_goes_on(tmp_path: Path) -> None:
    root, dump = Root(str(tmp_path / "root")), tmp_path / "dump"
    dump.mkdir()
    (dump / "a.tsv").write_text(lines(*range(15)), encoding="utf-8")
    with picture_server() as server:
        config = configured(tmp_path, "root", server, None, budget={"bytes": 1})
        with pytest.raises(BudgetExceeded) as ended:
            curate.run(config)
        assert str(ended.value).startswith("budget.bytes=1 are spent (")
        assert str(ended.value).endswith(
            "; left: 2 shards left in download, then retry, dedupe, index, mix; run the same command again to go on"
        )
        assert ended.value.summary["left"] == {
            "stages": ["download", "retry", "dedupe", "index", "mix"], "shards": 2,
        }  # fmt: skip
        assert len(asked(server)) == 5 and len(root.shards("shards")) == 1
        done = curate.run(configured(tmp_path, "root", server, None))
        assert len(asked(server)) == 10
        assert done["totals"]["samples"] == {"cc12m success": 15}
        assert curate.run(config)["nothing_new"]

        server.faults.update({f"/{n}.png": GONE for n in range(20, 30)})
        (dump / "b.tsv").write_text(lines(*range(20, 30)), encoding="utf-8")
        with pytest.raises(
            BudgetExceeded, match=r"5 of 5 rows failed, more than budget.failed_fraction=0.5; left: 1 "
        ):
            curate.run(configured(tmp_path, "root", server, None, budget={"failed_fraction": 0.5}))
    with connect(root) as con:
        statuses = con.execute("SELECT status FROM runs WHERE job = 'curate' ORDER BY id").fetchall()
    assert statuses == [("failed",), ("done",)]


def test_one_mixture_that_lacks_samples_does_not_stop_the_others(tmp_path: Path) -> None:
    root, dump = Root(str(tmp_path / "root")), tmp_path / "dump"
    dump.mkdir()
    (dump / "a.tsv").write_text(lines(*range(15)), encoding="utf-8")
    much = {"name": "much", "total": 99, "sources": [{"source": "cc12m"}]}
    (tmp_path / "much.yaml").write_text(yaml.safe_dump(much), encoding="utf-8")
    with picture_server() as server:
        mixes = [str(tmp_path / name) for name in ("much.yaml", "mix.yaml")]
        config = configured(tmp_path, "root", server, None, mix={"configs": mixes})
        with pytest.raises(BudgetExceeded, match=r"^mix much: "):
            curate.run(config)
        assert root.names("mixes") == ["all"]


def test_a_second_start_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    with picture_server() as server:
        config = configured(tmp_path, "root", server, None)
        with lease(root, "curate", 1e6):
            before = files(root)
            with pytest.raises(InputError, match="a curate is running here"):
                curate.run(config)
            assert files(root) == before


def test_root_and_local_are_given_once(tmp_path: Path) -> None:
    with picture_server() as server, pytest.raises(ConfigError, match="root is given once, for all stages"):
        configured(tmp_path, "root", server, None, dedupe={"root": "other"})
