"""One run at a time under a data root: on one machine, or on several that share a folder or a store.

Processes of one machine keep each other out by a lock that ends with its process (`pipelines.alone`). For the others
there is `<root>/<what>.lease`: who runs, and a number that a thread of the holder raises every quarter of the lease's
length. Whoever finds the file of another machine watches it: one that changes is of a run that lives; one that
stays the same for the whole length, by the watcher's own monotonic clock, is of a run that died, and is taken over.
No clock is compared with another, so that a change of the time of day neither ends a lease nor prolongs it;
`expires` in the file is there for people.

A holder that could not renew for longer than the length (a suspended machine, a store that does not answer) may find
another's file when it goes on: `held` is false then, and the run must end.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator

from filters.errors import HeadwaterError, InputError
from filters.published import host
from pipelines.alone import alone
from pipelines.lease_file import Seen, lease_file
from pipelines.store.mirror import own_folder
from pipelines.store.root import Root
from pipelines.store.store_errors import store_errors

LENGTH = 60.0  # seconds
_RENEWALS = 4  # in the length of a lease


class Lease:
    """A lease that is held: it renews itself until it is given back. `lock` is that of `alone`, which we hold."""

    def __init__(self, root: Root, what: str, length: float, lock: str) -> None:
        self.what, self.length, self.lock = what, length, lock
        self.id, self.renewals = uuid.uuid4().hex, 0
        self._file = lease_file(root, f"{what}.lease", self.id)
        self._own: Seen | None = None
        self._renewed = time.monotonic()
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"{what}-lease")

    def take(self) -> None:
        """Wait until the lease is ours; InputError where a run that lives has it."""
        before = None
        while not (self._write(before) and self._stays(before)):
            before = self._file.read()
            # Under our own lock it can only be a dead process's: a living one would have kept us out.
            if before is not None and (before.content.get("host"), before.content.get("lock")) != (host(), self.lock):
                before = self._watch(before)
        self._thread.start()

    def give_back(self) -> None:
        """Stop to renew, and take the file away if it is ours still."""
        self._ended.set()
        self._thread.join()
        # A store that cannot be asked now: the lease runs out by itself.
        with contextlib.suppress(*store_errors()):
            found = self._file.read()
            if found is not None and found.content.get("id") == self.id:
                self._file.remove()

    @property
    def held(self) -> bool:
        """Whether the lease is ours still; asked for, where it was not renewed for its whole length."""
        with self._turn:
            if self._own is not None and time.monotonic() - self._renewed > self.length:
                self._renew()
            return self._own is not None

    def check(self) -> None:
        """HeadwaterError if another run has taken over, or may have."""
        if not self.held:
            raise HeadwaterError(
                f"{self._file.address}: the lease was lost, since it was not renewed for {self.length:g} seconds; "
                "nothing is torn, run the same command again to continue"
            )

    def _content(self) -> bytes:
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.length)
        return json.dumps({
            "id": self.id, "host": host(), "lock": self.lock, "pid": os.getpid(), "renewals": self.renewals,
            "length": self.length, "expires": expires.isoformat(timespec="seconds"),
        }).encode()  # fmt: skip

    def _write(self, before: Seen | None) -> bool:
        """Put our file in place of what was seen before; whether one of ours is there then."""
        began = time.monotonic()
        self._file.put(self._content(), before)
        # Looked for, whatever the answer was: a PUT that took effect may be refused when it is sent once more.
        found = self._file.read()
        self._own = found if found is not None and found.content.get("id") == self.id else None
        if self._own is not None and self._own != before:
            self._renewed = began
        return self._own is not None

    def _stays(self, before: Seen | None) -> bool:
        """Whether our file is there still a moment later, where others may have put theirs in place of the same."""
        if before is None and self._file.is_exclusive:
            return True
        time.sleep(_pause(self.length))
        return self._write(self._own)

    def _watch(self, found: Seen) -> Seen | None:
        """What was found, once it has not changed for its whole length, or None if it has gone; InputError if it is
        renewed, or another's."""
        length = float(found.content.get("length", self.length))
        until = time.monotonic() + length
        while time.monotonic() < until:
            time.sleep(_pause(length))
            now = self._file.read()
            if now is None:
                return None
            if now.version != found.version:
                name = str(now.content.get("host", "an unknown machine")).split("/")[0]
                raise InputError(
                    f"{self._file.address}: a {self.what} is running here (process {now.content.get('pid')} on "
                    f"{name}); wait for it, or choose another --root"
                )
        return found

    def _keep(self) -> None:
        while not self._ended.wait(self.length / _RENEWALS):
            with self._turn:
                if self._own is None:
                    return
                self._renew()

    def _renew(self) -> None:
        try:
            self.renewals += 1
            self._write(self._own)
        except store_errors():
            # A full disk, a share or a store that is away for a moment: until the length is over the lease is ours.
            if time.monotonic() - self._renewed > self.length:
                self._own = None


@contextlib.contextmanager
def lease(root: Root, what: str, length: float = LENGTH) -> Iterator[Lease]:
    """Keep other runs of `what` out of the root while the block runs; InputError, in one line, if there is one.

    After a crash the next run on the same machine goes on at once, one on another machine after `length` seconds.
    """
    with alone(own_folder(root), what, root.address()) as lock:
        held = Lease(root, what, length, lock)
        held.take()
        try:
            yield held
        finally:
            held.give_back()


def _pause(length: float) -> float:
    """Seconds between two looks at a lease of that length."""
    return min(1.0, length / 20)
