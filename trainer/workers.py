"""Processes that fill parts of batches, in memory that they share with the one that asked."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from filters.errors import ConfigError, HeadwaterError
from trainer.batch import Index
from trainer.dataset import Epoch, Failure, MixtureDataset, Part

_PATIENCE = 5  # seconds until a process whose connection ended has ended itself


class Unit(NamedTuple):
    """Samples that are filled in one go: their epoch, positions and rows, int64 [N]."""

    epoch: Epoch
    positions: Index
    rows: Index


@dataclass(frozen=True, slots=True)
class Filled:
    """The samples of a unit and the pictures that could not be decoded; `slot` is where they lie."""

    part: Part
    failures: list[Failure]
    slot: int


@dataclass(slots=True)
class _Worker:
    process: ForkProcess
    connection: Connection
    waiting: int = 0  # units that it has not answered


@dataclass(slots=True)
class _Asked:
    """A unit that was given out, and what its worker answers."""

    size: int
    slot: int
    worker: _Worker
    answer: list[Failure] | HeadwaterError | None = None


class Workers:
    """`workers` processes, and room for `slots` units of at most `size` samples each.

    Units are given out by `ask` while `free` of them have room, and come back by `take` in the order in which they
    were asked. Samples lie in anonymous memory that is mapped before the processes are forked: nothing is copied or
    pickled, and no limit on /dev/shm matters. The dataset's memory-mapped files stay shared too.

    `take` raises what a worker raised of our own errors, and HeadwaterError for a worker that ended.
    """

    def __init__(self, dataset: MixtureDataset, workers: int, slots: int, size: int) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ConfigError("workers: this system cannot fork processes; set `workers: 0` to read with threads")
        self._rooms = _shared_rooms(dataset, slots, size)
        self._free = list(range(slots))
        self._asked: deque[_Asked] = deque()
        self._all: list[_Worker] = []
        try:
            for _ in range(workers):
                self._all.append(self._start(dataset, workers))
        except OSError as error:
            self.close()
            raise HeadwaterError(f"no loader process can be started ({error.strerror}); use fewer workers") from error

    @property
    def free(self) -> int:
        """Units for which there is room."""
        return len(self._free)

    def ask(self, unit: Unit) -> None:
        """Give a unit to the worker with the fewest."""
        worker = min(self._all, key=lambda worker: worker.waiting)
        slot = self._free.pop()
        try:
            worker.connection.send((slot, unit))
        except OSError as error:
            raise _ended(worker) from error
        worker.waiting += 1
        self._asked.append(_Asked(len(unit.rows), slot, worker))

    def take(self) -> Filled:
        """The next unit; its room is taken until it is given to `release`."""
        asked = self._asked.popleft()
        while asked.answer is None:
            self._listen(asked)
        if isinstance(asked.answer, HeadwaterError):
            raise asked.answer
        return Filled(self._rooms[asked.slot][: asked.size], asked.answer, asked.slot)

    def release(self, filled: Filled) -> None:
        """Give the room of a unit, whose samples are not looked at any more, to another one."""
        self._free.append(filled.slot)

    def close(self) -> None:
        """End all processes."""
        for worker in self._all:
            # It has nothing to put away. SIGTERM is lost by one that has just begun, while it takes our handler off.
            worker.process.kill()
        for worker in self._all:
            worker.process.join()

    def _start(self, dataset: MixtureDataset, workers: int) -> _Worker:
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        # A worker learns of our end by the end of its connection, if no other one holds our side of it.
        ours = [mine, *(worker.connection for worker in self._all)]
        process = context.Process(target=_work, args=(dataset, workers, self._rooms, theirs, ours), daemon=True)
        with warnings.catch_warnings(), _no_collection():
            # Python 3.12 warns of locks that other threads hold now: a worker needs none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, mine)

    def _listen(self, first: _Asked) -> None:
        """Wait until some worker answers."""
        by_connection: dict[Any, _Worker] = {worker.connection: worker for worker in self._all}
        by_slot = {asked.slot: asked for asked in (first, *self._asked)}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]
            try:
                slot, answer = worker.connection.recv()
            except (EOFError, OSError) as error:
                raise _ended(worker) from error
            worker.waiting -= 1
            by_slot[slot].answer = answer


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Meanwhile, and in a process that is forked meanwhile, no garbage is collected."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _ended(worker: _Worker) -> HeadwaterError:
    worker.process.join(_PATIENCE)
    code = worker.process.exitcode
    if code is not None and code < 0:
        why = f"was killed by {signal.Signals(-code).name}"
        why += "; is there enough memory? Use fewer workers" if code == -signal.SIGKILL else ""
    else:
        why = f"ended with exit code {code}; its own message stands above"
    return HeadwaterError(f"loader process {worker.process.pid} {why}")


def _shared_rooms(dataset: MixtureDataset, slots: int, size: int) -> list[Part]:
    """Room for `slots` units in memory that processes share once they are forked."""
    pixels, numbers = 3 * dataset.size**2 * size, (dataset.tokens.length + 2) * size
    stride = -(-(pixels + 8 * numbers) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, stride * slots)
    rooms = []
    for start in range(0, stride * slots, stride):
        integers = np.frombuffer(memory, np.int64, numbers, start).reshape(-1, size)
        images = np.frombuffer(memory, np.uint8, pixels, start + 8 * numbers)
        tokens = integers[:-2].reshape(size, -1)
        rooms.append(Part(images.reshape(size, dataset.size, dataset.size, 3), tokens, integers[-2], integers[-1]))
    return rooms


def _work(
    dataset: MixtureDataset, workers: int, rooms: list[Part], connection: Connection, others: list[Connection]
) -> None:
    """What a worker does: fill units into their slots until the connection ends."""
    # What was made before the fork is not this process's to destroy: Ray's handles would wait for a lock of a thread
    # that is not here.
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset.reopen(workers)
    with contextlib.suppress(EOFError, OSError):
        while True:
            slot, unit = connection.recv()
            try:
                answer: list[Failure] | HeadwaterError = dataset.fill(
                    unit.epoch, unit.positions, unit.rows, rooms[slot][: len(unit.rows)]
                )
            except HeadwaterError as error:
                answer = error
            connection.send((slot, answer))
