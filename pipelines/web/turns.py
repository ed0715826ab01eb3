"""One worker's side of the limits: requests wait here, by host, until they may be sent."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Protocol, TypeVar

from pipelines.web.hosts import LATE, Answer, Ask, Limits, Report
from pipelines.web.texts import Text

J = TypeVar("J")
C = TypeVar("C")
J_contra = TypeVar("J_contra", contravariant=True)

# Seconds between two reports on all hosts, which is also how soon a worker learns what others were told.
POLL = 0.1
# Seconds for which a connection is kept that nobody uses.
KEEP_ALIVE = 5.0
# A timer may fire this much before its time.
EARLY = 0.002


@dataclass(slots=True, eq=False)
class _Queue(Generic[J, C]):
    """What waits for one host, and what this worker may send to it."""

    name: str
    jobs: deque[J] = field(default_factory=deque)
    busy: set[C] = field(default_factory=set)
    idle: list[C] = field(default_factory=list)
    used: float = 0.0
    slots: int = 0
    target: int = 0
    starts: deque[float] | None = field(default_factory=deque)
    resume: float = 0.0
    pause: float = 0.0
    delay: float = 0.0
    is_runnable: bool = False
    timer: asyncio.TimerHandle | None = None

    def ask(self, now: float) -> Ask:
        """What to tell the ledger; the slots that it does not name are given back by it."""
        busy, wanted = len(self.busy), len(self.busy) + len(self.jobs)
        warm = busy + len(self.idle) if now - self.used < KEEP_ALIVE else 0
        self.slots = max(busy, min(self.slots, self.target, max(wanted, warm)))
        starts = max(0, len(self.jobs) - len(self.starts or ()))
        ask = Ask(wanted, self.slots, starts, self.pause, self.delay)
        self.pause = 0.0
        return ask


class Worker(Protocol[J_contra, C]):
    """What `Turns` asks of whoever has the jobs."""

    def start(self, job: J_contra, connection: C) -> None:
        """Send the request of `job` now, over a connection to its host."""

    def admit(self) -> None:
        """Add more jobs, if there are: nothing that waits can be sent at the moment."""

    def on_pause(self, host: str) -> None:
        """Take note that `host` is to be left alone until `resume_at`; jobs of it may wait."""

    def later(self) -> Mapping[str, int]:
        """How many jobs of each host are under way but were not added yet, or not again."""

    def on_text(self, origin: str, text: Text | None) -> None:
        """Take the robots.txt that was asked for; None says that it is to be fetched."""

    def connect(self) -> C:
        """A connection for one slot; it may be opened with its first request."""

    def disconnect(self, connection: C) -> None:
        """Close a connection that is not in use."""


class Turns(Generic[J, C]):
    """Lets a worker start each of its jobs when the host, and the worker's own `concurrency`, allow it."""

    def __init__(self, limits: Limits, concurrency: int, worker: Worker[J, C]) -> None:
        self._limits, self._concurrency, self._worker = limits, concurrency, worker
        self._name = uuid.uuid4().hex
        self._queues: dict[str, _Queue[J, C]] = {}
        self._runnable: deque[_Queue[J, C]] = deque()
        self._dirty: dict[str, None] = {}
        self._lacking: dict[str, None] = {}
        self._found: dict[str, Text | None] = {}
        self._wake = asyncio.Event()
        self._took, self._offset = math.inf, 0.0
        self._in_flight = 0
        self.is_held = False

    @property
    def has_work(self) -> bool:
        """Whether something could be sent now if this worker had not enough in flight already."""
        return bool(self._runnable)

    def add(self, host: str, job: J, *, first: bool = False) -> None:
        """Let `job` wait for its turn at `host`, before the others that wait if it is `first`."""
        queue = self._queues.get(host)
        if queue is None:
            queue = self._queues[host] = _Queue(host)
        if first:
            queue.jobs.appendleft(job)
        else:
            queue.jobs.append(job)
        if len(queue.busy) + len(queue.jobs) > queue.slots or not (queue.starts is None or queue.starts):
            self._tell(host)
        self._pump(queue)

    def end(self, host: str, connection: C, *, keep: bool) -> None:
        """A job of `host` that was started has ended; `keep` its connection, because more jobs will come."""
        queue = self._queues[host]
        queue.busy.remove(connection)
        self._in_flight -= 1
        if queue.jobs or keep:
            queue.idle.append(connection)
            queue.used = monotonic()
        else:
            self._worker.disconnect(connection)
        self._pump(queue)
        self.go_on()

    def go_on(self) -> None:
        """Start what may be started now."""
        while self._runnable and not self._is_full():
            queue = self._runnable.popleft()
            queue.is_runnable = False
            self._pump(queue)

    def pause(self, host: str, seconds: float) -> None:
        """Send nothing to `host` for so long, from any worker."""
        queue = self._queues[host]
        queue.resume = max(queue.resume, monotonic() + seconds)
        queue.pause = max(queue.pause, seconds)
        self._tell(host)
        self._worker.on_pause(host)

    def delay(self, host: str, seconds: float) -> None:
        """Leave so many seconds between two requests to `host`."""
        queue = self._queues.get(host)
        if queue and queue.delay < seconds:
            queue.delay = seconds
            # Whatever was granted before was granted at a faster pace.
            queue.starts = deque()
            self._tell(host)

    def resume_at(self, host: str) -> float:
        """When `host` may be asked again, by the monotonic clock; 0 if it is not paused."""
        queue = self._queues.get(host)
        return queue.resume if queue else 0.0

    def lack(self, origin: str) -> None:
        """Ask for the robots.txt of `origin`; `on_text` gets it, or None where it is this worker's to fetch."""
        self._lacking[origin] = None
        self._wake.set()

    def found(self, origin: str, text: Text | None) -> None:
        """Share the robots.txt of `origin`; None gives up fetching it."""
        self._found[origin] = text
        self._wake.set()

    def drop(self, host: str | None = None) -> list[J]:
        """Take away all that waits, for one host or for all, and return it."""
        queues = [self._queues[host]] if host else self._queues.values()
        dropped = [job for queue in queues for job in queue.jobs]
        for queue in queues:
            queue.jobs.clear()
            self._dirty[queue.name] = None
        return dropped

    async def run(self) -> None:
        """Exchange with the ledger until cancelled."""
        loop = asyncio.get_running_loop()
        polled = monotonic()
        while True:
            timer = loop.call_later(max(0.0, polled + POLL - monotonic()), self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()
            is_poll = monotonic() - polled >= POLL
            if is_poll:
                polled = monotonic()
            hosts, later = (self._queues, self._worker.later()) if is_poll else (self._dirty, None)
            self._apply(*await self._exchange(hosts, later))
            if self._limits.tick:
                await asyncio.sleep(self._limits.tick)

    async def close(self) -> None:
        """Give everything back; nothing is on its way any more, whether it ended or was cancelled."""
        for queue in self._queues.values():
            queue.idle += queue.busy
            queue.busy.clear()
            queue.jobs.clear()
            queue.target = 0
        self._lacking.clear()
        await self._exchange(self._queues, {})

    def _tell(self, host: str) -> None:
        self._dirty[host] = None
        self._wake.set()

    def _is_full(self) -> bool:
        return self.is_held or self._in_flight >= self._concurrency

    def _pump(self, queue: _Queue[J, C]) -> None:
        """Start jobs of one host until something is missing."""
        while queue.jobs and len(queue.busy) < min(queue.slots, queue.target) and self._may_start(queue):
            if self._is_full():
                if not queue.is_runnable:
                    queue.is_runnable = True
                    self._runnable.append(queue)
                return
            if queue.starts is not None:
                queue.starts.popleft()
            connection = queue.idle.pop() if queue.idle else self._worker.connect()
            queue.busy.add(connection)
            self._in_flight += 1
            self._worker.start(queue.jobs.popleft(), connection)

    def _may_start(self, queue: _Queue[J, C]) -> bool:
        """Whether the host's pace allows a request now; if it will later, look again then."""
        if queue.starts is None and not queue.resume:
            return True
        now = monotonic()
        at = queue.resume
        if queue.starts is not None:
            while queue.starts and queue.starts[0] < now - LATE:
                queue.starts.popleft()
            if not queue.starts:
                self._dirty[queue.name] = None
                return False
            at = max(at, queue.starts[0])
        if at <= now + EARLY:
            return True
        if queue.timer is None:
            queue.timer = asyncio.get_running_loop().call_later(at - now, self._look_again, queue)
        return False

    def _look_again(self, queue: _Queue[J, C]) -> None:
        queue.timer = None
        self._pump(queue)

    async def _exchange(
        self, hosts: Mapping[str, object], later: Mapping[str, int] | None
    ) -> tuple[dict[str, Ask], Answer]:
        now = monotonic()
        asks = {name: self._queues[name].ask(now) for name in hosts if name in self._queues}
        for name, ask in asks.items():
            queue = self._queues[name]
            while len(queue.busy) + len(queue.idle) > ask.slots:
                self._worker.disconnect(queue.idle.pop())
            if not ask.wanted and not ask.slots:
                self._forget(queue)
        report = Report(asks, tuple(self._lacking), self._found, later)
        self._dirty, self._found = {}, {}
        sent = monotonic()
        answer = await self._limits.exchange(self._name, report)
        self._set_clock(answer.now, sent)
        return asks, answer

    def _forget(self, queue: _Queue[J, C]) -> None:
        if queue.timer:
            queue.timer.cancel()
        del self._queues[queue.name]

    def _set_clock(self, theirs: float, sent: float) -> None:
        """What to add to the ledger's times to get ours: from the quickest exchange, while that can still be true."""
        now = monotonic()
        if now - sent <= self._took or not sent <= theirs + self._offset <= now:
            self._took, self._offset = now - sent, (now + sent) / 2 - theirs

    def _apply(self, asks: dict[str, Ask], answer: Answer) -> None:
        for name, lease in answer.leases.items():
            queue = self._queues.get(name)
            if queue is None:
                continue
            queue.target = lease.slots
            if lease.slots >= asks[name].slots:
                queue.slots = lease.slots
            if lease.resume > answer.now:
                queue.resume = max(queue.resume, lease.resume + self._offset)
                self._worker.on_pause(name)
            if lease.starts is None:
                queue.starts = None
            else:
                queue.starts = queue.starts or deque()
                queue.starts.extend(start + self._offset for start in lease.starts)
            self._pump(queue)
        for origin, text in answer.texts.items():
            if origin in self._lacking:
                del self._lacking[origin]
                self._worker.on_text(origin, text)
        if not self._runnable:
            self._worker.admit()
