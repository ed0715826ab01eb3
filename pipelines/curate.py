"""The whole chain, once more: what is new goes through every stage, what is done stays as it is.

headwater curate --config configs/curate.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from filters.errors import BudgetExceeded, InputError
from pipelines import build_mix, dedupe, download, index, ingest, report, score, signals
from pipelines.build_mix import MixJobConfig
from pipelines.config import JobConfig, load_config
from pipelines.curated import differences, last_run, totals
from pipelines.dedupe import DedupeConfig
from pipelines.download import DownloadConfig
from pipelines.engine import Gate, gated
from pipelines.index import IndexConfig
from pipelines.ingest import IngestConfig
from pipelines.job import job_main, run_recorded, say
from pipelines.lease import LENGTH, Lease, lease
from pipelines.report import ReportConfig
from pipelines.score import ScoreConfig
from pipelines.signals import SignalsConfig
from pipelines.slices import all_slices
from pipelines.spending import Budget, Spending
from pipelines.store import catalog
from pipelines.store.root import Root

Section = TypeVar("Section", bound=JobConfig)
# Given once, for all stages.
_SHARED = ("root", "local")


class RetryConfig(BaseModel):
    """Which rows that failed are tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reasons: list[str] = Field(
        ["http_429", "http_5xx", "timeout", "dns", "connection", "host_budget"],
        description="reasons that may pass, as `headwater failures` names them",
    )
    attempts: int = Field(3, ge=2, description="attempts of a row, the first counted")
    wait: float = Field(24.0, ge=0, description="hours between two attempts")


class MixturesConfig(BaseModel):
    """Which mixtures are kept up to date."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    configs: list[str] = Field([], description="YAML files of mixtures")
    existing: bool = Field(True, description="the other mixtures under the root too, by their lock files")
    memory: str | None = Field(None, description="memory that DuckDB may use, such as 4GB; most of it if null")


class CurateConfig(JobConfig):
    """A section for each stage, with the fields of its own job but root and local; null leaves a stage out."""

    ingest: list[IngestConfig] = Field([], description="a list of sources, each as for `headwater ingest`")
    download: DownloadConfig | None = Field(DownloadConfig(), description="as for `headwater download`")
    retry: RetryConfig | None = Field(RetryConfig(), description="rows to try again")
    score: ScoreConfig | None = Field(None, description="as for `headwater score`")
    signals: SignalsConfig | None = Field(None, description="as for `headwater signals`")
    dedupe: DedupeConfig | None = Field(DedupeConfig(), description="as for `headwater dedupe`")
    index: IndexConfig | None = Field(IndexConfig(), description="as for `headwater index`")
    mix: MixturesConfig | None = Field(MixturesConfig(), description="mixtures to keep up to date")
    report: ReportConfig | None = Field(None, description="as for `headwater report`")
    budget: Budget = Field(Budget(), description="when to stop before all is done")
    lease: float = Field(LENGTH, gt=0, description="seconds after which another machine may take over a dead run")

    @field_validator("ingest", "download", "score", "signals", "dedupe", "index", "report")
    @classmethod
    def _not_shared(cls, value: Any) -> Any:
        for section in value if isinstance(value, list) else [value]:
            given = [name for name in _SHARED if section is not None and name in section.model_fields_set]
            if given:
                raise ValueError(f"{given[0]} is given once, for all stages; take it out of the section")
        return value


def run(config: CurateConfig) -> dict[str, Any]:
    """Bring everything under a root up to date: new and changed metadata, new shards, retries, scores, signals,
    duplicates, catalog, mixtures, report. Only one run at a time; one that finds nothing new writes nothing."""
    with lease(Root(config.root), "curate", config.lease) as held:
        chain = _Chain(config, held)
        summary = run_recorded("curate", config, chain.run)
        if config.index is not None and not summary.get("nothing_new"):
            # This run and its mixtures are to be found in the catalog too.
            index.run(chain.index_config())
    return summary


def plan(config: CurateConfig) -> dict[str, Any]:
    """The stages that a run would go through, and the shards that are still to be downloaded."""
    root = Root(config.root)
    found: dict[str, Any] = {"stages": [name for name, _ in STAGES if getattr(config, name)]}
    if config.download is not None and (root.names("metadata") or root.names("retries")):
        found["shards"] = download.plan(_section(config, config.download))["shards"]
    return found


class _Chain:
    """One run: its stages in order, what each did, and what is chosen for the catalog."""

    def __init__(self, config: CurateConfig, held: Lease) -> None:
        self.config, self.held, self.root = config, held, Root(config.root)
        self.spending = Spending(config.budget)
        self.stages: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []
        self.chosen: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """All stages, or those that the budget allows; the summary for the ledger."""
        wanted = [name for name, _ in STAGES if getattr(self.config, name)]
        for number, (name, stage) in enumerate((n, s) for n, s in STAGES if n in wanted):
            self.held.check()
            spent = self.spending.spent() if self.stages else None
            left = 0
            if spent is None:
                stage(self)
                spent, left = self.spending.spent(), self._left(name)
                number += not left
            if spent is not None and number < len(wanted):
                self._stop(spent, wanted[number:], left)
        summary = self.summary()
        if self.failures:
            raise BudgetExceeded("; ".join(self.failures), summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """What was done, what it cost, and how the root differs from what the last run left."""
        if not self.stages:
            say("curate: nothing new")
            return {"job": "curate", "rows_in": 0, "nothing_new": True}
        now, last = totals(self.root), last_run(self.root)
        return {
            "job": "curate", "rows_in": sum(stage.get("rows_in", 0) for stage in self.stages.values()),
            "stages": self.stages, "cost": self.spending.cost(), "totals": now, "last": last.get("id"),
            "differences": differences(last.get("summary", {}).get("totals", {}), now),
        }  # fmt: skip

    def _stop(self, spent: str, stages: Sequence[str], left: int) -> None:
        where = f"{left} shards left in {stages[0]}" if left else f"{stages[0]} not begun"
        after = f", then {', '.join(stages[1:])}" if len(stages) > 1 else ""
        text = f"{spent}; left: {where}{after}; run the same command again to go on"
        raise BudgetExceeded(text, {**self.summary(), "left": {"stages": list(stages), "shards": left}})

    def _left(self, name: str) -> int:
        """The shards that a stage that ended early has left."""
        done = self.stages.get(name)
        if done is None or name not in _GATED:
            return 0
        looked_at: int = done["shards_done"] + done["shards_skipped"] + len(done["shards_failed"])
        return max(0, int(done.get("of", 0)) - looked_at)

    def call(
        self, name: str, job: Callable[[Section], dict[str, Any]], section: Section, of: int = 0
    ) -> dict[str, Any]:
        """Run one job; what it did goes to the summary, if it did anything.

        Too many failures end the run only after the other stages: they take what there is.
        """
        try:
            with gated(self._gate(name)):
                done = job(_section(self.config, section))
        except BudgetExceeded as error:
            self.failures.append(f"{name}: {error}")
            done = error.summary
        if not done.get("up_to_date") and (
            any(done.get(key) for key in ("rows_in", "shards_done", "shards_failed")) or "added" in done
        ):
            kept = {key: value for key, value in done.items() if key != "job"}
            self.stages[name] = {**kept, "of": of} if of else kept
        return done

    def _gate(self, name: str) -> Gate:
        def gate(result: dict[str, Any]) -> bool:
            count = self.spending.count_download if name == "download" else self.spending.count
            return count(result) or not self.held.held

        return gate if name in _GATED else lambda _result: False

    def ingest(self) -> None:
        """Every source's dump: as a whole the first time, then what it has more or other."""
        for section in self.config.ingest:
            self.call(f"ingest:{section.source}", ingest.run, section.model_copy(update={"add": True}))

    def download(self) -> None:
        """Shards that are not there yet."""
        section = self.config.download or DownloadConfig()
        self.call("download", download.run, section, len(all_slices(self.root, section.sources)))

    def retry(self) -> None:
        """Rows that failed for a reason that may have passed."""
        policy = self.config.retry or RetryConfig()
        changes = {"retry": policy.reasons, "retry_attempts": policy.attempts, "retry_wait": policy.wait}
        self.call("retry", download.run, (self.config.download or DownloadConfig()).model_copy(update=changes))

    def score(self) -> None:
        """Shards that the model has not scored; all of them, when it is a new one."""
        assert self.config.score is not None
        done = self.call("score", score.run, self.config.score, len(self.root.shards("shards")))
        self.chosen["features"] = done["model_fingerprint"]

    def signals(self) -> None:
        """Shards without signals."""
        assert self.config.signals is not None
        done = self.call("signals", signals.run, self.config.signals, len(self.root.shards("shards")))
        self.chosen["signals"] = done["signals"]

    def dedupe(self) -> None:
        """New pictures against all."""
        section = self.config.dedupe or DedupeConfig()
        embeds = section.semantic_distance is not None or section.eval_semantic_distance is not None
        if embeds and section.features is None:
            section = section.model_copy(update={"features": self.chosen.get("features")})
        self.chosen["verdicts"] = self.call("dedupe", dedupe.run, section)["verdicts"]

    def index_config(self) -> IndexConfig:
        """The catalog shows what this run's stages made, unless the section names others."""
        section = self.config.index or IndexConfig()
        free = {name: made for name, made in self.chosen.items() if getattr(section, name) is None}
        return _section(self.config, section.model_copy(update=free))

    def index(self) -> None:
        """New and changed shards into the catalog."""
        self.call("index", index.run, self.index_config())

    def mix(self) -> None:
        """Mixtures that the catalog has outgrown; one that cannot be built does not keep the others from it."""
        assert self.config.mix is not None
        for mixture in self._mixtures(self.config.mix):
            try:
                self.call(f"mix:{mixture.name}", build_mix.run, mixture)
            except InputError as error:
                self.failures.append(f"mix {mixture.name}: {error}")

    def _mixtures(self, wanted: MixturesConfig) -> list[MixJobConfig]:
        named = [load_config(MixJobConfig, path, [("memory", wanted.memory)]) for path in wanted.configs]
        there = catalog.mixture_names(self.root) if wanted.existing else []
        others = [
            MixJobConfig.model_validate(
                {**self.root.read_json("mixes", name, "mix.lock.json")["config"], "memory": wanted.memory}
            )
            for name in there
            if name not in {mixture.name for mixture in named}
        ]
        return [*named, *others]

    def report(self) -> None:
        """The page, if anything else is new."""
        assert self.config.report is not None
        if self.stages:
            self.stages["report"] = report.run(_section(self.config, self.config.report))


STAGES: tuple[tuple[str, Callable[[_Chain], None]], ...] = (
    ("ingest", _Chain.ingest),
    ("download", _Chain.download),
    ("retry", _Chain.retry),
    ("score", _Chain.score),
    ("signals", _Chain.signals),
    ("dedupe", _Chain.dedupe),
    ("index", _Chain.index),
    ("mix", _Chain.mix),
    ("report", _Chain.report),
)
# Stages that can end between two shards; a part of the others is of no use.
_GATED = ("download", "retry", "score", "signals")


def _section(config: CurateConfig, section: Section) -> Section:
    return section.model_copy(update={name: getattr(config, name) for name in _SHARED})


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater curate`."""
    return job_main("curate", CurateConfig, run, plan, argv, recorded=False)


if __name__ == "__main__":
    sys.exit(main())
