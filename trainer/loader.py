"""Endless batches of a mixture, the same for any number of processes, workers and threads."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from filters.errors import InputError
from trainer.batch import Batch, Index
from trainer.config import TrainConfig
from trainer.dataset import Epoch, Failure, MixtureDataset, Part
from trainer.order import BatchMix
from trainer.ranks import Ranks
from trainer.rooms import Rooms
from trainer.sorting import Numbers
from trainer.start import Start
from trainer.views import TrainView
from trainer.workers import Unit, Workers

_Result = tuple[Batch, list[Failure]]


class Loader:
    """Batches of `batch` pairs of all processes together, from the present state on, without an end.

    The batch at position p of an epoch is the samples at positions p to p + batch; process `rank` of `ranks` gets
    every `ranks`-th of them from its own on, or the `rank`-th run of them where they lie in materialised tars. The
    last positions of an epoch that fill no batch are left out of it; with `single_source`, those of each source.

    `workers` processes read and decode ahead; without, `threads` of this process do, when a batch is asked for. A
    worker reads and fills `unit` samples in one go, 64, or 256 from a remote store. Held are, beside the batch that
    was given last, one that is ready, one in units, and two units a worker: (2 * N + (2 * workers + 1) * unit)
    samples, where N is batch / ranks and a sample has 3 * S * S + 8 * context length + 16 bytes. `pin` gives
    page-locked tensors.

    `decode_errors` counts by uid how often a picture of this process's samples could not be decoded, and `reasons`
    has the first reason; `state_dict` has both.

    Raises InputError for a mixture that has less than one batch, and for ranks that do not divide it.
    """

    def __init__(
        self,
        dataset: MixtureDataset,
        batch: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        threads: int = 1,
        batch_mix: BatchMix = "mixed",
        pin: bool = False,
        unit: int | None = None,
    ) -> None:
        if len(dataset) < batch or batch % ranks:
            raise InputError(
                f"a batch of {batch} needs as many pairs (there are {len(dataset)}) and {ranks} equal parts"
            )
        self.dataset = dataset
        self.seed, self.epoch, self.position = dataset.seed, 0, 0
        self.decode_errors: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._plan = _Plan(dataset, batch, batch_mix, rank, ranks)
        self._workers, self._threads, self._unit, self._pin = workers, threads, unit or dataset.window, pin
        self._batches: _Ahead | _AtOnce | None = None
        self._plan.order(Epoch(self.seed, 0))  # what is wrong with the mixture is said here

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            units = self._plan.units(self.seed, self.epoch, self.position, self._size())
            if self._workers:
                self._batches = _Ahead(self._plan, units, self._workers, self._size(), self._pin)
            else:
                self._batches = _AtOnce(self._plan, units, self._threads, self._pin)
        try:
            batch, failures = self._batches.next()
        except BaseException:
            self.close()  # whoever asks again begins where the state says
            raise
        for failure in failures:
            self.decode_errors[failure.uid] += 1
            self.reasons.setdefault(failure.uid, failure.reason)
        epoch, position = self._plan.start(self.seed, self.epoch, self.position)
        self.epoch, self.position = epoch.number, position + self._plan.batch
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts, and what was met in the batches that were given; JSON types only."""
        errors = {uid: {"count": n, "reason": self.reasons[uid]} for uid, n in sorted(self.decode_errors.items())}
        return {
            "mixture": self.dataset.rows.digest,
            "rows": len(self.dataset),
            "batch_mix": self._plan.batch_mix,
            "batch": self._plan.batch,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "decode_errors": errors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        InputError for the state of another mixture, and where batches of one source would be other ones.
        """
        rows, plan = len(self.dataset), self._plan
        if state["rows"] != rows:
            raise InputError(f"the state is of a mixture of {state['rows']} pairs, this one has {rows}")
        if state["mixture"] != self.dataset.rows.digest:
            raise InputError("the state is of another mixture of as many pairs; train on the one that it was made of")
        single = "single_source" in (state["batch_mix"], plan.batch_mix)
        if single and (state["batch_mix"], state["batch"]) != (plan.batch_mix, plan.batch):
            raise InputError(
                f"the state is of {state['batch_mix']} batches of {state['batch']}, these are {plan.batch_mix} ones "
                f"of {plan.batch}; the order of an epoch depends on both"
            )
        self.close()
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]
        self.decode_errors = Counter({uid: error["count"] for uid, error in state["decode_errors"].items()})
        self.reasons = {uid: error["reason"] for uid, error in state["decode_errors"].items()}

    def close(self) -> None:
        """End workers and threads and close files; the next batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
        self.dataset.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _size(self) -> int:
        """Samples of a unit at most: threads share a batch in two units each, so that none waits long."""
        share = self._plan.share
        most = self._unit if self._workers else -(-share // (2 * self._threads if self._threads > 1 else 1))
        return min(share, most)


@dataclass(frozen=True)
class _Plan:
    """Which samples are in which batch, and which of them are this process's."""

    dataset: MixtureDataset
    batch: int
    batch_mix: BatchMix
    rank: int
    ranks: int

    @property
    def share(self) -> int:
        """Samples of a batch that are this process's."""
        return self.batch // self.ranks

    @functools.cached_property
    def order(self) -> Any:
        """The rows of an epoch in order; the last two epochs are at hand, since batches are made ahead."""
        return functools.lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: Epoch) -> Numbers:
        return self.dataset.order(epoch, self.batch, self.batch_mix)

    def start(self, seed: int, epoch: int, position: int) -> tuple[Epoch, int]:
        """Epoch and position of the batch that follows: those given, or the next epoch's first."""
        if position + self.batch > len(self.order(Epoch(seed, epoch))):
            return Epoch(seed, epoch + 1), 0
        return Epoch(seed, epoch), position

    def units(self, seed: int, epoch: int, position: int, size: int) -> Iterator[Unit]:
        """All units of all batches from a state on; those of a batch are of nearly the same size, `size` at most."""
        pieces = -(-self.share // size)
        while True:
            now, position = self.start(seed, epoch, position)
            positions = position + self._mine()
            rows = self.order(now)[positions].astype(np.int64)
            for piece in zip(np.array_split(positions, pieces), np.array_split(rows, pieces), strict=True):
                yield Unit(now, *piece)
            epoch, position = now.number, position + self.batch

    def _mine(self) -> Index:
        """This process's positions in a batch: every `ranks`-th, or of tars a run, so that it reads one range."""
        if self.dataset.is_sequential:
            return np.arange(self.rank * self.share, (self.rank + 1) * self.share)
        return np.arange(self.rank, self.batch, self.ranks)


class _AtOnce:
    """Batches that threads of this process make when they are asked for."""

    def __init__(self, plan: _Plan, units: Iterator[Unit], threads: int, pin: bool) -> None:
        self._plan, self._units = plan, units
        self._rooms = Rooms(plan.dataset.shapes(plan.share), pin)
        self._pool = ThreadPoolExecutor(threads)

    def next(self) -> _Result:
        room = self._rooms.take()
        part, filled, jobs = Part.of(room), 0, []
        while filled < self._plan.share:
            unit = next(self._units)
            stop = filled + len(unit.rows)
            jobs.append(self._pool.submit(self._plan.dataset.fill, *unit, part[filled:stop]))
            filled = stop
        return _batch(room), list(itertools.chain.from_iterable(job.result() for job in jobs))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Ahead:
    """Batches that workers make ahead; one is put together by a thread while the one before is used."""

    def __init__(self, plan: _Plan, units: Iterator[Unit], workers: int, size: int, pin: bool) -> None:
        self._plan, self._units = plan, units
        self._rooms = Rooms(plan.dataset.shapes(plan.share), pin)
        slots = -(-plan.share // size) + 2 * workers + 1
        self._workers = Workers(plan.dataset, workers, slots, size)
        self._thread = ThreadPoolExecutor(1)
        self._ready: Future[_Result] = self._thread.submit(self._assemble)

    def next(self) -> _Result:
        result = self._ready.result()
        self._ready = self._thread.submit(self._assemble)
        return result

    def close(self) -> None:
        self._workers.close()  # so that the thread, which waits for them, ends
        self._thread.shutdown()

    def _assemble(self) -> _Result:
        room = self._rooms.take()
        part, filled, failures = Part.of(room), 0, []
        while filled < self._plan.share:
            while self._workers.free:
                self._workers.ask(next(self._units))
            unit = self._workers.take()
            stop = filled + len(unit.part.rows)
            part[filled:stop].copy_(unit.part)
            self._workers.release(unit)
            failures += unit.failures
            filled = stop
        return _batch(room), failures


def _batch(room: Sequence[torch.Tensor]) -> Batch:
    images, tokens, sources, rows = room
    return Batch(images.permute(0, 3, 1, 2), tokens, sources, rows.numpy())


def open_loader(
    manifest: Path, shards_root: Path | str, began: Start, config: TrainConfig, ranks: Ranks, device: torch.device
) -> Loader:
    """The batches that `config` trains the model `began` on, for one process of `ranks`.

    Pictures have the model's size and are resized by its interpolation. Raises what Loader and MixtureDataset raise.
    """
    preprocess = began.model.visual.preprocess_cfg
    size = preprocess["size"]
    side = size if isinstance(size, int) else size[0]
    view = TrainView(side, config.augment, preprocess["interpolation"])
    dataset = MixtureDataset(
        manifest,
        config.tars or shards_root,
        view=view,
        tokenize=began.tokenizer,
        size=side,
        seed=config.seed,
        after=view.after,
        cache_bytes=config.cache_mb << 20,
        check_hashes=config.check_hashes,
        tars=config.tars is not None,
        scratch=None if config.scratch is None else Path(config.scratch),
    )
    return Loader(
        dataset,
        config.batch,
        rank=ranks.rank,
        ranks=ranks.world,
        workers=config.workers,
        threads=config.threads,
        batch_mix=config.batch_mix,
        pin=device.type == "cuda",
    )
