"""Fetching URLs over HTTP: politely, with a deadline a URL, retries, and a reason for each failure.

Every redirect and every retry is a request of its own: its address is judged, the host's robots.txt is obeyed, and
it waits for its turn at that host like any other.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic

from yarl import URL

from pipelines.web.addresses import GuardedResolver, refused
from pipelines.web.config import FetchConfig
from pipelines.web.hosts import Limits
from pipelines.web.request import Connection, Reply, backoff, request
from pipelines.web.rules import Rulebook, text_of
from pipelines.web.texts import Text
from pipelines.web.turns import Turns

# A timeout is final: the deadline is what one URL may cost, and a body that never ends would cost it again.
RETRIED = frozenset({"http_429", "http_5xx", "connection"})
_NOWHERE = URL()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one URL: the body where `reason` is `ok`, else why there is none."""

    reason: str
    body: bytes = b""
    message: str | None = None
    redirected: bool = False


Take = Callable[[int, Fetched], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Job:
    """One URL on its way, or the robots.txt of an origin (`index` is None)."""

    index: int | None
    first: str
    url: URL = _NOWHERE
    host: str = ""
    origin: str = ""
    hops: int = 0
    attempt: int = 0
    spent: float = 0.0
    is_done: bool = False


class Fetcher:
    """Fetches URLs for one worker; addresses and rules live from one call to the next.

    Belongs to one event loop. Several calls of `fetch_all` may go on at once, each with its own `concurrency` and
    `held_bytes`.
    """

    def __init__(self, config: FetchConfig, limits: Limits) -> None:
        self.config, self.limits, self.rules = config, limits, Rulebook(config.user_agent)
        self._resolver: GuardedResolver | None = None

    async def fetch_all(self, urls: Sequence[str], take: Take) -> None:
        """Fetch every URL and await `take(position, result)` once for it; never raises for a single URL.

        Results are taken while other requests go on; when more than `held_bytes` wait to be taken, no new request
        starts. What `take` raises ends the call.
        """
        if self._resolver is None:
            self._resolver = GuardedResolver(self.config)
        if urls:
            await _Run(self, self._resolver, urls, take).run()

    async def close(self) -> None:
        """End what goes on in threads; connections were closed when their call ended."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


class _Run:
    """One call of `fetch_all`."""

    def __init__(self, of: Fetcher, resolver: GuardedResolver, urls: Sequence[str], take: Take) -> None:
        self._config, self._rules, self._resolver, self._urls, self._take = of.config, of.rules, resolver, urls, take
        self._loop = asyncio.get_running_loop()
        self._end = monotonic() + of.config.shard_deadline
        self._turns: Turns[_Job, Connection] = Turns(of.limits, of.config.concurrency, self)
        self._admitted = 0
        self._ahead = Counter(map(_site, urls))
        self._parked: dict[str, list[_Job]] = {}
        self._asleep: dict[_Job, asyncio.TimerHandle] = {}
        self._held = 0
        self._left = len(urls)
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Until every URL has been taken."""
        deadline = self._loop.call_later(self._config.shard_deadline, self._give_up)
        self.admit()
        self._spawn(self._turns.run())
        try:
            await self._done
        finally:
            for timer in (deadline, *self._asleep.values()):
                timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._turns.close()
            await asyncio.gather(*self._tasks)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error and not self._done.done():
            self._done.set_exception(error)

    def admit(self) -> None:
        """Let more URLs wait for their turns, about as many as could be sent: what is asked for in vain is lost."""
        room = self._config.concurrency
        while room and self._admitted < len(self._urls) and not self._turns.has_work:
            url = self._urls[self._admitted]
            self._ahead[_site(url)] -= 1
            job = _Job(self._admitted, url)
            self._admitted += 1
            self._enter(job, url)
            room -= not job.is_done

    def _enter(self, job: _Job, url: str | URL) -> None:
        """Let `job` wait for its turn to ask for `url`, or end it where that must not be asked for."""
        refusal = refused(url, self._config)
        if refusal:
            self._finish(job, Reply(refusal[0], message=refusal[1]))
            return
        job.url = URL(url)
        # With a dot at its end it is the same host.
        job.origin, job.host = str(job.url.origin()), (job.url.raw_host or "").rstrip(".")
        if any(fnmatch.fnmatchcase(str(job.url), pattern) for pattern in self._config.placeholder_urls):
            self._finish(job, Reply("placeholder"))
        elif job.index is not None and self._config.robots:
            self._obey(job)
        else:
            self._wait(job)

    def _obey(self, job: _Job) -> None:
        """Let `job` go on if its origin's robots.txt allows; if that is not known yet, when it is."""
        rules = self._rules.of(job.origin)
        if rules is None and monotonic() >= self._end:
            self._finish(job, Reply("host_budget"))
        elif rules is None:
            if job.origin not in self._parked:
                self._turns.lack(job.origin)
            self._parked.setdefault(job.origin, []).append(job)
        elif isinstance(rules, Reply):
            self._finish(job, rules)
        elif not rules.allows(str(job.url)):
            self._finish(job, Reply("robots"))
        else:
            self._wait(job)
            self._turns.delay(job.host, rules.crawl_delay or 0.0)

    def later(self) -> Counter[str]:
        """URLs by host that wait for a further try, or for their host's robots.txt."""
        found = Counter(job.host for job in self._asleep)
        for parked in self._parked.values():
            found[parked[0].host] += len(parked)
        return found

    def on_text(self, origin: str, text: Text | None) -> None:
        """The robots.txt of `origin` is there, or (None) is ours to fetch."""
        if text is None:
            self._enter(_Job(None, origin), f"{origin}/robots.txt")
            return
        self._rules.learn(origin, text)
        for job in self._parked.pop(origin, []):
            self._obey(job)

    def _wait(self, job: _Job) -> None:
        """Let `job` wait for its turn, unless its host does not want to hear of us before the shard's deadline."""
        if max(monotonic(), self._turns.resume_at(job.host)) >= self._end:
            self._finish(job, Reply("host_budget"))
        else:
            self._turns.add(job.host, job, first=job.index is None)

    def connect(self) -> Connection:
        """One slot of a host."""
        return Connection(self._config, self._resolver)

    def disconnect(self, connection: Connection) -> None:
        """Close what a slot has open."""
        self._spawn(connection.close())

    def start(self, job: _Job, connection: Connection) -> None:
        """Send the request of `job` now."""
        self._spawn(self._send(job, connection))

    async def _send(self, job: _Job, connection: Connection) -> None:
        """One request, and what follows from its reply."""
        host, site, began = job.host, _site(str(job.url)), monotonic()
        left = max(0.001, self._config.deadline - job.spent)
        reply = await request(connection, job.url, self._config, seconds=left, is_rules=job.index is None)
        job.spent += monotonic() - began
        if reply.location is not None:
            self._redirect(job, reply.location)
        elif reply.reason not in RETRIED or not self._retry(job, reply):
            self._finish(job, reply)
        self._turns.end(host, connection, keep=self._ahead[site] > 0)
        self.admit()

    def _redirect(self, job: _Job, location: str) -> None:
        job.hops += 1
        if job.hops > self._config.max_redirects:
            self._finish(job, Reply("redirects"))
            return
        try:
            self._enter(job, job.url.join(URL(location)).with_fragment(None))
        except ValueError:
            self._finish(job, Reply("redirects", message="Redirect to an unusable address"))

    def _retry(self, job: _Job, reply: Reply) -> bool:
        """Arrange another try if there is one left; a host that asks to be left alone is, by all workers."""
        pause = backoff(job.first, job.attempt, self._config) if reply.wait is None else reply.wait
        if reply.wait is not None or reply.reason == "http_429":
            self._turns.pause(job.host, pause)
        is_last = job.attempt == self._config.retries or job.spent >= self._config.deadline
        if is_last or (reply.wait or 0.0) > self._config.max_retry_after:
            return False
        job.attempt += 1
        self._asleep[job] = self._loop.call_later(pause, self._again, job)
        return True

    def on_pause(self, host: str) -> None:
        """Who waits for a host that cannot be asked again in time ends here."""
        if self._turns.resume_at(host) >= self._end:
            for job in self._turns.drop(host):
                self._finish(job, Reply("host_budget"))

    def _again(self, job: _Job) -> None:
        del self._asleep[job]
        self._wait(job)

    def _give_up(self) -> None:
        """The shard's deadline: whatever is not on its way now ends here."""
        jobs = [*self._turns.drop(), *self._asleep]
        for timer in self._asleep.values():
            timer.cancel()
        self._asleep.clear()
        jobs += [job for parked in self._parked.values() for job in parked]
        self._parked.clear()
        jobs += [_Job(index, self._urls[index]) for index in range(self._admitted, len(self._urls))]
        self._admitted = len(self._urls)
        for job in jobs:
            self._finish(job, Reply("host_budget"))

    def _finish(self, job: _Job, reply: Reply) -> None:
        """The end of one URL: it is handed on, and its bytes count as held until they are taken."""
        job.is_done = True
        if job.index is None:
            self._share(job.first, reply)
            return
        body = reply.body if reply.reason == "ok" else b""
        self._held += len(body)
        self._turns.is_held = self._held > self._config.held_bytes
        self._spawn(self._hand_on(job.index, Fetched(reply.reason, body, reply.message, redirected=job.hops > 0)))

    def _share(self, origin: str, reply: Reply) -> None:
        """Tell the other workers and our own URLs what came of asking for a robots.txt."""
        if reply.reason == "host_budget":
            self._turns.found(origin, None)
            for job in self._parked.pop(origin, []):
                self._finish(job, reply)
            return
        text = text_of(reply)
        self._turns.found(origin, text)
        self.on_text(origin, text)

    async def _hand_on(self, index: int, result: Fetched) -> None:
        await self._take(index, result)
        self._held -= len(result.body)
        if self._turns.is_held and self._held <= self._config.held_bytes:
            self._turns.is_held = False
            self._turns.go_on()
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)


def _site(url: str) -> str:
    """Host and port as they are written in `url`: cheap, and enough to see whether more is to come from there."""
    return "".join(url.split("/", 3)[2:3]).lower()
