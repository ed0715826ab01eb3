"""Download workers and their decoding processes are killed at seeded moments: the shards are those of a quiet run."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import download
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import picture, picture_server
from tests.pipelines.test_download import prepare, rows_of

ROWS, PER_SHARD, KILLS, SEED = 240, 12, 12, 7
# Answers that are the same at every request, so that what is fetched twice is the same both times.
FAULTS: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
    "/3.png": [(404, {}, b"")],
    "/40.png": [(503, {}, b"")],
    "/77.png": [(200, {}, picture(77)[:60])],
    "/200.png": [(302, {"Location": "/201.png"}, b"")],
}


def settings(root: Root, server: Any, *, local: bool) -> download.DownloadConfig:
    # What a killed worker held of a host's slots is free again only after a while; here there are enough.
    limit = HostLimit(concurrency=1000, rate=None)
    fetch = FetchConfig(resolve=server.resolve, backoff=0.01, retries=1, concurrency=4, limit=limit)
    return download.DownloadConfig(root=root.url, local=local, cpus=0.5, fetch=fetch)


def shards(root: Root) -> dict[str, bytes]:
    names = [name for name in root.names("shards", "cc12m") if not name.endswith("_stats.json")]
    return {name: root.read_bytes("shards", "cc12m", name) for name in names}


def reasons(root: Root) -> dict[int, str]:
    return {number: f"{row['reason']}: {row['error_message']}" for number, row in rows_of(root).items()}


class Killer(threading.Thread):
    """Kills one download process each time that the server has been asked a seeded number of times."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self.rng = random.Random(SEED)
        self.moments = sorted(self.rng.sample(range(10, ROWS - 10), KILLS))
        self.server, self.killed, self.ended = server, [], threading.Event()

    killed: list[str]

    def run(self) -> None:
        for moment in self.moments:
            while len(self.server.seen) < moment and not self.ended.is_set():
                time.sleep(0.005)
            while not self.ended.is_set() and not self.kill():
                time.sleep(0.005)

    def kill(self) -> bool:
        """One worker, or one decoding process of a worker, as the seed says; False where there is none just now."""
        kind = self.rng.choice(["_RayWorker", "pipelines.sandbox"])
        found = [process for process in psutil.Process().children(recursive=True) if kind in command(process)]
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            self.rng.choice(found).kill()
            self.killed.append(kind)
            return True
        return False


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.mark.usefixtures("ray_session")
def test_shards_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    quiet, disturbed = (prepare(tmp_path / name, rows=ROWS, per_shard=PER_SHARD) for name in ("quiet", "disturbed"))
    with picture_server(FAULTS) as server:
        download.run(settings(quiet, server, local=True))
        server.seen.clear()
        server.delay = 0.02
        killer = Killer(server)
        killer.start()
        summary = download.run(settings(disturbed, server, local=False))
        killer.ended.set()
        killer.join()
    assert len(killer.killed) == KILLS
    assert len(set(killer.killed)) == 2
    assert summary["shards_failed"] == {}
    assert (summary["rows_in"], summary["shards_done"]) == (ROWS, ROWS // PER_SHARD)
    assert reasons(disturbed) == reasons(quiet)
    assert shards(disturbed) == shards(quiet)
    assert not list(disturbed.local("shards", "cc12m", ".writing").iterdir())


@pytest.mark.slow
def test_a_job_killed_again_and_again_ends_with_the_same_shards(tmp_path: Path) -> None:
    """The whole job this time, in one process; whatever is visible after a kill is whole."""
    quiet, disturbed = (prepare(tmp_path / name, rows=60, per_shard=5) for name in ("quiet", "disturbed"))
    rng = random.Random(SEED)
    with picture_server(FAULTS) as server:
        config = settings(quiet, server, local=True)
        download.run(config)
        wanted = shards(quiet)
        (tmp_path / "job.json").write_text(config.model_copy(update={"root": disturbed.url}).model_dump_json())
        job = [sys.executable, "-m", "pipelines.download", "--config", str(tmp_path / "job.json")]
        server.delay = 0.02
        for _ in range(3):
            server.seen.clear()
            moment = rng.randrange(3, 20)
            with subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while len(server.seen) < moment and process.poll() is None:
                    time.sleep(0.005)
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
            assert process.returncode == -signal.SIGKILL
            assert shards(disturbed).items() <= wanted.items()
            # The decoding processes end with the one that they worked for.
            assert not psutil.wait_procs(children, timeout=30)[1]
        subprocess.run(job, check=True, capture_output=True)
    assert shards(disturbed) == wanted
    assert not list(disturbed.local("shards", "cc12m", ".writing").iterdir())
