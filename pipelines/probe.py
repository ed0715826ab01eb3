"""Linear probes and few-shot classifiers on a model's features, which are those that `headwater evaluate` keeps.

headwater probe --root data --checkpoint ViT-B-32 --pretrained openai --test pets
headwater probe --root data --config configs/eval/imagenet_probe.yaml --datasets /data --models even
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from evaluation.fewshot import ProbeFigure, probe_figures
from filters.errors import ConfigError
from pipelines.engine import Work, map_shards, record
from pipelines.evaluated import Models, ModelsConfig, sets_of
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root

ALL = "all"


def _texts(given: Any) -> Any:
    """YAML has `[1, 2, all]` as numbers and text, and the command line all as text."""
    return [str(one) for one in given] if isinstance(given, list) else given


class ProbeConfig(ModelsConfig):
    """Which models, fitted and tested on which sets, with how many pictures."""

    test: list[str] = Field(min_length=1, description="sets to test on")
    train: str | None = Field(
        None,
        description="set to fit on, NAME or, for a webdataset, NAME/SPLIT; each test set's own train split if none",
    )
    shots: Annotated[list[str], BeforeValidator(_texts)] = Field(
        [ALL], description="pictures a class, such as 0,1,2,4,8,16,all; 0 is zero-shot"
    )
    seeds: int = Field(3, ge=1, description="choices of pictures for each number of shots")
    strength: float | None = Field(
        None, ge=0, description="of the L2 penalty; chosen on a held-back fifth if not given"
    )


def run(config: ProbeConfig) -> dict[str, Any]:
    """Fit linear classifiers on each model's features; results that are there already are left alone."""
    job, account = _Job(config), Account("probe")
    todo = [name for name in job.models.names if not job.is_done(name)]
    if todo:
        job.sets.check()
    account.shards_skipped = len(job.models.names) - len(todo)
    say(f"probe: {len(todo)} models to do, {account.shards_skipped} done before")
    for name, result in map_shards(todo, job, cpus=config.cpus, gpus=config.gpus, local=config.local):
        record(account, name, result, len(todo))
    account.check(config.max_failed_fraction)
    found = {name: job.read(name) for name in job.models.names if name not in account.shards_failed}
    for name, figures in found.items():
        for figure in figures:
            say(f"probe: {name}: {_line(figure)}")
    account.extra["figures"] = found
    return account.summary()


def plan(config: ProbeConfig) -> dict[str, Any]:
    """Which models would be probed."""
    job = _Job(config)
    return {"models": [name for name in job.models.names if not job.is_done(name)], "pairs": job.pairs}


class _Job:
    """Picklable: makes the function that probes one model."""

    def __init__(self, config: ProbeConfig) -> None:
        self.root, self.config = Root(config.root), config
        self.shots = [_shots(text) for text in config.shots]
        self.models = Models(self.root, config)
        _ = self.models.names  # before sets are looked for: no model is the better news
        self.pairs = [(config.train or f"{test}/train", test) for test in config.test]
        self.sets = sets_of(self.root, config).choose([name for pair in self.pairs for name in pair])

    def __call__(self) -> Work:
        loaded = self.sets.load()
        tasks = {task.name: task for task in loaded.tasks}

        def probe(name: str) -> dict[str, Any]:
            source, config = self.models.source(name, loaded), self.config
            figures: list[ProbeFigure] = []
            for train, test in self.pairs:
                figures += probe_figures(
                    source, tasks[train], tasks[test], self.shots,
                    seeds=config.seeds, strength=config.strength, device=config.device,
                )  # fmt: skip
            value = {"mark": self._mark(name), "figures": [figure.as_json() for figure in figures]}
            self.root.write_json(value, *self._place(name))
            pictures = sum(len(tasks[test].images) for _, test in self.pairs)
            return {"rows": pictures, "counts": {"probed": pictures}}

        return probe

    def is_done(self, name: str) -> bool:
        """Whether the figures are there, and of these sets and settings."""
        place = self._place(name)
        return self.root.exists(*place) and self.root.read_json(*place)["mark"] == self._mark(name)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The figures of a model, as `ProbeFigure.as_json` has them."""
        figures: list[dict[str, Any]] = self.root.read_json(*self._place(name))["figures"]
        return figures

    def _place(self, name: str) -> tuple[str, ...]:
        which = "" if self.config.train is None else f"{self.config.train.replace('/', '_')}-"
        return "probes", f"{name}+{which}{'-'.join(self.config.test)}.json"

    def _mark(self, name: str) -> str:
        config = self.config
        return fingerprint(
            self.models.origin(name), self.sets.made_from, self.pairs, self.shots, config.seeds, config.strength
        )


def _shots(text: str) -> int | None:
    if text == ALL:
        return None
    if not text.isdecimal():
        raise ConfigError(f"shots: {text!r} is no number of pictures; write numbers and `{ALL}`, such as 1,2,4,{ALL}")
    return int(text)


def _line(figure: dict[str, Any]) -> str:
    few = {None: "all pictures", 1: "1 shot"}.get(figure["shots"], f"{figure['shots']} shots")
    shots = "zero-shot" if figure["shots"] == 0 else f"{few} of {figure['train']}"
    spread = "" if figure["sd"] is None else f", sd {100 * figure['sd']:.1f} over {len(figure['by_seed'])} choices"
    return (
        f"{figure['test']}: {shots}: {100 * figure['acc1']:.1f} "
        f"({100 * figure['low']:.1f} to {100 * figure['high']:.1f}{spread})"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater probe`."""
    return job_main("probe", ProbeConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
