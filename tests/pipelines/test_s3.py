"""A data root on S3: the same files and answers as a local one, whoever reads or writes it at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from filters.errors import ShardError
from pipelines import build_mix, dedupe, download, index, ingest, materialize, verify_mix
from pipelines.store import publish
from pipelines.store.catalog import connect
from pipelines.store.mirror import FILE, FOLDER, OvertakenError
from pipelines.store.root import Root
from pipelines.store.stages import choose
from pipelines.store.survey import survey
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import cc12m_dump, picture, picture_server
from tests.pipelines.s3 import BUCKET, Server, s3_server

pytest.importorskip("moto")
ROWS = 10
# Views as SQL answers them; what says when or where is left out.
VIEWS = (
    "SELECT * FROM samples ORDER BY ALL", "SELECT * FROM attempts ORDER BY ALL", "FROM sources", "FROM shards",
    "SELECT * FROM mixture_samples ORDER BY ALL", "FROM mixtures", "FROM columns", "FROM presets",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


def fill(root: str, folder: Path) -> None:
    """Shards of pictures over HTTP, and verdicts, with an evaluation set of one of them."""
    Root(root).write_bytes(picture(3), "eval", "held", "3.png")
    metadata = str(cc12m_dump(folder, ROWS))
    ingest.run(ingest.IngestConfig(root=root, source="cc12m", metadata=metadata, samples_per_shard=4))
    with picture_server({"/1.png": [(404, {}, b"")]}) as web:
        fetch = FetchConfig(resolve=web.resolve, limit=HostLimit(rate=None))
        download.run(download.DownloadConfig(root=root, local=True, encode_format="png", fetch=fetch))
    dedupe.run(dedupe.DedupeConfig(root=root, local=True, tasks="eval"))


def mix(root: str) -> dict[str, Any]:
    summary = {"rows_in": 1}
    record = {"id": "a", "job": "score", "started": "2026", "status": "done", "summary": summary, "config": {}}
    Root(root).write_json(record, "runs", "a.json")
    index.run(index.IndexConfig(root=root))
    page = {"root": root, "name": "m", "total": 6, "sources": [{"source": "cc12m"}]}
    done = build_mix.run(build_mix.MixJobConfig.model_validate(page))
    index.run(index.IndexConfig(root=root))
    return done


def answers(root: Root) -> list[Any]:
    with connect(root) as con:
        return [con.execute(query).fetchall() for query in VIEWS]


@pytest.fixture(scope="module")
def roots(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Root]:
    """The same chain on a local root and on one in a bucket, up to a mixture."""
    found = []
    for name in ("local", "elsewhere"):
        folder = tmp_path_factory.mktemp(name)
        url = str(folder) if name == "local" else f"s3://{BUCKET}/data"
        fill(url, folder)
        mix(url)
        found.append(Root(url))
    return found[0], found[1]


def test_the_chain_gives_the_same_files_and_answers_as_on_a_local_root(roots: tuple[Root, Root]) -> None:
    local, elsewhere = roots
    for folder in (("metadata", "cc12m"), ("shards", "cc12m"), ("mixes", "m")):
        names = [name for name in local.names(*folder) if not name.endswith("_stats.json")]
        assert names
        assert names == [name for name in elsewhere.names(*folder) if not name.endswith("_stats.json")]
        for name in names:
            if name != "mix.lock.json":
                assert local.read_bytes(*folder, name) == elsewhere.read_bytes(*folder, name), name
    locks = [root.read_json("mixes", "m", "mix.lock.json") for root in roots]
    assert locks[0]["digest"] == locks[1]["digest"]
    assert answers(local) == answers(elsewhere)
    assert verify_mix.verify(elsewhere, "m")["verified"]


def segments(server: Server) -> int:
    return server.requests("GET", r"catalog/\w+\.duckdb")


def catalogs(server: Server) -> int:
    return server.requests("GET", r"catalog\.duckdb")


@pytest.fixture
def root(roots: tuple[Root, Root], request: pytest.FixtureRequest) -> Root:
    """The root in the bucket, a copy of it for each test."""
    copy = Root(f"s3://{BUCKET}/{request.node.name}")
    for name in roots[1].files():
        copy.write_bytes(roots[1].read_bytes(name), name)
    return copy


def test_another_machine_fetches_each_version_once_and_segments_never_again(
    root: Root, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    before = catalogs(server), segments(server)
    expected = answers(root)
    assert answers(root) == expected
    first = (catalogs(server) - before[0], segments(server) - before[1])
    assert first == (1, 2)  # a segment and a mixture
    root.write_json({**root.read_json("runs", "a.json"), "id": "b"}, "runs", "b.json")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "writer"))
    index.run(index.IndexConfig(root=root.url))
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    before = catalogs(server), segments(server)
    with connect(root) as con:
        assert con.execute("SELECT id FROM runs ORDER BY id").fetchall() == [("a",), ("b",)]
    assert answers(root) == expected
    assert (catalogs(server) - before[0], segments(server) - before[1]) == (1, 0)


_KILLED = """
import os, signal, sys
from pipelines import index
from pipelines.store import publish
from pipelines.store.mirror import FILE, FOLDER, OvertakenError
from pipelines.store.root import Root
from pipelines.store.stages import choose
from pipelines.store.survey import survey
Root.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
index.run(index.IndexConfig(root=sys.argv[1], rebuild=True))
"""


def test_a_writer_killed_before_the_last_put_leaves_the_old_catalog_in_force(root: Root) -> None:
    expected, version, files = answers(root), root.version(FILE), root.files(FOLDER)
    killed = subprocess.run([sys.executable, "-c", _KILLED, root.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert root.files(FOLDER).keys() > files.keys()  # its segments are there, and nothing names them
    assert root.version(FILE) == version
    assert answers(root) == expected
    index.run(index.IndexConfig(root=root.url, rebuild=True))
    assert answers(root) == expected


def test_of_two_writers_at_once_the_later_one_looks_again(root: Root) -> None:
    expected = answers(root)
    sidecars = choose(root, {})
    found = survey(root, sidecars, [], anew=True)
    index.run(index.IndexConfig(root=root.url, rebuild=True))
    version = root.version(FILE)
    with pytest.raises(OvertakenError, match="run it again"):
        publish.publish(root, found, [])
    assert root.version(FILE) == version
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(index.run, index.IndexConfig(root=root.url, rebuild=True)) for _ in range(2)]
    assert [job.result()["rows_in"] for job in both] == [ROWS, ROWS]
    assert answers(root) == expected


def test_two_downloads_at_once_leave_the_shards_of_one(roots: tuple[Root, Root], server: Server) -> None:
    root = Root(f"s3://{BUCKET}/twice")
    for name in roots[0].names("metadata", "cc12m"):
        root.write_bytes(roots[0].read_bytes("metadata", "cc12m", name), "metadata", "cc12m", name)
    with picture_server({"/1.png": [(404, {}, b"")]}) as web, ThreadPoolExecutor(2) as pool:
        fetch = FetchConfig(resolve=web.resolve, limit=HostLimit(rate=None))
        config = download.DownloadConfig(root=root.url, local=True, encode_format="png", fetch=fetch)
        assert all(done["rows_in"] in (0, ROWS) for done in pool.map(download.run, [config, config]))
    assert root.shards("shards") == roots[0].shards("shards")
    for shard in root.shards("shards"):
        for ending in ("tar", "parquet"):
            file = ("shards", shard.source, f"{shard.number}.{ending}")
            assert root.read_bytes(*file) == roots[0].read_bytes(*file)


def test_a_mixture_is_written_out_as_from_a_local_root(roots: tuple[Root, Root]) -> None:
    for root in roots:
        materialize.run(materialize.MaterializeConfig(root=root.url, local=True, mixture="m"))
    local, elsewhere = (root.read_bytes("mixes", "m", "tars", "m-00000000.tar") for root in roots)
    assert local == elsewhere


def test_pictures_that_lie_together_come_in_one_request(server: Server) -> None:
    root = Root(f"s3://{BUCKET}/ranges")
    data = bytes(range(256)) * 2000
    root.write_bytes(data, "x", "a.tar")
    ranges = [(500, 7), (0, 512), (500, 7), (300_000, 100), (511_990, 10), (1000, 0)]
    before = server.requests("GET", r"a\.tar")
    assert root.read_ranges(ranges, "x", "a.tar") == [data[start : start + size] for start, size in ranges]
    assert server.requests("GET", r"a\.tar") == before + 3
    with pytest.raises(ShardError, match="cut short"):
        root.read_ranges([(511_995, 10)], "x", "a.tar")
