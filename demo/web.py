"""The demo web: a process of its own that writes the six metadata dumps and serves their pictures on loopback.

    python -m demo.web --root build/demo --seed 0 --rows 6000

It writes `ROOT/raw/<source>/...` and `ROOT/raw/ground_truth.parquet` unless they are there for the same seed and
rows, listens on a free port of 127.0.0.1, and then writes `ROOT/web/web.json` ({"pid", "port", "seed", "rows"}).
Every request becomes a line of `ROOT/web/requests.log`: time, host, path, status, separated by tabs. SIGTERM ends it,
and so does a quarter of an hour without a request, for a driver that was killed may never come back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from aiohttp import web

from demo.dumps import write_dumps
from demo.plan import make_plan, to_records, write_ground_truth
from demo.web_server import CONTROL_HOST, Site, make_app, make_routes
from filters.errors import HeadwaterError, InputError
from filters.published import published

START_SECONDS, STOP_SECONDS, IDLE_SECONDS = 180, 15, 900
_MARK = "plan.json"
_children: dict[int, subprocess.Popen[bytes]] = {}  # by pid: kept, so that ended ones can be waited for


@dataclass(frozen=True, slots=True)
class WebProcess:
    """A running demo web: where it listens on 127.0.0.1, and its process."""

    port: int
    pid: int


def start(root: Path, seed: int, rows: int = 6000) -> WebProcess:
    """Start the demo web of `root`, or return the one that already runs there for the same seed and rows.

    The process is in a session of its own and outlives the caller. HeadwaterError if it does not come up.
    """
    running = _running(root)
    if running is not None and (running["seed"], running["rows"]) == (seed, rows):
        return WebProcess(running["port"], running["pid"])
    stop(root)
    folder = root / "web"
    folder.mkdir(parents=True, exist_ok=True)
    # -P: a folder `demo` where the caller stands would be taken for the package.
    command = [sys.executable, "-P", "-m", "demo.web", "--root", str(root), "--seed", str(seed), "--rows", str(rows)]
    with (folder / "web.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _children[process.pid] = process
    try:
        return WebProcess(_wait_until_ready(root, process), process.pid)
    except BaseException:
        process.terminate()  # also when the wait was interrupted: nobody would know of this process
        raise


def _wait_until_ready(root: Path, process: subprocess.Popen[bytes]) -> int:
    """The port on which the new process listens."""
    log, deadline = root / "web" / "web.log", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        running = _running(root)
        if running is not None and running["pid"] == process.pid:
            return running["port"]
        if process.poll() is not None:
            raise HeadwaterError(f"the demo web ended with code {process.returncode}; see {log}")
        time.sleep(0.1)
    raise HeadwaterError(f"the demo web was not ready after {START_SECONDS} s; see {log}")


def stop(root: Path) -> bool:
    """End the demo web of `root` and wait for it; False if none is running."""
    running = _running(root)
    if running is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if _has_ended(root, running["pid"]):
            return True
        time.sleep(0.05)
    raise HeadwaterError(
        f"the demo web (process {running['pid']}) did not end within {STOP_SECONDS} s; end it by hand"
    )


def write_raw(root: Path, plan: pa.Table) -> None:
    """Write dumps and ground truth to `root/raw`, whole or not at all; nothing if they are there for this plan.

    InputError if something else stands there.
    """
    raw = root / "raw"
    mark = {"plan_sha256": plan_digest(plan)}
    if raw.exists():
        if not (raw / _MARK).is_file():
            raise InputError(f"{raw} was not written by the demo web; move it away or choose another --root")
        if json.loads((raw / _MARK).read_text()) == mark:
            return
    beside = root / ".raw.tmp"
    shutil.rmtree(beside, ignore_errors=True)  # of a killed process
    write_dumps(plan, beside)
    write_ground_truth(plan, beside / "ground_truth.parquet")
    (beside / _MARK).write_text(json.dumps(mark) + "\n")
    if raw.exists():
        shutil.rmtree(raw)
    beside.replace(raw)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m demo.web`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.web", description="Serve the demo web on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="data root of the demo")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is planted")
    parser.add_argument("--rows", type=int, default=6000, help="data records over all six dumps")
    args = parser.parse_args(argv)
    try:
        plan = make_plan(args.seed, args.rows)
        write_raw(args.root, plan)
        asyncio.run(_serve(args.root, plan, {"seed": args.seed, "rows": args.rows}))
    except HeadwaterError as error:
        print(f"demo.web: {error}", file=sys.stderr)
        return error.exit_code
    return 0


async def _serve(root: Path, plan: pa.Table, numbers: dict[str, int]) -> None:
    """Listen until SIGTERM, SIGINT, or nobody has asked for anything for `IDLE_SECONDS`."""
    folder = root / "web"
    folder.mkdir(parents=True, exist_ok=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    identity = {"pid": os.getpid(), **numbers}
    with (folder / "requests.log").open("a") as log, ThreadPoolExecutor(2) as executor:
        site = Site(make_routes(to_records(plan)), executor, log, identity)
        runner = web.AppRunner(make_app(site), access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        _publish(folder / "web.json", {**identity, "port": port})
        try:
            while not stopped.is_set() and time.monotonic() - site.asked_at < IDLE_SECONDS:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), IDLE_SECONDS / 60)
        finally:
            await runner.cleanup()
            running = _published(root)
            # Where the folder was removed and made anew, the file there may be another server's.
            if running is not None and running["pid"] == os.getpid():
                (folder / "web.json").unlink(missing_ok=True)


def _published(root: Path) -> dict[str, int] | None:
    """What `web.json` says."""
    try:
        found: dict[str, int] = json.loads((root / "web" / "web.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def _running(root: Path) -> dict[str, int] | None:
    """What `web.json` says, if the server that answers at its port is the one it names."""
    found = _published(root)
    if found is None:
        return None
    try:
        connection = http.client.HTTPConnection("127.0.0.1", found["port"], timeout=10)
        try:
            connection.request("GET", "/", headers={"Host": CONTROL_HOST})
            identity = json.loads(connection.getresponse().read())
        finally:
            connection.close()
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    return found if identity == {k: v for k, v in found.items() if k != "port"} else None


def _has_ended(root: Path, pid: int) -> bool:
    child = _children.get(pid)
    if child is None:
        # Another's child may stay in the process table long after its end.
        return _running(root) is None
    if child.poll() is None:
        return False
    del _children[pid]
    return True


def _publish(path: Path, content: dict[str, int]) -> None:
    with published(path) as writing:
        writing.write_text(json.dumps(content) + "\n")


def plan_digest(plan: pa.Table) -> str:
    """SHA-256 over the plan's rows, so that dumps planned from another corpus or version are not taken for these."""
    rows = hashlib.sha256()
    for record in plan.to_pylist():
        rows.update(json.dumps(record).encode())
    return rows.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
