"""Mixtures to models: one training run a mixture, on this machine, under torchrun, or on a Ray cluster.

headwater train --root data --config configs/train/datacomp_small.yaml --mixtures even,filtered
torchrun --nproc-per-node 8 -m pipelines.train --root data --config configs/train/paper.yaml --mixtures even
headwater train --root data --config configs/train/paper.yaml --mixtures even --ranks 8 --gpus 1
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from filters.errors import ConfigError, HeadwaterError, InputError
from pipelines.config import JobConfig, load_config, parse_flags
from pipelines.engine import Work, map_shards, record, run_together
from pipelines.evaluations import Evaluations
from pipelines.job import Account, job_main, parse_arguments, say
from pipelines.store.catalog import mixture_names
from pipelines.store.root import Root
from trainer.config import TrainConfig
from trainer.device import process_group
from trainer.estimate import estimate, try_micro_batches
from trainer.loop import train
from trainer.ranks import Ranks
from trainer.record import fingerprint, finished


class TrainJobConfig(JobConfig):
    """Which mixtures to train on, and how."""

    mixtures: list[str] = Field([], description="names of mixtures; all that were built if empty")
    ranks: int = Field(1, ge=1, description="processes a run on a Ray cluster, which exchange their gradients")
    cpus: float = Field(1.0, gt=0, description="CPUs a process")
    gpus: float = Field(0.0, ge=0, description="GPUs a process")
    tasks: str = Field("eval", description="folder of evaluation sets in CLIP_benchmark's layout, under the root")
    evaluate_on: list[str] = Field([], description="sets whose zero-shot accuracy is measured while training")
    held_out: str | None = Field(None, description="a mixture whose pairs are not trained on, to measure the loss on")
    held_out_pairs: int = Field(2048, gt=1, description="how many of them, of all its sources")
    find_batch: bool = Field(False, description="with --dry-run: also try how many pairs a pass the memory allows")
    train: TrainConfig = Field(description="the recipe, the same for every mixture; needs at least `model`")


def run(config: TrainJobConfig) -> dict[str, Any]:
    """Train one model on each mixture; a finished run with the same recipe and manifest is left alone."""
    root, account, ranks = Root(config.root), Account("train"), Ranks.current()
    names = _names(root, config)
    todo = [name for name in names if not _is_done(root, name, config.train)]
    account.shards_skipped = len(names) - len(todo)
    say(f"train: {len(todo)} models to train, {account.shards_skipped} done before")
    trainer = _Trainer(root, config)
    if config.ranks > 1 and ranks.world == 1 and not config.local:
        made: Iterator[tuple[str, dict[str, Any]]] = ((name, _on_ray(trainer, name, config)) for name in todo)
    else:
        local = config.local or ranks.world > 1
        made = map_shards(todo, trainer, cpus=config.cpus, gpus=config.gpus, local=local)
    for name, result in made:
        record(account, name, result, len(todo))
    account.check(config.max_failed_fraction)
    return account.summary()


def plan(config: TrainJobConfig) -> dict[str, Any]:
    """What each run would take: parameters, memory, steps, hours, and how often it would see each source."""
    root = Root(config.root)
    todo = [name for name in _names(root, config) if not _is_done(root, name, config.train)]
    found: dict[str, Any] = {"models": todo, "estimates": {}}
    for name in todo:
        manifest, shards = root.local("mixes", name, "manifest.parquet"), root.local("shards")
        found["estimates"][name] = estimate(manifest, shards, config.train, config.ranks)
        say(_in_words(name, config, found["estimates"][name]))
    if todo and config.find_batch:
        manifest = root.local("mixes", todo[0], "manifest.parquet")
        tried = try_micro_batches(manifest, root.local("shards"), config.train, config.ranks)
        found["micro_batches"] = {one.micro_batch: one.samples_per_s for one in tried}
        for one in tried:
            rate = "memory does not suffice" if one.samples_per_s is None else f"{one.samples_per_s:g} pairs/s"
            say(f"train: {one.micro_batch} pairs a pass: {rate}")
    return found


class _Trainer:
    """Picklable: makes the function that trains on one mixture."""

    def __init__(self, root: Root, config: TrainJobConfig) -> None:
        # A worker of Ray stands in another folder.
        self.root, self.config = root, config.model_copy(update={"train": with_whole_paths(config.train)})

    def __call__(self) -> Work:
        return self.train

    def train(self, name: str) -> dict[str, Any]:
        """One training run; its `rows` are the samples seen."""
        root, recipe = self.root, self.config.train
        measure = self.config.evaluate_on or self.config.held_out
        evaluations = (
            Evaluations(root, self.config.tasks, self.config.evaluate_on, self.config.held_out,
                        self.config.held_out_pairs, recipe.batch)
            if measure else None
        )  # fmt: skip
        manifest = root.local("mixes", name, "manifest.parquet")
        result = train(manifest, root.local("shards"), root.local("models", name), recipe, evaluations)
        return {"rows": result["samples_seen"], "counts": {"seen": result["samples_seen"]}}


def with_whole_paths(recipe: TrainConfig) -> TrainConfig:
    """The recipe with each path in it that is there written from the root on."""
    given = {name: getattr(recipe, name) for name in ("model", "pretrained", "tars", "scratch")}
    return recipe.model_copy(
        update={name: str(Path(path).resolve()) for name, path in given.items() if path and Path(path).exists()}
    )


def _on_ray(trainer: _Trainer, name: str, config: TrainJobConfig) -> dict[str, Any]:
    """One run by several processes of a cluster; like all of them it must see the data root."""
    try:
        run_together(trainer.train, name, config.ranks, cpus=config.cpus, gpus=config.gpus)
    except ConfigError:
        raise
    except HeadwaterError as error:
        return {"error": str(error)}
    done = finished(trainer.root.local("models", name))
    if done is None:
        return {
            "error": f"{trainer.root.url}/models/{name}: the workers ended without a model; do they see the root?"
        }
    return {"rows": done["samples_seen"], "counts": {"seen": done["samples_seen"]}}


def _in_words(name: str, config: TrainJobConfig, found: dict[str, Any]) -> str:
    passes = ", ".join(f"{source} {times:g}" for source, times in found["passes"].items())
    rates = found["samples_per_s"]
    return (
        f"train: {name}: {found['parameters']['total'] / 1e6:.1f} M parameters, "
        f"{found['memory_bytes']['total'] / 2**30:.2f} GiB a process, {found['steps']:,} steps of "
        f"{config.train.batch:,} pairs, {found['hours']:g} h (step {rates['step']:g} pairs/s, "
        f"loader {rates['loader']:g}), times each source's samples are seen: {passes}"
    )


def _names(root: Root, config: TrainJobConfig) -> list[str]:
    known = mixture_names(root)
    wanted = [*config.mixtures, *([config.held_out] if config.held_out else [])]
    missing = sorted(set(wanted) - set(known))
    if missing or not known:
        raise InputError(f"{root.url}/mixes: no mixture {', '.join(missing) or 'yet'}; run `headwater mix` first")
    return list(dict.fromkeys(config.mixtures)) or [name for name in known if name != config.held_out]


def _is_done(root: Root, name: str, config: TrainConfig) -> bool:
    done = finished(root.local("models", name))
    return done is not None and done["fingerprint"] == fingerprint(
        root.local("mixes", name, "manifest.parquet"), config
    )


def _follow(argv: Sequence[str] | None, ranks: Ranks) -> int:
    """What a process that is not the first does: the same runs, and no word unless something is wrong."""
    arguments = parse_arguments("train", TrainJobConfig, run, argv)
    try:
        config = load_config(TrainJobConfig, arguments.config, parse_flags(arguments, TrainJobConfig))
        root = Root(config.root)
        if not arguments.dry_run:
            for name in [name for name in _names(root, config) if not _is_done(root, name, config.train)]:
                _Trainer(root, config).train(name)
    except HeadwaterError as error:
        say(f"headwater train (process {ranks.rank}): {error}")
        return error.exit_code
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater train`, and of each process that torchrun starts."""
    with process_group() as ranks:
        if ranks.rank:
            return _follow(argv, ranks)
        return job_main("train", TrainJobConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
