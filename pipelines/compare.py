"""Two evaluated models, set by set: the paired difference with its interval, and whether chance alone could do it.

headwater compare even filtered --root data
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from evaluation.compare import Comparison, compare
from evaluation.results import read_images
from filters.errors import InputError
from pipelines.config import JobConfig
from pipelines.evaluate import images_path
from pipelines.job import job_main, say
from pipelines.store.root import Root


class CompareConfig(JobConfig):
    """Which two results."""

    a: str = Field(description="name of an evaluated model (with a method: NAME+tpt), or a *.images.parquet file")
    b: str = Field(description="the other one; differences are B less A")
    seed: int = Field(0, ge=0, description="of the bootstrap over pictures")


def run(config: CompareConfig) -> dict[str, Any]:
    """Compare two models on the pictures that both were evaluated on."""
    found = compare(_images(config, config.a), _images(config, config.b), seed=config.seed)
    for one in found:
        say(_line(one))
    return {"job": "compare", "a": config.a, "b": config.b, "sets": [one.as_json() for one in found]}


def plan(config: CompareConfig) -> dict[str, Any]:
    """Which sets both have."""
    tables = [_images(config, name) for name in (config.a, config.b)]
    shared = set(tables[0]["task"].to_pylist()) & set(tables[1]["task"].to_pylist())
    return {"sets": sorted(shared)}


def _images(config: CompareConfig, name: str) -> pa.Table:
    if name.endswith(".parquet"):
        return read_images(Path(name))
    if name.endswith((".json", ".jsonl")):
        raise InputError(
            f"{name}: holds figures of whole sets, and models are compared picture by picture; `headwater results` "
            "shows such figures side by side"
        )
    path = images_path(Root(config.root), name)
    if not path.is_file():
        ending = ".images.parquet"
        there = sorted(file.removesuffix(ending) for file in Root(config.root).names("results", suffix=ending))
        known = ", ".join(there) or "none yet, run `headwater evaluate` first"
        raise InputError(f"{path.parent}: no result {name!r}; there is {known}")
    return read_images(path)


def _line(one: Comparison) -> str:
    among = "" if one.concepts == "all" else f" (classes of {one.concepts})"
    return (
        f"compare: {one.task}{among}: {100 * one.a:.1f} and {100 * one.b:.1f}, {100 * one.difference:+.1f} "
        f"({100 * one.low:+.1f} to {100 * one.high:+.1f}), alone right {one.only_a} and {one.only_b}, "
        f"p {one.p:.2g}, corrected {one.p_holm:.2g}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater compare A B`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) >= 2 and not words[0].startswith("-") and not words[1].startswith("-"):
        words = ["--a", words[0], "--b", words[1], *words[2:]]
    return job_main("compare", CompareConfig, run, plan, words)


if __name__ == "__main__":
    sys.exit(main())
