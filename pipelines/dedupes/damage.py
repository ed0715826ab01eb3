"""What a run says of stored pictures that cannot be decoded: they are compared by their hashes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filters.errors import BudgetExceeded
from pipelines.dedupes.facts import Facts

_NAMED = 3


def unreadable(facts: Facts) -> dict[str, Any]:
    """How many pictures cannot be decoded and the first of them, for the summary; empty where there are none."""
    return {"pictures": len(facts.damage), "first": list(facts.damage[:_NAMED])} if facts.damage else {}


def damage_text(facts: Facts) -> str | None:
    """The same in one line; None where there are none."""
    if not facts.damage:
        return None
    return (
        f"{len(facts.damage):,} of {len(facts.table):,} stored pictures are damaged and compared by their hashes "
        f"alone; download or adopt their shards again: {'; '.join(facts.damage[:_NAMED])}"
        f"{'; …' * (len(facts.damage) > _NAMED)}"
    )


def check_damage(facts: Facts, max_failed_fraction: float, summary: Mapping[str, Any]) -> None:
    """BudgetExceeded, with the `summary` of the run, if too many pictures cannot be decoded."""
    if len(facts.damage) > max_failed_fraction * len(facts.table):
        raise BudgetExceeded(
            f"{len(facts.damage)} of {len(facts.table)} stored pictures are damaged, more than "
            f"max_failed_fraction={max_failed_fraction}; first: {facts.damage[0]}",
            summary,
        )
