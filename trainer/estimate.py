"""What a training run will take, before it starts: parameters, memory, steps, hours, passes over each source."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from trainer.batch import Batch
from trainer.config import TrainConfig
from trainer.device import device_of, process_settings
from trainer.loader import open_loader
from trainer.model import ClipModel
from trainer.ranks import Ranks
from trainer.start import Start, start
from trainer.step import TrainStep

_TIMED_SECONDS = 4.0
_TIMED_PAIRS = {"cpu": 16, "cuda": 256}
_FIRST_TRIED = 8
_SHARE_OF_MEMORY = 0.9


def estimate(manifest: Path, shards_root: Path | str, config: TrainConfig, ranks: int = 1) -> dict[str, Any]:
    """What `train` would take with `ranks` processes like this one; plain JSON types.

    `parameters` by tower; `memory_bytes` of one process, where activations are what autograd keeps for a pass of
    `micro_batch` pairs; `samples_per_s` of the step and of the loader, timed for a few seconds each; `hours` by the
    slower of the two; `passes` over each source. Raises what `train` raises.
    """
    began, device = start(config), device_of(config)
    local = config.batch // ranks
    micro = min(config.micro_batch or local, local)
    with process_settings(config, Ranks()):
        loader_rate, batch = _time_loader(manifest, shards_root, began, config, min(micro, _TIMED_PAIRS[device.type]))
        step_rate = _time_step(began, config, device, batch)
        memory = _memory(began, config, device, batch, micro)
    steps = max(1, config.samples_seen // config.batch)
    rate = min(loader_rate, step_rate) * ranks
    return {
        "parameters": _parameters(began.model),
        "memory_bytes": memory,
        "steps": steps,
        "samples_per_s": {"loader": round(loader_rate * ranks, 1), "step": round(step_rate * ranks, 1)},
        "hours": float(f"{steps * config.batch / rate / 3600:.3g}"),
        "passes": _passes(manifest, steps * config.batch),
    }


@dataclass(frozen=True, slots=True)
class Tried:
    """A number of pairs a pass, and how fast it went; `samples_per_s` is None where memory did not suffice."""

    micro_batch: int
    samples_per_s: float | None


def try_micro_batches(manifest: Path, shards_root: Path | str, config: TrainConfig, ranks: int = 1) -> list[Tried]:
    """Real steps with 8, 16, 32 ... pairs a pass, up to a process's part of the batch or the end of its memory."""
    began, device = start(config), device_of(config)
    found: list[Tried] = []
    with process_settings(config, Ranks()):
        _, batch = _time_loader(manifest, shards_root, began, config, _FIRST_TRIED)
        size, most = _FIRST_TRIED, config.batch // ranks
        while size <= most:
            many = _repeated(batch, size)
            if device.type == "cpu" and _memory(began, config, device, batch, size)["total"] > _free_memory():
                found.append(Tried(size, None))
                break
            try:
                found.append(Tried(size, round(_time_step(began, config, device, many), 1)))
            except torch.OutOfMemoryError:
                found.append(Tried(size, None))
                break
            size *= 2
    return found


def _parameters(model: ClipModel) -> dict[str, int]:
    image = sum(p.numel() for p in model.visual.parameters())
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"image": image, "text": total - image, "total": total, "trained": trained}


def _time_loader(
    manifest: Path, shards_root: Path | str, began: Start, config: TrainConfig, pairs: int
) -> tuple[float, Batch]:
    """Samples a second of the loader, and one of its batches."""
    small = config.model_copy(update={"batch": max(2, pairs), "micro_batch": None, "batch_mix": "mixed"})
    loader = open_loader(manifest, shards_root, began, small, Ranks(), torch.device("cpu"))
    try:
        batches = iter(loader)
        batch = next(batches)  # sets up
        begin, seen = time.perf_counter(), 0
        while time.perf_counter() - begin < _TIMED_SECONDS / 2 or not seen:
            batch = next(batches)
            seen += len(batch)
        passed = time.perf_counter() - begin
    finally:
        loader.close()
    return seen / passed, batch


def _time_step(began: Start, config: TrainConfig, device: torch.device, batch: Batch) -> float:
    """Samples a second of steps with this one batch; the model's weights change."""
    single = config.model_copy(update={"batch": len(batch), "micro_batch": None, "compile": False})
    step = TrainStep(began.model, single, device=device, ranks=Ranks(), steps=1)
    step(batch, 0.0)
    _wait(device)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < _TIMED_SECONDS or not done:
        step(batch, 0.0)
        _wait(device)
        done += 1
    return done * len(batch) / (time.perf_counter() - begin)


def _memory(began: Start, config: TrainConfig, device: torch.device, batch: Batch, micro: int) -> dict[str, int]:
    """Bytes by purpose. A tensor that several operations keep counts once, weights not at all."""
    model = began.model
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    pairs = _repeated(batch, 2)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    single = config.model_copy(update={"compile": False, "micro_batch": None})
    step = TrainStep(model, single, device=device, ranks=Ranks(), steps=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(pairs, 0.0)
    found = {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "ema": weights if config.ema else 0,
        "activations": sum(kept.values()) * micro // 2,
    }
    return {**found, "total": sum(found.values())}


def _repeated(batch: Batch, size: int) -> Batch:
    """`size` pairs, those of `batch` over and over."""
    places = np.arange(size) % len(batch)
    which = torch.from_numpy(places)
    return Batch(batch.images[which], batch.tokens[which], batch.sources[which], batch.rows[places])


def _passes(manifest: Path, samples: int) -> dict[str, float]:
    """How often a run goes through each source's rows, and through its different samples."""
    counts: dict[str, int] = {}
    unique: dict[str, int] = {}
    with pq.ParquetFile(manifest) as file:
        rows = file.metadata.num_rows
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["source", "repeat"])
            for found, kept in ((counts, table), (unique, table.filter(pc.equal(table["repeat"], 0)))):
                for entry in pc.value_counts(kept["source"]).to_pylist():
                    found[entry["values"]] = found.get(entry["values"], 0) + entry["counts"]
    return {
        source: round(samples / rows * counts[source] / max(1, unique.get(source, 0)), 3) for source in sorted(counts)
    }


def _free_memory() -> float:
    """Bytes that a process may still take, by what Linux says; without it no bound."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
    return float("inf") if kib is None else kib * 1024 * _SHARE_OF_MEMORY


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
