"""What is measured while a model trains: zero-shot accuracy on evaluation sets, and the loss on held-out pairs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from evaluation.metrics import acc1, true_ranks
from evaluation.tasks import Task, load_task
from evaluation.zeroshot import zero_shot
from filters.errors import InputError
from pipelines.store.root import Root
from trainer.heldout import HeldOut, held_out_loss
from trainer.model import LoadedModel
from trainer.order import epoch_order
from trainer.reader import open_reader
from trainer.rows import open_rows


class Evaluations:
    """Called with a model: `{"zero_shot": {set: accuracy}, "held_out": {"loss": ..., "by_source": ...}}`.

    Sets and pairs are read once, at the first call. InputError for what cannot be read.
    """

    def __init__(self, root: Root, tasks: str, sets: list[str], held_out: str | None, pairs: int, batch: int) -> None:
        self._root, self._folder, self._sets = root, tasks, sets
        self._held_out, self._pairs, self._batch = held_out, pairs, batch

    def __call__(self, loaded: LoadedModel) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._sets:
            accuracy = zero_shot(loaded, self._tasks)
            found["zero_shot"] = {
                task.name: acc1(true_ranks(scores, task.labels))
                for task, scores in zip(self._tasks, accuracy, strict=True)
            }
        if self._held_out is not None:
            found["held_out"] = held_out_loss(loaded, self._held_out_pairs, self._batch)
        return found

    @functools.cached_property
    def _tasks(self) -> list[Task]:
        return [load_task(self._root.local(self._folder, name)) for name in self._sets]

    @functools.cached_property
    def _held_out_pairs(self) -> HeldOut:
        path = self._root.local("mixes", str(self._held_out), "manifest.parquet")
        rows = open_rows(path)
        count = min(self._pairs, len(rows))
        if count < self._batch:
            raise InputError(f"{path}: {count} held-out pairs are less than one batch of {self._batch}")
        chosen = epoch_order(rows, 0, 0)[:count].astype(np.int64)  # of all sources, and always the same
        places = rows.take(chosen)
        reader = open_reader(self._root.local("shards"), rows.files)
        try:
            images = reader.read(places)
        finally:
            reader.close()
        captions = rows.captions(chosen, np.zeros(count, np.uint64))
        return HeldOut(images, captions, [rows.sources[number] for number in places["source"].tolist()])
