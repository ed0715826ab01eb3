"""One run at a time: over processes of one machine, over machines, over crashes and changes of the clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filters.errors import ConfigError, HeadwaterError, InputError
from pipelines import lease as leases
from pipelines.lease import Lease, lease
from pipelines.store.root import Root

SHORT = 0.6  # seconds
HOLD = """
import sys, time
from pipelines.lease import lease
from pipelines.store.root import Root
with lease(Root(sys.argv[1]), "curate"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def elsewhere(root: Root, length: float = SHORT) -> Path:
    """The file of a run on another machine."""
    path = root.local("curate.lease")
    content = {"id": "x", "host": "far/1", "pid": 7, "renewals": 3, "length": length}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_lease_is_renewed_refused_to_others_and_given_back(root: Root) -> None:
    with lease(root, "curate", SHORT) as held:
        with pytest.raises(InputError, match="a curate is running here"), lease(root, "curate", SHORT):
            pass
        time.sleep(2 * SHORT)
        found = root.read_json("curate.lease")
        assert found["renewals"] >= 1 and found["id"] == held.id and found["pid"] == os.getpid()
        held.check()
    assert root.names() == []
    with lease(root, "curate", SHORT), lease(root, "schedule", SHORT):
        pass


def test_a_killed_run_is_taken_over_at_once_on_the_same_machine(root: Root) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, root.url], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with pytest.raises(InputError), lease(root, "curate"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert root.exists("curate.lease")
    began = time.monotonic()
    with lease(root, "curate"):
        assert time.monotonic() - began < leases.LENGTH / 2


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_a_dead_run_elsewhere_is_taken_over_after_its_length_whatever_the_clock(
    root: Root, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(root)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    began = time.monotonic()
    with lease(root, "curate", SHORT) as held:
        assert time.monotonic() - began >= SHORT
        assert root.read_json("curate.lease")["id"] == held.id


def test_a_run_elsewhere_that_renews_is_left_alone(root: Root) -> None:
    path, ended = elsewhere(root, length=30.0), threading.Event()

    def renew() -> None:
        while not ended.wait(0.2):
            found = json.loads(path.read_text(encoding="utf-8"))
            root.write_json({**found, "renewals": found["renewals"] + 1}, "curate.lease")

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


def test_whoever_stood_still_finds_that_the_lease_is_lost(root: Root) -> None:
    with lease(root, "curate", SHORT) as held:
        elsewhere(root)
        time.sleep(SHORT)
        with pytest.raises(HeadwaterError, match="the lease was lost"):
            held.check()
    assert root.read_json("curate.lease")["id"] == "x"


def test_a_watcher_puts_back_what_came_between(root: Root) -> None:
    path = elsewhere(root)
    late = Lease(path, "curate", SHORT)
    late._take_away({"id": "another", "host": "far/1"})
    assert root.read_json("curate.lease")["id"] == "x"
    late._take_away({"id": "x", "host": "far/1"})
    assert not path.exists() and list(path.parent.iterdir()) == []


def test_a_root_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a local folder"), lease(Root("memory://x"), "curate"):
        pass
