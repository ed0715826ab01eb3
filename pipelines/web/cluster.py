"""The ledger of hosts as a Ray actor: limits that hold over all workers of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from filters.errors import HeadwaterError
from pipelines.store.fingerprint import fingerprint
from pipelines.web.config import FetchConfig
from pipelines.web.hosts import AHEAD, Answer, Ledger, Report, Waiting, Watched

NAMESPACE = "headwater"
# Seconds between two exchanges of a shard under way: one call each, a millisecond of CPU, for all its hosts.
TICK = 0.25
# A ledger that replaces a lost one first listens: workers tell what they hold, and starts given out before pass.
QUIET = 2 * AHEAD
# Times that a lost ledger is looked for before a worker gives up, and the seconds between them.
TRIES, PAUSE = 60, 0.5
# Seconds to wait for a word on what is waited for.
PATIENCE = 5.0


class _ClusterLimits:
    """Picklable; each process looks the actor up by its name, and makes it again if it was lost."""

    tick = TICK

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        # Jobs with other limits at the same time have a ledger of their own.
        self._name = f"hosts-{fingerprint(config.model_dump(include={'limit', 'hosts'}))}"
        self._ledger: Any = None

    def __getstate__(self) -> tuple[FetchConfig, str]:
        return self._config, self._name

    def __setstate__(self, state: tuple[FetchConfig, str]) -> None:
        self._config, self._name = state
        self._ledger = None

    def find(self) -> Any:
        """The actor, made if it is not there; it lives as long as the process that made it, so the driver should."""
        import ray

        actor = ray.remote(num_cpus=0, max_restarts=-1)(Ledger)
        options = actor.options(name=self._name, namespace=NAMESPACE, get_if_exists=True)
        self._ledger = options.remote(self._config, QUIET)
        return self._ledger

    async def exchange(self, worker: str, report: Report) -> Answer:
        """One call to the actor; HeadwaterError if it stays lost."""
        import ray

        for _ in range(TRIES):
            with contextlib.suppress(ray.exceptions.RayActorError):
                ledger = self._ledger or self.find()
                answer: Answer = await ledger.exchange.remote(worker, report)
                return answer
            self._ledger = None
            await asyncio.sleep(PAUSE)
        raise HeadwaterError("ray: the actor that keeps the hosts' limits was lost and cannot be started again")

    def waiting(self) -> Waiting | None:
        """One call to the actor, in vain while it is lost; for a thread without an event loop."""
        import ray

        try:
            ledger = self._ledger or self.find()
            waiting: Waiting = ray.get(ledger.waiting.remote(), timeout=PATIENCE)
        except ray.exceptions.RayError:
            self._ledger = None
            return None
        return waiting


def cluster_limits(config: FetchConfig) -> Watched:
    """Limits that all workers of the Ray cluster keep together.

    Called in the driver once Ray runs, it starts the ledger, which then ends with the driver; otherwise the first
    worker that needs it does.
    """
    import ray

    limits = _ClusterLimits(config)
    if ray.is_initialized():
        limits.find()
    return limits
