"""Where a run computes, and the settings of the process that it wants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from filters.errors import ConfigError
from trainer.config import TrainConfig
from trainer.ranks import Ranks

RandomState = list[torch.Tensor]


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that `torchrun` started, joined into a group until the end; one alone where it did not.

    On GPUs each process gets the one of its number on its machine, and NCCL for exchanges; on CPUs gloo does them.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield Ranks.current()
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks.current()
    finally:
        distributed.destroy_process_group()


def device_of(config: TrainConfig) -> torch.device:
    """The CPU, or of several GPUs the one that the launcher chose for this process.

    ConfigError if a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ConfigError("device: cuda was asked for, but PyTorch finds no GPU; use cpu, or auto")
    if config.device == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def process_settings(config: TrainConfig, ranks: Ranks) -> Iterator[None]:
    """Threads and random state of the run; the caller has its own again afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed * 65_537 + ranks.rank)  # for dropout, which processes must not share
            yield
    finally:
        torch.set_num_threads(threads)


def random_state(device: torch.device) -> RandomState:
    """The state of the CPU's generator and of the GPU's, if that is the device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_state(states: RandomState, device: torch.device) -> None:
    """Go on from `random_state`, as far as it was of this kind of device."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
