"""One run at a time: over processes of one machine, over machines, over crashes and changes of the clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filters.errors import HeadwaterError, InputError
from pipelines import lease as leases
from pipelines.lease import lease
from pipelines.lease_file import LocalFile, Seen
from pipelines.store.root import Root
from tests.pipelines.s3 import BUCKET, Server, s3_server

SHORT = 0.6  # seconds
FILE = "curate.lease"
HOLD = """
import sys, time
from pipelines.lease import lease
from pipelines.store.root import Root
with lease(Root(sys.argv[1]), "curate", float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("moto")
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(params=["local", "s3"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Root:
    if request.param == "local":
        return Root(str(tmp_path))
    request.getfixturevalue("server")
    return Root(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def elsewhere(root: Root, length: float = SHORT, **more: Any) -> None:
    """The file of a run on another machine."""
    content = {"id": "x", "host": "far/1", "pid": 7, "renewals": 3, "length": length, **more}
    root.write_bytes(json.dumps(content).encode(), FILE)


def hold(root: Root, length: float) -> subprocess.Popen[bytes]:
    """A process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, root.url, str(length)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_lease_is_renewed_refused_to_others_and_given_back(root: Root) -> None:
    with lease(root, "curate", SHORT) as held:
        with pytest.raises(InputError, match="a curate is running here"), lease(root, "curate", SHORT):
            pass
        time.sleep(2 * SHORT)
        found = root.read_json(FILE)
        assert found["renewals"] >= 1 and found["id"] == held.id and found["pid"] == os.getpid()
        held.check()
    assert root.names() == []
    with lease(root, "curate", SHORT), lease(root, "schedule", SHORT):
        pass


def test_a_killed_run_is_taken_over_at_once_on_the_same_machine(root: Root) -> None:
    process = hold(root, leases.LENGTH)
    with pytest.raises(InputError, match=f"^{root.address()}: a curate is running here"), lease(root, "curate"):
        pass
    killed(process)
    assert root.exists(FILE)
    began = time.monotonic()
    with lease(root, "curate"):
        assert time.monotonic() - began < leases.LENGTH / 2


def test_a_killed_run_is_waited_for_where_its_lock_cannot_be_seen(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same machine, but another cache: another account's, or another container's."""
    root = Root(f"s3://{BUCKET}/unseen")
    process = hold(root, 1.5)
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    found = pytest.raises(InputError, match=rf"a curate is running here \(process {process.pid} on ")
    with found, lease(root, "curate"):
        pass
    killed(process)
    began = time.monotonic()
    with lease(root, "curate"):
        assert time.monotonic() - began >= 1.5


@pytest.mark.parametrize(("root", "shift"), [("local", -1e6), ("local", 1e6), ("s3", 0.0)], indirect=["root"])
def test_a_dead_run_elsewhere_is_taken_over_after_its_length_whatever_the_clock(
    root: Root, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(root)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    began = time.monotonic()
    with lease(root, "curate", SHORT) as held:
        assert time.monotonic() - began >= SHORT
        assert root.read_json(FILE)["id"] == held.id


def test_a_run_elsewhere_that_renews_is_left_alone(root: Root) -> None:
    elsewhere(root, length=30.0)
    ended = threading.Event()

    def renew() -> None:
        renewals = 3
        while not ended.wait(0.2):
            renewals += 1
            elsewhere(root, length=30.0, renewals=renewals)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with (
            pytest.raises(InputError, match=r"a curate is running here \(process 7 on far\); wait"),
            lease(root, "curate"),
        ):
            pass
    finally:
        ended.set()
        thread.join()


def test_of_watchers_that_find_the_same_dead_run_one_takes_it_over(root: Root) -> None:
    elsewhere(root)
    taken, refused = [], []
    ends = threading.Event()

    def watch() -> None:
        # Not under the lock of this machine: as if each were on one of its own.
        one = leases.Lease(root, "curate", SHORT, uuid.uuid4().hex)
        try:
            one.take()
        except InputError as error:
            refused.append(error)
            return
        taken.append(one)
        ends.wait()
        one.give_back()

    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(taken) + len(refused) < 3:
        time.sleep(0.02)
    held = [one.held for one in taken]
    ends.set()
    for thread in threads:
        thread.join()
    assert held == [True] and root.names() == []


def test_whoever_stood_still_finds_that_the_lease_is_lost(root: Root) -> None:
    with lease(root, "curate", SHORT) as held:
        elsewhere(root)
        time.sleep(SHORT)
        with pytest.raises(HeadwaterError, match=f"^{root.address(FILE)}: the lease was lost"):
            held.check()
    assert root.read_json(FILE)["id"] == "x"


def test_a_holder_that_cannot_renew_counts_the_lease_as_lost(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError("away")

    with lease(root, "curate", SHORT) as held, monkeypatch.context() as patch:
        patch.setattr(held._file, "put", away)
        time.sleep(SHORT / 2)
        assert held.held
        time.sleep(SHORT)
        assert not held.held


def test_in_a_store_without_conditions_the_first_of_two_finds_the_second() -> None:
    root = Root(f"memory://{uuid.uuid4().hex}")
    with lease(root, "curate", SHORT) as held:
        elsewhere(root)  # written at the same time, and after ours
        time.sleep(SHORT)
        assert not held.held
    assert root.read_json(FILE)["id"] == "x"


def test_a_watcher_puts_back_what_came_between(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    elsewhere(root)
    file = LocalFile(tmp_path / FILE, "late")
    there = file.read()
    file.take_away(Seen({"id": "another"}, "another"))
    assert file.read() == there is not None
    file.take_away(there)
    assert list(tmp_path.iterdir()) == [tmp_path / ".writing"]
