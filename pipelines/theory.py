"""The theory of mixing and filtering: two figures, and its numbers in closed form beside simulated ones.

headwater theory --out build/theory
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from evaluation.plot_style import figure_png
from evaluation.results import publish
from evaluation.theory import example
from evaluation.theory_numbers import Row, added, filters, many_classes, mixtures
from evaluation.theory_plots import share_figure, threshold_figure
from pipelines.config import JobConfig
from pipelines.job import job_main, say

_TITLES = {
    "mixtures": "Slopes of mixtures of data and of ensembles, by the share of the robust source",
    "added": "Accuracies of 800 samples of the robust source, with samples of the brittle one added",
    "filters": "4,000 samples of the brittle source after a filter by a robust scorer",
    "classes": "100 classes: probit lines, and shifted accuracy at 30 % on the reference",
}


class TheoryConfig(JobConfig):
    """Where to, and which draw."""

    out: str = Field("build/theory", description="folder for the figures and for theory.json")
    seed: int = Field(0, ge=0, description="of the simulated models")


def run(config: TheoryConfig) -> dict[str, Any]:
    """Draw slope against share and against threshold, and write the numbers, closed form beside simulation."""
    out, world = Path(config.out), example()
    # A generator each, so that no figure depends on what was drawn before it.
    draws = [np.random.default_rng([config.seed, i]) for i in range(6)]
    numbers = {
        "mixtures": mixtures(world, draws[0]), "added": added(world, draws[1]), "filters": filters(world, draws[2]),
        "classes": many_classes(draws[3]),
    }  # fmt: skip
    console = Console(width=120)
    for name, rows in numbers.items():
        console.print(_table(_TITLES[name], rows))
    files = {
        "share.png": figure_png(share_figure(world, draws[4])),
        "threshold.png": figure_png(threshold_figure(world, draws[5])),
        "theory.json": (json.dumps({"seed": config.seed, **numbers}, indent=1) + "\n").encode(),
    }
    for name, content in files.items():
        publish(out / name, content)
    for name in files:
        say(f"theory: {out / name}")
    return {"job": "theory", "files": [str(out / name) for name in files]}


def plan(config: TheoryConfig) -> dict[str, Any]:
    """Where figures and numbers would go."""
    return {"out": config.out}


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "data" else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: float | str | None) -> str:
    if value is None:
        return "all"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater theory`."""
    return job_main("theory", TheoryConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
