"""Where our loader's CPU time goes: milliseconds a sample of its parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from benchmarks.loader_data import Corpus
from benchmarks.loader_sides import BATCH, VIEW, measure, mixture, ours
from trainer import crops
from trainer.allocator import keep_freed_memory
from trainer.dataset import Epoch, Part
from trainer.floats import normalised
from trainer.rooms import Rooms

_UNIT = 64
# What is called where, and which part of the work that is.
_PARTS = {"decode_part": "decode", "decode_webp": "decode", "resize": "resize", "roughness": "choose the scale"}


class Clock:
    """CPU milliseconds by part of the work."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time is added to that of `part`."""

        def inner(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self.spent[part] += 1000 * (time.thread_time() - start)

        return inner


def shares(corpus: Corpus, units: int, seconds: float, workers: int) -> dict[str, float]:
    """CPU milliseconds a sample: of what a worker does, of floats, and what the whole loader takes beyond that."""
    torch.set_num_threads(1)
    clock, dataset = Clock(), mixture(corpus, part=False)
    epoch = Epoch(0, 0)
    order = dataset.order(epoch).astype(np.int64)
    part = Part.of(Rooms(dataset.shapes(_UNIT), pin=False).take())
    fill = clock.timed("fill", dataset.fill)
    dataset.fill(epoch, np.arange(_UNIT), order[:_UNIT], part)
    dataset.tokens(dataset.rows.captions(order, np.zeros(len(order), np.uint64)))  # every word is known
    with ExitStack() as patches:
        for name, work in _PARTS.items():
            patches.enter_context(mock.patch.object(crops, name, clock.timed(work, getattr(crops, name))))
        patches.enter_context(mock.patch.object(dataset, "_read", clock.timed("read", dataset._read)))
        patches.enter_context(mock.patch.object(dataset, "tokens", clock.timed("tokenise", dataset.tokens)))
        for start in range(0, units * _UNIT, _UNIT):
            positions = np.arange(start, start + _UNIT) % len(order)
            fill(epoch, positions, order[positions], part)
    images = torch.zeros(BATCH, VIEW, VIEW, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    keep_freed_memory()
    normalised(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)  # the memory is there
    clock.timed("floats", normalised)(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    found = {name: spent / (units * _UNIT) for name, spent in clock.spent.items() if name != "floats"}
    whole = found.pop("fill")
    found["else in the worker"] = whole - sum(found.values())
    found["floats"] = clock.spent["floats"] / BATCH
    rate = measure(ours(corpus, False, workers), seconds)
    found["hand-over"] = 1000 * rate.cpu / rate.samples - whole - found["floats"]
    return {name: round(value, 4) for name, value in found.items()}
