"""What a command costs, all its processes together: seconds, CPU seconds, peak memory, and CPU by kind of process."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from filters.errors import InputError

# Looking at thirty processes costs milliseconds, at their memory tens of them: both seldom enough not to be measured.
LOOK, LOOK_AT_MEMORY = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command: seconds by the clock, CPU seconds (user and system), bytes, CPU seconds by kind of process.

    `course` are the moments (seconds since the epoch) at which CPU seconds were read, and what had been used by then.
    """

    wall: float
    cpu: float
    peak_memory: int
    cpu_by_kind: dict[str, float]
    course: tuple[tuple[float, float], ...]

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds used between two moments in seconds since the epoch, to about the time between two looks."""
        moments, used = zip(*self.course, strict=True)
        return float(np.interp(end, moments, used) - np.interp(start, moments, used))


def run_measured(
    command: Sequence[str],
    log: Path,
    kind_of: Callable[[Sequence[str]], str],
    env: Mapping[str, str] | None = None,
) -> Cost:
    """Run a command to its end, output to `log`; InputError with its last lines if it fails.

    Memory is the sum of the proportional set sizes of the tree (shared pages count once), the largest seen.
    CPU is read of each process while it lives, and once more by the system for those that were waited for; either
    can miss a little (a process that ends between two looks, one that nobody waits for), so the larger one counts.
    """
    before, start = _waited(), time.monotonic()
    used: dict[psutil.Process, float] = {}
    kinds: dict[psutil.Process, str] = {}
    course = [(time.time(), 0.0)]
    peak, next_memory = 0, 0.0
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        root = psutil.Process(process.pid)
        while process.poll() is None:
            tree = _tree(root)
            for one in tree:
                _look(one, used, kinds, kind_of)
            course.append((time.time(), sum(used.values())))
            if time.monotonic() >= next_memory:
                peak, next_memory = max(peak, sum(map(_memory, tree))), time.monotonic() + LOOK_AT_MEMORY
            time.sleep(LOOK)
    wall = time.monotonic() - start
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise InputError(f"{' '.join(command)}: exit code {process.returncode}:\n{tail}")
    by_kind: dict[str, float] = {}
    for one, seconds in used.items():
        by_kind[kinds[one]] = by_kind.get(kinds[one], 0.0) + seconds
    return Cost(wall, max(sum(used.values()), _waited() - before), peak, by_kind, tuple(course))


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _look(
    process: psutil.Process,
    used: dict[psutil.Process, float],
    kinds: dict[psutil.Process, str],
    kind_of: Callable[[Sequence[str]], str],
) -> None:
    """Note the CPU seconds of a process, and what it is: a fork changes its name when it starts its program."""
    try:
        with process.oneshot():
            times = process.cpu_times()
            kinds[process] = kind_of(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        kinds.setdefault(process, "ended")
        used.setdefault(process, 0.0)
        return
    used[process] = times.user + times.system


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _waited() -> float:
    """CPU seconds of all ended children of this process and of those that they waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
