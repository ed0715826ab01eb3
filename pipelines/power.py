"""Before a study: how many evaluation pictures, sizes and seeds show a given dilution.

headwater power --dilution 0.15
headwater power --dilution 0.1 --sizes 4,6,8 --seeds 1,2,3 --images 925,5000 --line
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from rich.console import Console
from rich.table import Table

from evaluation.power import Design, Expected, images_needed, points, power, smallest_dilution, spread
from pipelines.config import JobConfig
from pipelines.job import job_main

_EXPECTED = Expected()

Numbers = Annotated[
    list[Annotated[int, Field(ge=1)]],
    BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value),
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]


class PowerConfig(JobConfig):
    """What is to be seen, with what, and what is expected of the best source."""

    dilution: float = Field(0.15, gt=0, description="difference to be seen, in probits of shifted accuracy")
    images: Numbers = Field([1000, 5000, 20000], description="pictures in each test set, several with commas")
    sizes: Numbers = Field([4, 6, 8], description="sizes of subsets that the source is trained on, at least 4")
    seeds: Numbers = Field([1, 2, 3, 5], description="seeds of each size")
    line: bool = Field(
        False, description="train the mixture at all sizes too and compare lines; else at the largest size alone"
    )
    power: float = Field(0.8, ge=0.5, lt=1, description="probability with which the dilution is to be seen")
    level: float = Field(0.95, ge=0.5, lt=1, description="of the two-sided interval that must lie above 0")
    slope: float = Field(_EXPECTED.slope, description="of the source's line, in probits")
    intercept: float = Field(_EXPECTED.intercept, description="of the source's line, in probits")
    low: float = Field(_EXPECTED.low, description="reference accuracy of the smallest size")
    high: float = Field(_EXPECTED.high, description="reference accuracy of the largest size")
    seed_noise: float = Field(_EXPECTED.seed_noise, description="standard deviation off the line, in probits")
    shared: float = Field(
        _EXPECTED.shared,
        description="correlation of answers within a source, less that between source and mixture, 0 to 1",
    )


def run(config: PowerConfig) -> dict[str, Any]:
    """A table of pictures needed, and of power with given ones, for each number of sizes and seeds."""
    rows = [_row(config, design) for design in _designs(config)]
    Console(width=160).print(_table(config, rows))
    asked = config.model_dump(include={"dilution", "power", "level"})
    return {"job": "power", **asked, "designs": rows}


def plan(config: PowerConfig) -> dict[str, Any]:
    """Which designs would be compared."""
    return {"designs": len(_designs(config)), "images": config.images}


def _designs(config: PowerConfig) -> list[Design]:
    return [Design(sizes, seeds, config.line) for sizes in config.sizes for seeds in config.seeds]


def _row(config: PowerConfig, design: Design) -> dict[str, Any]:
    expected = _expected(config)
    found = spread(design, expected, config.dilution)
    seen = {
        str(images): {
            "power": round(power(found, config.dilution, images, config.level), 4),
            "smallest_dilution": round(smallest_dilution(found, images, config.power, config.level), 4),
        }
        for images in config.images
    }
    return {
        "sizes": design.sizes, "seeds": design.seeds, "models": design.models, "at": round(found.at, 4),
        "points": round(points(expected, found.at, config.dilution), 2),
        "images_needed": images_needed(found, config.dilution, config.power, config.level), "images": seen,
    }  # fmt: skip


def _expected(config: PowerConfig) -> Expected:
    return Expected(config.slope, config.intercept, config.low, config.high, config.seed_noise, config.shared)


def _table(config: PowerConfig, rows: Sequence[dict[str, Any]]) -> Table:
    at, lost = rows[0]["at"], rows[0]["points"]
    table = Table(
        title=f"A dilution of {config.dilution:g} probits, {lost:g} points at {100 * at:.0f} % on the reference",
        title_justify="left",
        caption=f"Power: how often a {100 * config.level:g} % interval lies above 0; in brackets, "
        f"the smallest dilution seen with power {config.power:g}.",
        caption_justify="left",
    )
    names = ["sizes", "seeds", "models", f"pictures for power {config.power:g}"]
    for name in [*names, *(f"power with {images:,}" for images in config.images)]:
        table.add_column(name, justify="right")
    for row in rows:
        needed = "no number" if row["images_needed"] is None else f"{row['images_needed']:,}"
        seen = [f"{one['power']:.2f} ({one['smallest_dilution']:.3f})" for one in row["images"].values()]
        table.add_row(str(row["sizes"]), str(row["seeds"]), str(row["models"]), needed, *seen)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater power`."""
    return job_main("power", PowerConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
