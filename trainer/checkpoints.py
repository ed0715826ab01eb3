"""Checkpoints of a run: model folders that hold all that an exact continuation needs, written behind the training."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from filters.errors import InputError
from trainer.model import WEIGHTS_NAME, write_weights

STATE_NAME = "state.pt"
EMA = "ema"
_WRITING = ".writing-"
_BROKEN = (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError)
Weights = Mapping[str, torch.Tensor]


class Checkpoints:
    """Folders `<samples seen>` under `folder`, each complete once it has its name.

    A checkpoint is a model folder (open_clip loads it as `local-dir:`), `ema/` with the averaged weights if there are
    any, and `state.pt`: optimiser, loader and random state. `save` copies what it is given and writes it in a thread
    of its own, one at a time; the latest checkpoint stays, and of the others each `keep_every`-th of `every` samples.
    """

    def __init__(
        self,
        folder: Path,
        describe: Callable[[Path], None],
        fingerprint: str,
        *,
        every: int | None = None,
        keep_every: int | None = None,
    ) -> None:
        self.folder = folder
        self._describe = describe  # writes configuration and tokenizer into a folder
        self._fingerprint = fingerprint
        self._kept = None if every is None or keep_every is None else every * keep_every
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def all(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir())

    def save(self, samples: int, weights: Weights, ema: Weights | None, state: Mapping[str, Any]) -> None:
        """Write checkpoint `samples` behind the caller's back; raises what went wrong with the one before."""
        self.wait()
        copies = copied({"weights": dict(weights), "ema": None if ema is None else dict(ema), "state": dict(state)})
        self._pending = self._pool.submit(self._write, samples, **copies)

    def wait(self) -> None:
        """Until nothing is being written; raises OSError if that failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def latest(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Weights and state of the newest readable checkpoint of this run, or None; others are warned of and left."""
        for path in reversed(self.all()):
            try:
                state: dict[str, Any] = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True)
                if state["fingerprint"] != self._fingerprint:
                    continue
                return load_file(path / WEIGHTS_NAME), state
            except _BROKEN as error:
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"{path} cannot be read and is passed over ({reason}); delete it", stacklevel=2)
        return None

    def close(self) -> None:
        """Wait for what is being written, and stop."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def tidy(self) -> None:
        """Of a finished run, whose latest state lies beside, only the checkpoints to keep stay."""
        self._tidy(latest=None)

    def discard_others(self) -> None:
        """Take away what a run of another configuration, or a killed one, left."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name.startswith(_WRITING) or not self._is_ours(path):
                shutil.rmtree(path)

    def _is_ours(self, path: Path) -> bool:
        try:
            state = torch.load(path / STATE_NAME, map_location="cpu", weights_only=True, mmap=True)
            return bool(state["fingerprint"] == self._fingerprint)
        except _BROKEN:
            return False

    def _write(self, samples: int, weights: Weights, ema: Weights | None, state: dict[str, Any]) -> None:
        name = f"{samples:015d}"
        temporary = self.folder / f"{_WRITING}{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        self._describe(temporary)
        write_weights(weights, temporary)
        if ema is not None:
            (temporary / EMA).mkdir()
            self._describe(temporary / EMA)
            write_weights(ema, temporary / EMA)
        with (temporary / STATE_NAME).open("wb") as file:
            torch.save({**state, "fingerprint": self._fingerprint}, file)
            file.flush()
            os.fsync(file.fileno())
        final = self.folder / name
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        self._tidy(latest=final)

    def _tidy(self, latest: Path | None) -> None:
        for path in self.all():
            if path != latest and not (self._kept and int(path.name) % self._kept == 0):
                shutil.rmtree(path)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def copied(value: Any) -> Any:
    """A deep copy on the CPU: tensors, and dicts and lists of them; the training goes on changing the originals."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(part) for part in value)
    return value


def mean_weights(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of the weights of several model folders, in float32 summed in float64 (Wortsman et al. 2022, eq. 1).

    Whole numbers, such as counts of batches, are the last folder's. Raises InputError for folders whose weights
    cannot be read or do not fit together.
    """
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        try:
            weights = load_file(folder / WEIGHTS_NAME)
        except _BROKEN as error:
            raise InputError(f"{folder} has no readable {WEIGHTS_NAME}: {error}") from error
        shapes = {key: value.shape for key, value in weights.items()}
        if total and shapes != {key: value.shape for key, value in total.items()}:
            raise InputError(f"{folder} is of another architecture than {folders[0]}; their weights have no mean")
        for key, value in weights.items():
            if value.is_floating_point():
                total[key] = total[key] + value.double() if key in total else value.double()
            else:
                total[key] = value
    return {
        key: (value / len(folders)).float() if value.is_floating_point() else value for key, value in total.items()
    }
