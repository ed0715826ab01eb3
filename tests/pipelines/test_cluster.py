"""`ray up`, jobs by `ray submit`, `ray down`: the shipped file over real ssh and rsync, this machine its only node.

What it leaves equals what the same jobs leave in one process, and no process stays.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import main
from pipelines.store.root import Root
from tests.pipelines import launcher
from tests.pipelines.chain import cc12m_dump, picture_server

ROWS = 12


@pytest.fixture
def cluster() -> Iterator[launcher.Cluster]:
    """One that is not up yet, and of which nothing is left afterwards, whatever happens."""
    if launcher.missing():
        pytest.skip(f"needs {', '.join(launcher.missing())}: apt-get install openssh-client openssh-server rsync")
    # Short, since the paths of sockets are short; pytest's folders are not.
    folder = Path(tempfile.mkdtemp(prefix="hw", dir="/tmp"))
    try:
        yield launcher.Cluster(folder)
    finally:
        launcher.stop(str(folder))
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_second_node_joins_and_takes_what_needs_a_gpu(cluster: launcher.Cluster, tmp_path: Path) -> None:
    """The second node says that it has a GPU; scores are computed on its CPU."""
    root = Root(str(tmp_path / "data"))
    dump = str(cc12m_dump(tmp_path, ROWS))
    assert (
        main(["ingest", "--root", root.url, "--source", "cc12m", "--metadata", dump, "--samples-per-shard", "1"]) == 0
    )
    cluster.up(workers=1)
    until = time.monotonic() + 120
    while "/1.0 GPU" not in (status := cluster.ray("exec", str(cluster.file), "ray status").stdout):
        assert time.monotonic() < until, status
        time.sleep(2)
    with picture_server() as server:
        fetch = {"fetch": {"resolve": server.resolve, "limit": {"rate": None}}}
        config = write(tmp_path / "download.yaml", fetch)
        done = cluster.submit("download", "--root", root.url, "--config", config)
    assert done.returncode == 0, done.stdout[-3000:]
    assert last_line(done.stdout)["counts"] == {"success": ROWS}
    scorer = str(launcher.REPOSITORY / "demo" / "scorer")
    done = cluster.submit("score", "--root", root.url, "--model", scorer, "--gpus", "1")
    assert done.returncode == 0, done.stdout[-3000:]
    assert last_line(done.stdout)["counts"] == {"done": ROWS}
    down = cluster.down()
    assert down.returncode == 0, down.stdout[-3000:]
    assert nothing_left(cluster.folder)


def write(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def last_line(output: str) -> dict[str, Any]:
    """The summary that a job printed, among what Ray and ssh say."""
    (line,) = [line for line in output.splitlines() if line.startswith("{") and '"rows_in"' in line]
    return dict(json.loads(line))


def test_jobs_on_a_launched_cluster_leave_what_they_leave_here(cluster: launcher.Cluster, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "here"), str(tmp_path / "there")
    assert main(["ingest", "--root", ours, "--source", "cc12m", "--metadata", str(cc12m_dump(tmp_path, ROWS))]) == 0
    shutil.copytree(ours, theirs)
    mix = write(tmp_path / "mix.yaml", {"name": "few", "total": 8, "sources": [{"source": "cc12m"}]})
    with picture_server() as server:
        fetch = {"fetch": {"resolve": server.resolve, "limit": {"rate": None}}}
        chain = write(tmp_path / "curate.yaml", {"download": fetch, "retry": None, "dedupe": None})
        jobs = {"curate": ["--config", chain], "build_mix": ["--config", mix]}
        here = [main([name.removeprefix("build_"), "--root", ours, "--local", *more]) for name, more in jobs.items()]
        assert here == [0, 0]
        cluster.up()
        for name, more in jobs.items():
            done = cluster.submit(name, "--root", theirs, *more)
            assert done.returncode == 0, done.stdout[-3000:]
            # Curation counts the rows of both of its stages.
            assert last_line(done.stdout)["rows_in"] == (8 if name == "build_mix" else 2 * ROWS)
            if name == "curate":
                assert f"ray: connecting to {cluster.address}" in done.stdout
    # Ray joins the words unquoted, so that one with a blank is two: refused, and in a file it would be one.
    odd = cluster.submit("build_mix", "--root", theirs, "--set", "name=two words")
    assert odd.returncode == 1
    assert "unrecognized arguments: words" in odd.stdout
    down = cluster.down()
    assert down.returncode == 0, down.stdout[-3000:]
    mixtures = [Root(root).read_table("mixes", "few", "manifest.parquet") for root in (ours, theirs)]
    assert mixtures[0].equals(mixtures[1])
    assert nothing_left(cluster.folder)


def nothing_left(folder: Path) -> bool:
    """Whether all processes of the cluster end; ssh keeps its connection for ten seconds."""
    end = time.monotonic() + 30
    while left := launcher.processes(str(folder)):
        if time.monotonic() > end:
            raise AssertionError([process.cmdline() for process in left])
        time.sleep(0.5)
    return True
