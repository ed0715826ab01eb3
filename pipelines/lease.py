"""One run at a time under a data root, on one machine or on several that share the folder.

Processes of one machine keep each other out by a lock that ends with its process (`pipelines.alone`). For the others
there is `<root>/<what>.lease`: who runs, and a number that a thread of the holder raises every quarter of the lease's
length. Whoever finds the file of another machine watches it: a number that changes is a run that lives; one that
stays the same for the whole length, by the watcher's own monotonic clock, is of a run that died, and is taken over.
No clock is compared with another, so that a change of the time of day neither ends a lease nor prolongs it;
`expires` in the file is there for people.

A holder that was stopped for longer than the length (a suspended machine) finds another's file, or none, when it goes
on: `held` is false then, and the run must end.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filters.errors import HeadwaterError, InputError
from pipelines.alone import alone
from pipelines.store.root import Root

LENGTH = 60.0  # seconds
_RENEWALS = 4  # in the length of a lease
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """A lease that is held: it renews itself until it is given back."""

    def __init__(self, path: Path, what: str, length: float) -> None:
        self.path, self.what, self.length = path, what, length
        self.id, self.renewals, self.held = uuid.uuid4().hex, 0, True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"{what}-lease")

    def take(self) -> None:
        """Wait until the lease is ours; InputError where a run that lives has it."""
        while not self._create():
            found = self._read()
            # Of this machine it can only be a dead process's: the lock would have kept us out.
            if found.get("host") != host():
                self._watch(found)
            self._take_away(found)
        self._thread.start()

    def give_back(self) -> None:
        """Stop to renew, and take the file away if it is ours still."""
        self._ended.set()
        self._thread.join()
        if self._read().get("id") == self.id:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """HeadwaterError if another run has taken over."""
        if not self.held:
            raise HeadwaterError(
                f"{self.path}: the lease was lost, since this process stood still for more than {self.length:g} "
                "seconds; nothing is torn, run the same command again to continue"
            )

    def _content(self) -> bytes:
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.length)
        return json.dumps({
            "id": self.id, "host": host(), "pid": os.getpid(), "renewals": self.renewals, "length": self.length,
            "expires": expires.isoformat(timespec="seconds"),
        }).encode()  # fmt: skip

    def _create(self) -> bool:
        """Put the file there, whole and in one step, unless there is one."""
        own = self.path.with_name(f".{self.path.name}.{self.id}")
        own.write_bytes(self._content())
        try:
            self.path.hardlink_to(own)
        except FileExistsError:
            return False
        finally:
            own.unlink()
        return True

    def _read(self) -> dict[str, Any]:
        """What the file says; empty where there is none, or none that can be read."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _watch(self, found: dict[str, Any]) -> None:
        """Return once the lease has not been renewed for its whole length; InputError if it is, or another's."""
        length = float(found.get("length", self.length))
        until = time.monotonic() + length
        while time.monotonic() < until:
            time.sleep(min(1.0, length / 20))
            now = self._read()
            if not now:
                return
            if (now.get("id"), now.get("renewals")) != (found.get("id"), found.get("renewals")):
                raise InputError(
                    f"{self.path}: a {self.what} is running here (process {now.get('pid')} on {_named(now)}); wait "
                    "for it, or choose another --root"
                )

    def _take_away(self, found: dict[str, Any]) -> None:
        """Take away the file that was watched. Another watcher's, which came between, is put back."""
        aside = self.path.with_name(f".{self.path.name}.{self.id}.old")
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(aside)
            taken = json.loads(aside.read_bytes() or b"{}") if found else {}
            if taken.get("id") != found.get("id"):
                with contextlib.suppress(FileExistsError):
                    self.path.hardlink_to(aside)
            aside.unlink()

    def _renew(self) -> None:
        own = self.path.with_name(f".{self.path.name}.{self.id}")
        last = time.monotonic()
        while not self._ended.wait(self.length / _RENEWALS):
            try:
                there = self._read().get("id", self.id)
                if there != self.id:
                    self.held = False
                    return
                self.renewals += 1
                own.write_bytes(self._content())
                own.replace(self.path)
                last = time.monotonic()
            except OSError:
                # A full disk, a share that is away for a moment: until the length is over the lease is ours.
                if time.monotonic() - last > self.length:
                    self.held = False
                    return


@contextlib.contextmanager
def lease(root: Root, what: str, length: float = LENGTH) -> Iterator[Lease]:
    """Keep other runs of `what` out of the root while the block runs; InputError, in one line, if there is one.

    ConfigError where the root is not a local folder. After a crash the next run on the same machine goes on at once,
    one on another machine after `length` seconds.
    """
    folder = root.local()
    with alone(folder, what):
        held = Lease(folder / f"{what}.lease", what, length)
        held.take()
        try:
            yield held
        finally:
            held.give_back()


def host() -> str:
    """This machine since it was started: its name and, where the system tells, the number of the start."""
    return f"{platform.node()}/{_BOOT.read_text().strip() if _BOOT.exists() else ''}"


def _named(found: dict[str, Any]) -> str:
    return str(found.get("host", "an unknown machine")).split("/")[0]
