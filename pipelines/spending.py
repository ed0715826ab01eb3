"""What a run may spend, what it has spent, and whether it must end."""

from __future__ import annotations

import resource
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Budget(BaseModel):
    """Limits after which a run begins no further shard or stage; none where null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minutes: float | None = Field(None, gt=0, description="minutes")
    bytes: int | None = Field(None, ge=1, description="bytes of downloaded pictures")
    failed_fraction: float | None = Field(
        None, ge=0, le=1, description="share of the first attempts, or of the shards, that failed"
    )


class Spending:
    """Counts results of shards against a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.bytes = budget, 0
        self.rows, self.failed_rows, self.shards, self.failed_shards = 0, 0, 0, 0
        self._began, self._cpu = time.monotonic(), _cpu_seconds()

    def count(self, result: dict[str, Any]) -> bool:
        """Take in one shard's result; whether the run must end."""
        self.bytes += result.get("bytes", 0)
        self.shards += 1
        self.failed_shards += "error" in result
        return self.spent() is not None

    def count_download(self, result: dict[str, Any]) -> bool:
        """The same for a shard of first attempts, whose rows count too: one tried again may well fail again."""
        counts = result.get("counts", {})
        self.rows += sum(counts.values()) - counts.get("skipped", 0)
        self.failed_rows += sum(n for status, n in counts.items() if status.startswith("failed"))
        return self.count(result)

    def spent(self) -> str | None:
        """The limit that is reached, in words; None while there is none."""
        budget = self.budget
        if budget.minutes is not None and time.monotonic() - self._began >= 60 * budget.minutes:
            return f"budget.minutes={budget.minutes:g} are over"
        if budget.bytes is not None and self.bytes >= budget.bytes:
            return f"budget.bytes={budget.bytes} are spent ({self.bytes:,} bytes of pictures)"
        for what, failed, tried in (
            ("rows", self.failed_rows, self.rows),
            ("shards", self.failed_shards, self.shards),
        ):
            if budget.failed_fraction is not None and tried and failed / tried > budget.failed_fraction:
                return (
                    f"{failed} of {tried} {what} failed, more than budget.failed_fraction={budget.failed_fraction:g}"
                )
        return None

    def cost(self) -> dict[str, float]:
        """Seconds, CPU seconds of this process and of those that it has started and ended, and bytes of pictures."""
        return {
            "seconds": round(time.monotonic() - self._began, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 3),
            "picture_bytes": self.bytes,
        }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
