"""Who may ask which host, when: one ledger for all workers of a job.

A worker holds *slots* of a host (connections, at most the host's concurrency over all workers) and, where the
host's rate is limited, gets *starts*: the moments at which a request may leave. It tells the ledger what it
needs for all its hosts at once, a few times a second; slots go back when another worker needs its share. The ledger
has no thread and no clock of its own, so that it runs in a Ray actor and in a test alike.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipelines.web.config import FetchConfig, HostLimit
from pipelines.web.texts import Text, Texts

# A start that is missed by more is not used: an event loop that was held up must not send two requests in a row.
LATE = 0.05
# Seconds by which the starts of one second lie further apart in all than the rate asks for. One that is late, and
# takes as long again to reach the server, still leaves no second there with more requests than the rate.
SLACK = 2 * LATE
# Starts are handed out so far ahead: longer than a worker's pause between two exchanges.
AHEAD = 0.5
# Where there are more workers than slots, each keeps its slot for so long before it is the next one's turn.
TURN = 2.0
# What a worker holds is free again when nothing was heard of it for so long; it reports many times a second.
LEASE = 10.0
# Hosts that are named when it is told what is waited for.
SHOWN = 3


class Ask(NamedTuple):
    """What one worker says about one host."""

    wanted: int  # slots that it could use: requests in flight and waiting
    slots: int  # of the slots that it has, how many it keeps: in use, or with a connection that may be used again
    starts: int  # starts that it could use beyond those it has
    pause: float = 0.0  # seconds for which the host asked to be left alone
    delay: float = 0.0  # seconds between two requests that its robots.txt asks for


class Lease(NamedTuple):
    """What the ledger answers: fewer slots than were kept means that the rest is to be given back when free."""

    slots: int
    starts: tuple[float, ...] | None  # by the ledger's clock; None where requests may leave at any time
    resume: float  # no request before this, by the ledger's clock


class Report(NamedTuple):
    """All that one worker says at once; of robots.txt, by origin, what it lacks and what it found."""

    hosts: Mapping[str, Ask]
    lacking: tuple[str, ...] = ()
    found: Mapping[str, Text | None] = {}
    later: Mapping[str, int] | None = None  # rows by host that do not wait for a turn yet; None: as many as before


class Answer(NamedTuple):
    """The ledger's answer; `texts` has None where the worker itself is to fetch the robots.txt."""

    now: float
    leases: Mapping[str, Lease]
    texts: Mapping[str, Text | None]


class Limits(Protocol):
    """The way to the ledger."""

    tick: float  # seconds to leave between two exchanges

    async def exchange(self, worker: str, report: Report) -> Answer:
        """Tell what `worker` needs and learn what it gets."""
        ...


class Waiting(NamedTuple):
    """What all workers wait for: rows with a request on its way or waiting for one, in all and at single hosts."""

    shards: int  # calls of `fetch_all` under way
    rows: int  # also those that wait for a further try, or for a robots.txt
    hosts: tuple[tuple[str, int, float], ...]  # the hosts with most rows, their rows, seconds of pause that are left

    def text(self) -> str:
        """The same for people; empty where nothing is under way."""
        if not self.shards:
            return ""
        under_way = f"{self.shards} shard{'s' if self.shards > 1 else ''} under way"
        if not self.rows:
            return f"{under_way}, no row waits for its host"
        hosts = [
            f"{name} {rows:,}{f' (paused for {math.ceil(pause)} s)' if pause else ''}"
            for name, rows, pause in self.hosts
        ]
        return f"{under_way}, {self.rows:,} rows wait for their hosts, most for {', '.join(hosts)}"


class Watched(Limits, Protocol):
    """Limits that can also be asked, from any thread, what is waited for."""

    def waiting(self) -> Waiting | None:
        """What all workers wait for now; None where that cannot be found out."""


@dataclass(slots=True, eq=False)
class _Claim:
    held: int = 0
    wanted: int = 0
    starts: int = 0
    slots_at: float = 0.0  # when it last got slots, and starts: who waits longest comes first
    starts_at: float = 0.0


@dataclass(slots=True)
class _Host:
    limit: HostLimit
    claims: dict[str, _Claim] = field(default_factory=dict)
    next_start: float = 0.0
    resume: float = 0.0
    delay: float = 0.0

    def spacing(self) -> float:
        """Seconds between two starts; 0 where they are free."""
        paced = (1 + SLACK) / self.limit.rate if self.limit.rate else 0.0
        return max(paced, self.delay + SLACK if self.delay else 0.0)


class Ledger:
    """Slots, starts and pauses of every host, and the robots.txt files that workers share."""

    def __init__(self, config: FetchConfig, quiet: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is granted in the first `quiet` seconds, for one that takes the place of a lost ledger: by then it
        has heard from all workers what they hold."""
        self._config, self._clock = config, clock
        self._opens = clock() + quiet
        self._hosts: dict[str, _Host] = {}
        self._seen: dict[str, float] = {}
        self._later: dict[str, Mapping[str, int]] = {}
        self._texts = Texts()
        self._swept = clock()

    def exchange(self, worker: str, report: Report) -> Answer:
        """Take what `worker` says, and give it what is free and its turn."""
        now = self._clock()
        if now - self._swept > LEASE / 4:
            self._sweep(now)
        self._seen[worker] = now
        if report.later is not None:
            self._later[worker] = report.later
        leases = {name: self._lease(worker, name, ask, now) for name, ask in report.hosts.items()}
        for origin, text in report.found.items():
            self._texts.put(origin, text, now)
        return Answer(now, leases, self._texts.take(worker, report.lacking, now))

    def waiting(self) -> Waiting:
        """What the workers wait for that were heard of lately: one that has ended is silent."""
        now = self._clock()
        shards = sum(now - seen < LEASE / 4 for seen in list(self._seen.values()))
        rows: Counter[str] = Counter()
        for name, host in list(self._hosts.items()):
            rows[name] += sum(claim.wanted for claim in list(host.claims.values()))
        for later in list(self._later.values()):
            rows.update(later)
        top = sorted((name for name in rows if rows[name]), key=lambda name: (-rows[name], name))[:SHOWN]
        return Waiting(shards, rows.total(), tuple((name, rows[name], self._pause(name, now)) for name in top))

    def _pause(self, name: str, now: float) -> float:
        host = self._hosts.get(name)
        return max(0.0, host.resume - now) if host else 0.0

    def _lease(self, worker: str, name: str, ask: Ask, now: float) -> Lease:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(self._config.limit_of(name), next_start=self._opens)
        host.delay = max(host.delay, ask.delay)
        host.resume = max(host.resume, now + ask.pause if ask.pause else 0.0)
        claim = host.claims.get(worker) or _Claim(slots_at=now, starts_at=now)
        claim.held, claim.wanted, claim.starts = ask.slots, ask.wanted, ask.starts
        if not (ask.wanted or ask.slots):
            host.claims.pop(worker, None)
            return Lease(0, (), host.resume)
        host.claims[worker] = claim
        slots = _slots(host, worker, now) if now >= self._opens else claim.held
        return Lease(slots, _starts(host, worker, now), host.resume)

    def _sweep(self, now: float) -> None:
        """Forget workers that went silent, and hosts that nobody asks."""
        self._swept = now
        gone = {worker for worker, seen in self._seen.items() if now - seen > LEASE}
        for worker in gone:
            del self._seen[worker]
            self._later.pop(worker, None)
        self._texts.forget(gone)
        for name, host in list(self._hosts.items()):
            for worker in gone & host.claims.keys():
                del host.claims[worker]
            if not host.claims and max(host.next_start, host.resume) < now:
                del self._hosts[name]


def _slots(host: _Host, worker: str, now: float) -> int:
    """How many slots `worker` has from now on, or is to come down to."""
    claims, mine = host.claims, host.claims[worker]
    free = host.limit.concurrency - sum(claim.held for claim in claims.values())
    if free > 0:
        before = mine.held
        short = {name: claim for name, claim in claims.items() if claim.wanted > claim.held}
        mine.held += _filled(worker, short, free)
        mine.slots_at = now if mine.held > before else mine.slots_at
        return mine.held
    share = host.limit.concurrency // sum(1 for claim in claims.values() if claim.wanted)
    others = (claim for name, claim in claims.items() if name != worker)
    lacking = any(claim.held < min(claim.wanted, max(share, 1)) for claim in others)
    if not lacking or (not share and mine.wanted and now - mine.slots_at < TURN):
        return mine.held
    return min(mine.held, share, mine.wanted)


def _starts(host: _Host, worker: str, now: float) -> tuple[float, ...] | None:
    """The moments at which `worker` may send a request, from those within reach that nobody has yet."""
    spacing = host.spacing()
    if not spacing:
        return None
    first = max(host.next_start, host.resume, now)
    within = int((now + AHEAD - first) / spacing) + 1 if first <= now + AHEAD else 0
    mine = host.claims[worker]
    waiting = [claim for claim in host.claims.values() if claim.starts and claim.held]
    if mine not in waiting:
        return ()
    # All that wait take one after the other, who was served longest ago first.
    before = sum(1 for claim in waiting if claim.starts_at < mine.starts_at)
    count = min(mine.starts, len(range(before, within, len(waiting))))
    if not count:
        return ()
    mine.starts_at = now
    host.next_start = first + count * spacing
    return tuple(first + i * spacing for i in range(count))


def _filled(worker: str, short: Mapping[str, _Claim], free: int) -> int:
    """How many of the `free` slots `worker` gets when each goes to the one with fewest, then waiting longest."""
    if worker not in short:
        return 0
    if len(short) == 1:
        return min(free, short[worker].wanted - short[worker].held)
    held = {name: claim.held for name, claim in short.items()}
    for _ in range(free):
        lacking = [name for name, claim in short.items() if claim.wanted > held[name]]
        if not lacking:
            break
        held[min(lacking, key=lambda name: (held[name], short[name].slots_at))] += 1
    return held[worker] - short[worker].held


class _LocalLimits:
    """A ledger in this process, for one worker."""

    tick = 0.0

    def __init__(self, config: FetchConfig) -> None:
        self._ledger = Ledger(config)

    async def exchange(self, worker: str, report: Report) -> Answer:
        return self._ledger.exchange(worker, report)

    def waiting(self) -> Waiting:
        return self._ledger.waiting()


def local_limits(config: FetchConfig) -> Watched:
    """Limits that hold within this process."""
    return _LocalLimits(config)
