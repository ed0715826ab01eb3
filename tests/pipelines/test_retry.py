"""Retries: only the rows asked for, in shards of their own, whatever was cut short before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from filters.errors import ConfigError, InputError
from pipelines import adopt, download, failures, index, ingest
from pipelines.config import load_config
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from tests.pipelines.chain import cc12m_dump, picture, picture_server
from tests.pipelines.test_download import prepare, settings

ROWS = 12
Answers = list[tuple[int, dict[str, str], bytes]]
BUSY: Answers = [(503, {}, b"")]
GONE: Answers = [(404, {}, b"")]


def retry(root: Root, server: Any, *reasons: str) -> dict[str, Any]:
    return download.run(settings(root, server, retries=0).model_copy(update={"retry": list(reasons)}))


def attempts(root: Root) -> dict[int, list[tuple[str, int, str]]]:
    """By the number in the URL: shard, attempt and reason of each attempt."""
    found: dict[int, list[tuple[str, int, str]]] = {}
    for shard in root.shards("shards"):
        for row in root.read_table("shards", shard.source, f"{shard.number}.parquet").to_pylist():
            number = int(str(row["url"]).rsplit("/", 1)[1].split(".")[0])
            found.setdefault(number, []).append((row["shard"], row["attempt"], row["reason"]))
    return found


def pictures_asked(server: Any) -> list[str]:
    return sorted(path for path in server.seen if path != "/robots.txt")


def keys(root: Root) -> list[str]:
    tables = [root.read_table("shards", s.source, f"{s.number}.parquet") for s in root.shards("shards")]
    return [key for table in tables for key in table["key"].to_pylist()]


def files(root: Root) -> dict[str, bytes]:
    names = [name for name in root.names("shards", "cc12m") if not name.endswith("_stats.json")]
    return {name: root.read_bytes("shards", "cc12m", name) for name in names}


def test_only_the_rows_asked_for_go_to_new_shards(tmp_path: Path) -> None:
    root = prepare(tmp_path, per_shard=4)
    faults = {f"/{n}.png": list(BUSY) for n in range(6)} | {"/6.png": list(GONE)}
    with picture_server(faults) as server:
        retry_free = settings(root, server, retries=0)
        download.run(retry_free)
        before = files(root)
        server.seen.clear()
        for number in range(5):
            del server.faults[f"/{number}.png"]
        summary = retry(root, server, "http_5xx")
        assert pictures_asked(server) == [f"/{n}.png" for n in range(6)]
        assert (summary["rows_in"], summary["counts"]) == (6, {"failed_to_download": 1, "success": 5})
        after = files(root)
        assert {name: after[name] for name in before} == before
        assert sorted(set(after) - set(before)) == [f"0000{n}.{end}" for n in (3, 4) for end in ("parquet", "tar")]
        found = attempts(root)
        assert all([a for _, a, _ in found[n]] == [0, 1] for n in range(6))
        assert all(found[n][-1][-1] == "ok" for n in range(5))
        assert found[5][-1] == (found[5][-1][0], 1, "http_5xx")
        assert all(len(found[n]) == 1 for n in range(6, ROWS))
        assert len(set(keys(root))) == ROWS + 6
        # What was retried is done: a plain download has nothing to do, and another retry takes the one that is left.
        server.seen.clear()
        assert download.run(retry_free)["shards_skipped"] == 5
        assert retry(root, server, "http_5xx", "timeout")["rows_in"] == 1
        assert pictures_asked(server) == ["/5.png"]
        assert [a for _, a, _ in attempts(root)[5]] == [0, 1, 2]
    index.run(index.IndexConfig(root=root.url))
    with connect(root) as con:
        counts = con.execute("SELECT status::VARCHAR, count(*) FROM samples GROUP BY status ORDER BY 1").fetchall()
        assert counts == [("failed_to_download", 2), ("success", ROWS - 2)]
        assert con.execute("SELECT count(*) FROM attempts").fetchone() == (ROWS + 7,)


def test_nothing_to_retry_makes_nothing(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server() as server:
        download.run(settings(root, server))
        before = files(root)
        assert retry(root, server, "timeout")["rows_in"] == 0
    assert files(root) == before
    assert root.names("retries") == []


def test_a_retry_that_was_cut_short_is_finished_before_another_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = prepare(tmp_path, per_shard=4)
    with picture_server({f"/{n}.png": list(BUSY) for n in range(6)}) as server:
        download.run(settings(root, server, retries=0))
        monkeypatch.setattr(download, "write_shard", killed)
        retry(root, server, "http_5xx")
        monkeypatch.undo()
        assert len(root.names("retries", "cc12m")) == 2
        server.seen.clear()
        assert retry(root, server, "http_5xx")["shards_done"] == 2
        assert "2 shards of an earlier retry come first" in capsys.readouterr().err
        assert pictures_asked(server) == [f"/{n}.png" for n in range(6)]
    assert len(root.names("retries", "cc12m")) == 2


def killed(*_: object) -> None:
    raise OSError("killed here")


def test_a_plan_that_was_cut_short_is_planned_again(tmp_path: Path) -> None:
    roots = [prepare(tmp_path / name, per_shard=2) for name in ("whole", "cut")]
    for root in roots:
        with picture_server({f"/{n}.png": list(BUSY) for n in range(6)}) as server:
            download.run(settings(root, server, retries=0))
            if root is roots[1]:
                # As a kill in the middle of the planning leaves it: all but the first slices.
                retry(root, server, "http_5xx")
                for name in root.names("shards", "cc12m"):
                    if int(name[:5]) >= ROWS // 2:
                        root.remove("shards", "cc12m", name)
                root.remove("retries", "cc12m", "00006.parquet")
            server.faults.clear()
            retry(root, server, "http_5xx")
    assert files(roots[0]) == files(roots[1])
    assert all(found[-1][-1] == "ok" for found in attempts(roots[1]).values())


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("http_404", "it is not asked again"),
        ("opt_out", "it is not asked again"),
        ("nsfw_declared", "expected one of"),
        ("time_out", "expected one of .*timeout"),
    ],
)
def test_reasons_that_no_retry_can_have(tmp_path: Path, reason: str, says: str) -> None:
    root = prepare(tmp_path)
    with pytest.raises(ConfigError, match=says):
        download.run(download.DownloadConfig(root=root.url, local=True, retry=[reason]))


def test_the_flag_takes_reasons_separated_by_commas() -> None:
    config = load_config(download.DownloadConfig, None, [("retry", "timeout, http_429")])
    assert config.retry == ["timeout", "http_429"]


def test_a_dry_run_says_how_many_rows_and_plans_nothing(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server({"/3.png": list(BUSY)}) as server:
        download.run(settings(root, server, retries=0))
        config = settings(root, server).model_copy(update={"retry": ["http_5xx"]})
    assert download.plan(config) == {"shards": [], "rows": {"cc12m": 1}}
    assert root.names("retries") == []


def test_retries_of_an_earlier_ingest_are_refused(tmp_path: Path) -> None:
    root = prepare(tmp_path, per_shard=4)
    with picture_server({"/3.png": list(BUSY)}) as server:
        download.run(settings(root, server, retries=0))
        retry(root, server, "http_5xx")
        config = ingest.IngestConfig(
            root=root.url, source="cc12m", metadata=str(cc12m_dump(tmp_path, ROWS)), samples_per_shard=5
        )
        ingest.run(config)
        with pytest.raises(InputError, match="retries/cc12m: made for another ingest"):
            download.run(settings(root, server))


def test_failed_rows_of_adopted_tars_are_tried_again(tmp_path: Path) -> None:
    """As img2dataset leaves them: tars and parquets somewhere else, and no ingest."""
    first = prepare(tmp_path / "first", per_shard=4)
    with picture_server({f"/{n}.png": list(BUSY) for n in range(3)} | {"/3.png": list(GONE)}) as server:
        download.run(settings(first, server, retries=0))
        root = Root(str(tmp_path / "second"))
        adopted = adopt.AdoptConfig(
            root=root.url, tars=str(first.local("shards", "cc12m")), source="cc12m", local=True
        )
        adopt.run(adopted)
        server.faults.clear()
        server.seen.clear()
        assert retry(root, server, "http_5xx")["counts"] == {"success": 3}
        assert pictures_asked(server) == ["/0.png", "/1.png", "/2.png"]
        assert retry(root, server, "http_5xx")["rows_in"] == 0
    assert all(found[-1][1:] == (1, "ok") for n, found in attempts(root).items() if n < 3)
    assert len(set(keys(root))) == ROWS + 3
    # The shard of the retry is no obstacle to adopting once more.
    assert adopt.run(adopted)["shards_skipped"] == 3


def test_a_retry_with_other_settings_is_refused(tmp_path: Path) -> None:
    root = prepare(tmp_path)
    with picture_server({"/3.png": list(BUSY)}) as server:
        download.run(settings(root, server, retries=0))
        other = settings(root, server).model_copy(update={"retry": ["http_5xx"], "image_size": 32})
        with pytest.raises(InputError, match="was made with other settings"):
            download.run(other)


def test_the_report_says_where_and_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = prepare(tmp_path)
    faults = {f"/{n}.png": list(BUSY) for n in range(3)}
    faults |= {"/3.png": list(GONE), "/4.png": [(200, {}, picture(4)[:60])], "/5.png": [(403, {}, b"")]}
    with picture_server(faults) as server:
        summary = download.run(settings(root, server, retries=0))
        found = summary["failures"]
        assert {reason: found[reason]["rows"] for reason in found} == {
            "http_5xx": 3, "decode": 1, "http_404": 1, "http_4xx": 1,
        }  # fmt: skip
        assert found["http_5xx"]["hosts"] == {"pictures.test": 3}
        assert found["http_5xx"]["errors"] == {"HTTP Error 503: Service Unavailable": 3}
        assert found["http_5xx"]["try"].endswith("--retry http_5xx")
        assert found["http_404"]["try"] == ""
        printed = capsys.readouterr().err
        assert "6 of 12 rows failed" in printed
        assert "3 http_5xx, the server still failed after the retries: pictures.test 3" in printed
        # The command sees the latest attempt of each row.
        server.faults.clear()
        retry(root, server, "http_5xx")
    capsys.readouterr()
    assert failures.main(["--root", root.url]) == 0
    assert "3 of 12 rows failed" in capsys.readouterr().out
    assert failures.main(["--root", str(tmp_path / "nowhere")]) == 2
    assert "nothing downloaded" in capsys.readouterr().err
