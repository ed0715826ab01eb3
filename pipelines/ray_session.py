"""Ray's start and end in the process of a job."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

from filters.errors import HeadwaterError
from pipelines.job import say


def start_ray(address: str | None = None, cpus: int | None = None) -> None:
    """Connect to Ray once: to `address` or RAY_ADDRESS if given, else to a cluster of this process on loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Data reports each dataset it runs, and a lost worker with its trace; the jobs have their own lines.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")
    # Else each pool of workers that may be started again prints an error about what could then happen.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # And traces of its own statistics, when those of a finished dataset come late.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # The only switch by which Ray 2.60 keeps a one-machine cluster on loopback; it is read at import.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return
    say("ray: starting" if address is None else f"ray: connecting to {address}")
    with _own_sigterm(), _no_stderr():
        _connect(address, cpus)
    atexit.register(stop_ray)  # runs before Ray's own
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    # To look at a worker's memory once a second takes a tenth of its time.
    context.memory_usage_poll_interval_s = None
    # A shard that is given up is left out, and named here; the others go on.
    context.max_errored_blocks = -1


def stop_ray(patience: float = 15.0) -> None:
    """Leave Ray; a cluster of this process ends with that, after `patience` seconds by force.

    Ray asks its cluster to forget this process and sets the answer no limit; it has been seen to wait for 25 minutes.
    A question to a process that is gone is answered at once.
    """
    import ray
    from ray._private import worker

    def end() -> None:
        if worker._global_node is not None:
            worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)

    force = threading.Timer(patience, end)
    force.daemon = True
    force.start()
    ray.shutdown()
    force.cancel()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the job's SIGTERM handler: the one that Ray puts in its place ends the process without any clean-up."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Silence Ray's C++ side, which says at its start that it was told to be silent; errors come as exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device, not a file)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _connect(address: str | None, cpus: int | None) -> None:
    import ray

    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise HeadwaterError(f"ray: no cluster at {address} ({reason}); check RAY_ADDRESS") from error
    else:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=512 * 1024**2,
        )
