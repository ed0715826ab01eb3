"""Mixtures to models: one training run a mixture, each on CPUs of its own.

headwater train --root data --mixtures "[even, filtered]" --set train.model=demo/model --set train.samples_seen=100000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, job_main, say
from pipelines.store.catalog import mixture_names
from pipelines.store.root import Root
from trainer.config import TrainConfig
from trainer.loop import fingerprint, finished, train


class TrainJobConfig(JobConfig):
    """Which mixtures to train on, and how."""

    mixtures: list[str] = Field([], description="names of mixtures; all that were built if empty")
    cpus: float = Field(1.0, gt=0, description="CPUs a run")
    gpus: float = Field(0.0, ge=0, description="GPUs a run")
    train: TrainConfig = Field(description="the recipe, the same for every mixture; needs at least `model`")


def run(config: TrainJobConfig) -> dict[str, Any]:
    """Train one model on each mixture; a finished run with the same recipe and manifest is left alone."""
    root, account = Root(config.root), Account("train")
    names = _names(root, config)
    todo = [name for name in names if not _is_done(root, name, config.train)]
    account.shards_skipped = len(names) - len(todo)
    say(f"train: {len(todo)} models to train, {account.shards_skipped} done before")
    made = map_shards(todo, _Trainer(root, config.train), cpus=config.cpus, gpus=config.gpus, local=config.local)
    for name, result in made:
        record(account, name, result, len(todo))
    account.check(config.max_failed_fraction)
    return account.summary()


def plan(config: TrainJobConfig) -> dict[str, Any]:
    """Which models a run would train."""
    root = Root(config.root)
    return {"models": [name for name in _names(root, config) if not _is_done(root, name, config.train)]}


class _Trainer:
    """Picklable: makes the function that trains on one mixture."""

    def __init__(self, root: Root, config: TrainConfig) -> None:
        self.root, self.config = root, config

    def __call__(self) -> Work:
        return self.train

    def train(self, name: str) -> dict[str, Any]:
        """One training run; its `rows` are the samples seen."""
        root = self.root
        manifest = root.local("mixes", name, "manifest.parquet")
        result = train(manifest, root.local("shards"), root.local("models", name), self.config)
        return {"rows": result["samples_seen"], "counts": {"seen": result["samples_seen"]}}


def _names(root: Root, config: TrainJobConfig) -> list[str]:
    known = mixture_names(root)
    missing = sorted(set(config.mixtures) - set(known))
    if missing or not known:
        raise InputError(f"{root.url}/mixes: no mixture {', '.join(missing) or 'yet'}; run `headwater mix` first")
    return list(dict.fromkeys(config.mixtures)) or known


def _is_done(root: Root, name: str, config: TrainConfig) -> bool:
    done = finished(root.local("models", name))
    return done is not None and done["fingerprint"] == fingerprint(
        root.local("mixes", name, "manifest.parquet"), config
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater train`."""
    return job_main("train", TrainJobConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
