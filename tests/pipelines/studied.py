"""A small root for studies: three sources of blocks, two evaluation sets, verdicts, a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.tasks import Task, write_task
from pipelines import dedupe, index
from pipelines.store.root import Root
from pipelines.study_config import StudyConfig
from tests.pipelines.chain import picture
from tests.pipelines.pictured import Given, add_shard

SOURCES, EACH, NAMES = ("a", "b", "c"), 40, ["fox", "hen", "sea", "cup", "oak", "bee"]
CLAIM = "claims:\n  - {id: C2, claim: lines, statistic: R2, direction: at least, threshold: 0.9, seeds: [0]}\n"
SHOWN = 3  # the training picture that both leaks into `val` and is known to


def add_set(root: Root, name: str, first: int, family: str = "", leak: int | None = None) -> None:
    """An evaluation set of twelve pictures from number `first` on; the first is training picture `leak`, if any."""
    images = [picture(first + i) for i in range(12)]
    if leak is not None:
        images[0] = picture(leak)
    labels, keys = np.arange(12) % len(NAMES), [f"{i:02d}" for i in range(12)]
    write_task(root.local("eval", name), Task(name, images, labels, NAMES, ["a {c}", "{c}"], keys, family))


def make_root(folder: Path) -> Root:
    """The root, with one training picture known to be in the evaluation set `val`."""
    root = Root(str(folder))
    for number, source in enumerate(SOURCES):
        names = range(100 * number, 100 * number + EACH)
        given = [Given(f"{source}{n}", picture(n), f"a {NAMES[n % 6]} number {n}") for n in names]
        add_shard(root, source, 0, given)
    add_set(root, "val", 1000, "artist", leak=SHOWN)
    add_set(root, "shifted", 2000)
    dedupe.run(dedupe.DedupeConfig(root=root.url, local=True, tasks="eval"))
    index.run(index.IndexConfig(root=root.url))
    (folder / "claims.yaml").write_text(CLAIM)
    return root


def settings(root: Root, model: Path, **fields: Any) -> StudyConfig:
    """A study of seconds: two sizes, one seed, a ratio, an ensemble, filters."""
    return StudyConfig.model_validate({
        "root": root.url, "local": True, "claims": str(root.local("claims.yaml")), "reference": "val", "ways": 2,
        "families": {"a": "artist"}, "sources": list(SOURCES), "sizes": [0.5, 1.0], "seeds": [0],
        "mixtures": [{"sources": ["a", "b"], "ratios": [0.25]}],
        "ensembles": [{"name": "all", "size": 0.5}],
        "filters": [{"source": "a", "scorers": ["self", "best", "random"], "swapped": [0.4]}],
        "train": {"model": str(model), "samples_seen": 16, "batch": 8, "log_every": 1},
        **fields,
    })  # fmt: skip


def files(root: Root, folder: str = "study") -> dict[str, bytes]:
    """The study's files by path, but for those that hold times."""
    base = root.local(folder)
    paths = [path for path in sorted(base.rglob("*")) if path.is_file() and path.name != "speed.jsonl"]
    return {str(path.relative_to(base)): path.read_bytes() for path in paths}
