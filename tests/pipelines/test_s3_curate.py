"""Curation, takedown and questions on a root in a bucket: what a local root has, and one line where S3 fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from filters.errors import HeadwaterError
from pipelines import curate, ingest
from pipelines.cli import main
from pipelines.lease import lease
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from tests.pipelines.chain import picture, picture_server
from tests.pipelines.s3 import BUCKET, Server, forget_servers, s3_server
from tests.pipelines.test_curate import BUSY, configured, lines, samples

pytest.importorskip("moto")
URL = f"s3://{BUCKET}/data"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


def curated(folder: Path, url: str) -> Root:
    """A root whose dump has grown since its ingest, and has a row that comes back, after two runs."""
    folder.mkdir()
    (folder / "dump").mkdir()
    (folder / "dump" / "a.tsv").write_text(lines(*range(6)), encoding="utf-8")
    answers = [*BUSY, (200, {"Content-Type": "image/png"}, picture(5))]
    with picture_server({"/5.png": answers}) as web:
        config = configured(folder, "none", web, None, report={"title": "t"}).model_copy(update={"root": url})
        mix = {"name": "all", "total": 5, "sources": [{"source": "cc12m"}]}
        (folder / "mix.yaml").write_text(yaml.safe_dump(mix), encoding="utf-8")
        ingest.run(config.ingest[0].model_copy(update={"root": url}))
        (folder / "dump" / "b.tsv").write_text(lines(6), encoding="utf-8")
        done = curate.run(config)
        assert done["stages"]["ingest:cc12m"]["added"] == 1 and done["stages"]["retry"]["rows_in"] == 1
        assert done["differences"]["mixtures"] == {"all": "new"} and "report" in done["stages"]
        root = Root(url)
        before = root.files()
        assert curate.run(config) == {"job": "curate", "rows_in": 0, "nothing_new": True}
        assert root.files() == before
    return root


@pytest.fixture(scope="module")
def roots(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Root]:
    """The same runs on a local root and on one in a bucket."""
    folder = tmp_path_factory.mktemp("roots")
    return curated(folder / "a", str(folder / "root")), curated(folder / "b", URL)


def test_curation_leaves_the_same_files_as_on_a_local_root(roots: tuple[Root, Root]) -> None:
    local, elsewhere = (
        {name for name in root.files() if name.startswith(("metadata", "retries", "shards", "mixes", "verdicts"))}
        for root in roots
    )
    assert local == elsewhere
    assert roots[1].exists("report", "index.html") and not roots[1].exists("curate.lease")
    for name in local:
        if not name.endswith("_stats.json"):
            assert roots[0].read_bytes(name) == roots[1].read_bytes(name), name
    assert samples(roots[0]) == samples(roots[1])


def test_of_two_at_once_the_second_says_so_in_one_line(
    roots: tuple[Root, Root], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(roots[1], "curate", 2.0):
        before = roots[1].files()
        assert main(["curate", "--root", URL]) == 2
        monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))  # as on another machine
        assert main(["curate", "--root", URL]) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert roots[1].files().keys() == before.keys()
    assert first == f"headwater curate: {URL}: a curate is running here; wait for it, or choose another --root"
    assert second.startswith(f"headwater curate: {URL}/curate.lease: a curate is running here (process ")


def test_a_run_whose_lease_was_taken_ends(
    roots: tuple[Root, Root], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def overtaken(config: ingest.IngestConfig) -> dict[str, object]:
        roots[1].write_json({"id": "another"}, "curate.lease")
        return {"rows_in": 1}

    monkeypatch.setattr(ingest, "run", overtaken)
    monkeypatch.setattr("pipelines.lease._RENEWALS", 1000)
    with picture_server() as web:
        (tmp_path / "dump").mkdir()
        config = configured(tmp_path, "none", web, None).model_copy(update={"root": URL})
        with pytest.raises(HeadwaterError, match=f"^{URL}/curate.lease: the lease was lost"):
            curate.run(config)
    assert roots[1].read_json("curate.lease") == {"id": "another"}
    roots[1].remove("curate.lease")


def test_a_schedule_of_a_root_in_a_bucket_has_its_page_there(server: Server, tmp_path: Path) -> None:
    root = Root(f"s3://{BUCKET}/scheduled")
    job = {"cron": "0 0 1 1 *", "command": ["power", "--help"]}
    path = tmp_path / "schedule.yaml"
    path.write_text(yaml.safe_dump({"root": root.url, "jobs": {"x": job}}), encoding="utf-8")
    assert main(["schedule", "--config", str(path), "--once"]) == 0
    assert root.names() == ["schedule.html", "schedule.json"]
    last = root.read_json("schedule.json")["jobs"]["x"]["last"]
    assert last["exit_code"] == 0 and b'<tr class="fine">' in root.read_bytes("schedule.html")


def test_what_is_removed_leaves_the_bucket_as_a_local_root(roots: tuple[Root, Root], tmp_path: Path) -> None:
    uid = next(uid for uid, row in samples(roots[0]).items() if row["url"].endswith("/3.png"))
    (tmp_path / "uids.txt").write_text(f"{uid}\n", encoding="utf-8")
    for root in roots:
        arguments = ["remove", "--root", root.url, "--uid-file", str(tmp_path / "uids.txt"), "--reason", "asked"]
        assert main([*arguments, "--compact"]) == 0
    named = [name for name in roots[0].files("shards") if not name.endswith("_stats.json")]
    for name in named:
        assert roots[0].read_bytes("shards", name) == roots[1].read_bytes("shards", name), name
    assert samples(roots[0]) == samples(roots[1])
    with connect(roots[1]) as con:
        names = {name for (name,) in con.execute("SELECT name FROM catalog_segments").fetchall()}
        names |= {name for (name,) in con.execute("SELECT name FROM catalog_lists").fetchall()}
    # Nothing of the catalog before is left, whose segments held the caption.
    assert {name.removesuffix(".duckdb") for name in roots[1].files("catalog")} >= names
    assert len(roots[1].files("catalog")) == len(roots[0].files("catalog"))


@pytest.mark.slow
def test_workers_of_ray_write_to_the_bucket(server: Server, tmp_path: Path) -> None:
    """In a process of its own, for a Ray whose workers know of the server."""
    root, dump = Root(f"s3://{BUCKET}/workers"), tmp_path / "dump"
    dump.mkdir()
    (dump / "a.tsv").write_text(lines(*range(6)), encoding="utf-8")
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump), samples_per_shard=3))
    with picture_server() as web:
        given = configured(tmp_path, "none", web, None).download
        assert given is not None
        config = {**given.model_dump(mode="json"), "root": root.url, "local": False}
        (tmp_path / "download.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        words = [sys.executable, "-m", "pipelines.cli", "download", "--config", str(tmp_path / "download.yaml")]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"success": 6}
    assert "ray: starting" in done.stderr and len(root.shards("shards")) == 2


ASK = (
    ["sql", "SELECT count(*) FROM samples"], ["schema", "samples"], ["explain", "00"], ["mix-diff", "all", "all"],
    ["mix", "--verify", "all"], ["failures"], ["curate"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("lacks", "asked", "code"), [*(("credentials", asked, 2) for asked in ASK), ("server", ASK[0], 1)]
)
def test_a_store_that_cannot_be_asked_is_one_line(
    lacks: str, asked: list[str], code: int, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if lacks == "server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
    forget_servers()
    try:
        assert main([asked[0], "--root", URL, *asked[1:]]) == code
    finally:
        forget_servers()
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"headwater {asked[0]}: root {URL}: the store cannot be asked (")


@pytest.mark.parametrize("asked", ASK[:2] + ASK[3:6], ids=lambda asked: asked[0])
def test_questions_are_answered_as_of_a_local_root(
    asked: list[str], roots: tuple[Root, Root], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for root in roots:
        code = main([asked[0], "--root", root.url, *asked[1:]])
        answers.append((code, capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert answers[0][1] != ""
