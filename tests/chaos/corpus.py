"""A corpus of three sources of 24 pairs, and the commands of its whole chain, from metadata to a study.

Then comes a curation, which takes the third source through all of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.ingest import IngestConfig
from pipelines.ingest import run as ingest
from pipelines.store.root import Root
from tests.conftest import TINY
from tests.pipelines.studied import add_set
from trainer.model import new_model, save_model

REPOSITORY = Path(__file__).parents[2]
EACH, PER_SHARD = 24, 4
WORDS = ["fox", "hen", "sea", "cup", "oak", "bee"]


class Stage(NamedTuple):
    """One command of the chain: its words after `headwater`, and whether it has workers on Ray."""

    name: str
    words: tuple[str, ...]
    on_ray: bool


class Corpus:
    """What lies outside the data root: dumps, an untrained model, and one page of configuration a stage."""

    def __init__(self, folder: Path, resolve: dict[str, str]) -> None:
        self.folder, self.model = folder, folder / "model"
        folder.mkdir(parents=True, exist_ok=True)
        self.model.mkdir()
        (self.model / "open_clip_config.json").write_text(json.dumps(TINY))
        save_model(new_model(self.model, seed=0), TINY, self.model)
        for number, source in enumerate(("a", "b", "c")):
            lines = [
                f"http://pictures.test/{100 * number + i}.png\ta {WORDS[i % 6]} number {i}\n" for i in range(EACH)
            ]
            (folder / source).mkdir()
            (folder / source / "cc12m.tsv").write_text("".join(lines))
        train = {"model": str(self.model), "samples_seen": 160, "batch": 8, "log_every": 1, "save_every": 32}
        # A request that timed out is final. On a busy machine, with a library before each look at the clock, some
        # took more than four seconds.
        fetch = {
            "resolve": resolve, "backoff": 0.3, "retries": 4, "stall": 30.0, "deadline": 90.0, "concurrency": 4,
            "limit": {"concurrency": 1000, "rate": None},
        }  # fmt: skip
        tables: dict[str, tuple[dict[str, Any], bool]] = {
            "ingest": (self._ingest("b"), False),
            "download": ({"cpus": 0.5, "fetch": fetch}, True),
            "score": ({"model": str(self.model), "tasks": "eval"}, True),
            "dedupe": ({"tasks": "eval"}, True),
            "index": ({}, False),
            "mix": ({"name": "even", "total": 40, "sources": [{"source": "a"}, {"source": "b"}]}, False),
            "train": ({"mixtures": ["even"], "train": train}, True),
            "evaluate": ({"reference": "val", "ways": 2}, True),
            "study": (self._study(), True),
            "curate": (self._curate(fetch), True),
        }
        for name, (fields, _) in tables.items():
            (folder / f"{name}.json").write_text(json.dumps(fields))
        self.stages = [
            Stage(name, (name, "--config", str(folder / f"{name}.json")), on_ray)
            for name, (_, on_ray) in tables.items()
        ]

    def _ingest(self, source: str) -> dict[str, Any]:
        """Fields of `headwater ingest` but for the root."""
        return {
            "source": source, "reader": "cc12m", "metadata": str(self.folder / source), "samples_per_shard": PER_SHARD
        }  # fmt: skip

    def _study(self) -> dict[str, Any]:
        train = {"model": str(self.model), "samples_seen": 16, "batch": 8, "log_every": 1}
        return {
            "reference": "val", "ways": 2, "sources": ["a", "b"], "sizes": [0.5, 1.0], "seeds": [0],
            "mixtures": [{"sources": ["a", "b"], "ratios": [0.25]}], "ensembles": [{"name": "all", "size": 0.5}],
            "train": train,
        }  # fmt: skip

    def _curate(self, fetch: dict[str, Any]) -> dict[str, Any]:
        return {
            "ingest": [self._ingest("c")], "download": {"cpus": 0.5, "fetch": fetch}, "retry": None,
            "score": {"model": str(self.model), "tasks": "eval"}, "dedupe": {"tasks": "eval"}, "lease": 5.0,
        }  # fmt: skip

    def begin(self, folder: Path) -> None:
        """The root before the first stage: two evaluation sets, and the metadata of the source `a`."""
        add_set(Root(str(folder)), "val", 1000)
        add_set(Root(str(folder)), "shifted", 2000)
        ingest(IngestConfig.model_validate({"root": str(folder), **self._ingest("a")}))


def command(stage: Stage, root: Path, *, on_ray: bool = False) -> list[str]:
    """The command line of a stage on a root."""
    local = [] if on_ray and stage.on_ray else ["--local"]
    return [sys.executable, "-m", "pipelines.cli", *stage.words, "--root", str(root), *local]


def environment(mark: str, scratch: Path, **more: str) -> dict[str, str]:
    """One torch thread, a Ray folder of its own, and `mark`, by which the processes of a trial are known."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    fixed = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_TMPDIR": str(scratch),
        "HEADWATER_CHAOS": mark,
    }
    return {**kept, **fixed, **more}
