"""The whole chain on the demo's six sources, from raw dumps over HTTP to a report.

headwater demo --root build/demo
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pydantic import Field

from demo import attributions, map_tests, web
from demo.compare import compare
from demo.corpus import STYLES
from demo.evalsets import LABELS, REFERENCE, write_eval_sets
from demo.lists import BLOCKED, CLASSES, ENTRIES, write_lists
from demo.mixes import CONFIGS, FULL_ROWS, MODELS, mixtures
from demo.plan import make_plan
from demo.show import print_findings
from demo.study import read_study, study_of
from demo.web_placeholders import FEW_URLS
from demo.web_record import SOURCES, STYLE_OF
from evaluation.methods import TestTime
from evaluation.results import Result
from filters.errors import InputError
from pipelines import attribute, build_mix, dedupe, download, evaluate, index, ingest, report, score, signals, train
from pipelines.alone import alone
from pipelines.config import JobConfig, load_config
from pipelines.job import job_main, run_recorded, say
from pipelines.report import Findings, all_results
from pipelines.store.mirror import cache_of
from pipelines.store.models import score_columns
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig, HostLimit

HERE = Path(__file__).parent
MARK = "demo.json"
CLUSTERS = 500  # of embeddings, for a demo of the full size
SEMANTIC = 0.005  # 1 − cosine of semantic duplicates; beyond it the small scorer takes clocks for one another
Until = Literal[
    "download", "score", "signals", "dedupe", "study", "compare", "mix", "train", "evaluate", "attribute", "report"
]
SUMMARY = (
    "Six sources were downloaded over HTTP from a web that plants faults, scored, cleared of duplicates and mixed; a "
    "small CLIP model was trained on each mixture and on each source alone, and tested on emoji styles it never saw. "
    "An emoji style merely wears a source's format here: the figures say nothing about the real sources. The "
    "training recipe was chosen while looking at three of the five styles (EmojiOne 1, Noto 1, EmojiTwo mono), "
    "with seed 0."
)
# The released code's and the paper's settings, but for half of TPT's views, which take its time: none was chosen by
# its figures.
TEST_TIME = TestTime(views=32, rule="repo", alpha=0.9, beta=0.3)
METHODS_NOTE = (
    "UMFC: 6 clusters over the pictures of all sets together, without labels, as the released code does it, with its "
    "alpha 0.9 and beta 0.3. TPT: 32 views a picture, the most certain tenth of them, one step. The settings are "
    "those of the released code and the paper, but for TPT's 64 views; none was chosen by its figures."
)
_ON_ANY_ROOT = ("download", "score", "signals", "dedupe", "mix")
Config = TypeVar("Config", bound=JobConfig)


class DemoConfig(JobConfig):
    """How large a demo, from which seed."""

    root: str = Field("build/demo", description="folder of the demo; at any fsspec URL, the data up to the mixtures")
    seed: int = Field(0, ge=0, description="seed of the demo's web, of the mixtures and of the models")
    rows: int = Field(FULL_ROWS, ge=600, description="records in the six dumps together")
    samples_per_shard: int = Field(125, ge=1, description="input rows a shard")
    until: Until = Field(
        "report",
        description="last stage to run: download, score, signals, dedupe, study, compare, mix, train, evaluate, "
        "attribute or report",
    )
    samples_seen: int | None = Field(None, ge=1, description="training pairs a model; the recipe's if not given")
    methods: list[str] = Field(["umfc", "tpt"], description="test-time methods for the even mixture's model")


def run(config: DemoConfig) -> dict[str, Any]:
    """Run every stage that is not done yet, then say what was found and how the models did."""
    root, beside, began = Root(config.root), _beside(config), time.monotonic()
    with alone(beside, "demo"):
        try:
            for name in _stages(config):
                STAGES[name](config)
        finally:
            web.stop(beside)
    summary: dict[str, Any] = {"job": "demo", "root": config.root}
    summary["seconds"] = round(time.monotonic() - began, 1)
    if root.exists("comparison.json"):
        findings, results = Findings.model_validate_json(root.read_bytes("comparison.json")), _results(root)
        print_findings(findings, results)
        judged = [check for check in findings.checks if check.met is not None]
        summary["checks_met"] = f"{sum(bool(check.met) for check in judged)} of {len(judged)}"
        summary["missed"] = [check.check for check in judged if not check.met]
        summary["reference_accuracy"] = {r.run_id: round(r.eval[REFERENCE].value, 4) for r in results}
    if root.exists("report", "index.html"):
        summary["report"] = str(root.local("report", "index.html"))
        say(f"demo: open {summary['report']}")
    return summary


def plan(config: DemoConfig) -> dict[str, Any]:
    """The stages that a demo run would go through."""
    return {"root": config.root, "stages": _stages(config)}


def _stages(config: DemoConfig) -> list[str]:
    """The stages of a run: of a root that is no local folder, the data's, up to the mixtures."""
    names = list(STAGES)[: list(STAGES).index(config.until) + 1]
    return names if Root(config.root).is_local else [name for name in names if name in _ON_ANY_ROOT]


def _beside(config: DemoConfig) -> Path:
    """Where the demo's web, dumps and lists lie: under the root, or in the cache of one elsewhere."""
    root = Root(config.root)
    return root.local() if root.is_local else cache_of(root) / "demo"


def _claim(root: Root, config: DemoConfig, plan: pa.Table) -> None:
    """Mark the root with what its demo is made from; InputError where it holds anything else.

    A folder has one demo: what others left would show in its catalog, models and report.
    """
    settings = config.model_dump(include={"seed", "rows", "samples_per_shard"})
    scorer = hashlib.sha256((HERE / "scorer" / "open_clip_model.safetensors").read_bytes()).hexdigest()
    mark = {"settings": settings, "plan": web.plan_digest(plan), "scorer": scorer}
    if not root.exists(MARK):
        if set(root.names()) - {"runs", "web"}:
            raise InputError(f"{root.url}: holds files that no demo made; choose a new folder with --root")
        root.write_json(mark, MARK)
        return
    found = root.read_json(MARK)
    if found["settings"] != settings:
        flags = " ".join(f"--{name.replace('_', '-')} {found['settings'][name]}" for name in settings)
        raise InputError(f"{root.url}: holds a demo with {flags}; give these, remove it, or choose another --root")
    if found != mark:
        raise InputError(f"{root.url}: holds a demo of another version; remove it, or choose another --root")


def _download(config: DemoConfig) -> None:
    """Dumps to shards, over HTTP from the demo's own web; the web is started only if something is left to fetch."""
    root, plan = Root(config.root), make_plan(config.seed, config.rows)
    _claim(root, config, plan)
    web.write_raw(_beside(config), plan)
    for source in SOURCES:
        metadata = str(_beside(config) / "raw" / source)
        _job("ingest", ingest.IngestConfig(
            root=config.root, source=source, metadata=metadata, seed=config.seed,
            samples_per_shard=config.samples_per_shard,
        ), ingest.run)  # fmt: skip
    wanted = download.DownloadConfig(root=config.root, local=config.local)
    if download.plan(wanted)["shards"]:
        port = web.start(_beside(config), config.seed, config.rows).port
        # One server answers for all hosts, and is ours: it may be asked as fast as it can answer. Some of its bodies
        # never end.
        fetch = FetchConfig(resolve={"*.test": f"127.0.0.1:{port}"}, limit=HostLimit(rate=None), deadline=8.0)
        wanted = wanted.model_copy(update={"fetch": fetch})
    _job("download", wanted, download.run)


def _score(config: DemoConfig) -> None:
    root, sets = Root(config.root), _beside(config) / "eval"
    write_eval_sets(sets)
    if not root.is_local:
        for path in sorted(sets.rglob("*")):
            name = ("eval", *path.relative_to(sets).parts)
            if path.is_file() and not root.exists(*name):
                root.upload(path, *name)
    scorer = score.ScoreConfig(root=config.root, local=config.local, model=str(HERE / "scorer"), tasks="eval")
    _job("score", scorer, score.run)


def _signals(config: DemoConfig) -> None:
    """Captions by the demo's lists, and pictures by clusters that the reference set's pictures are in."""
    lists = _beside(config) / "lists"
    write_lists(lists)
    _job("signals", signals.SignalsConfig(
        root=config.root, local=config.local, entries=str(lists / ENTRIES), classes=str(lists / CLASSES),
        blocklist=str(lists / BLOCKED), clusters=max(1, CLUSTERS * config.rows // FULL_ROWS), reference=[REFERENCE],
    ), signals.run)  # fmt: skip


def _dedupe(config: DemoConfig) -> None:
    _job("dedupe", dedupe.DedupeConfig(
        root=config.root, local=config.local, tasks="eval", priority=list(SOURCES), features=_scorer(config),
        semantic_distance=SEMANTIC, placeholder_urls=FEW_URLS,
    ), dedupe.run)  # fmt: skip


def _scorer(config: DemoConfig) -> str:
    """Fingerprint of the demo's scoring model."""
    return next(iter(score_columns(Root(config.root))))


def _study(config: DemoConfig) -> None:
    """Near duplicates among drawings, where their transforms and strengths are known one by one."""
    study_of(Root(config.root), config.seed, min(1.0, config.rows / FULL_ROWS))


def _compare(config: DemoConfig) -> None:
    """What was found against what was planted, as far as the chain has come."""
    _index(config)
    root = Root(config.root)
    findings = compare(root, _results(root), REFERENCE, len(MODELS), read_study(root))
    root.write_bytes(findings.model_dump_json(indent=1).encode(), "comparison.json")


def _mix(config: DemoConfig) -> None:
    _index(config)
    column = score_columns(Root(config.root))[_scorer(config)]
    for mix in mixtures(config.seed, config.rows, column):
        settings = {**mix.model_dump(), "root": config.root}
        _job("mix", build_mix.MixJobConfig.model_validate(settings), build_mix.run)


def _train(config: DemoConfig) -> None:
    root, toy = Root(config.root), str(CONFIGS / "train" / "toy.yaml")
    # A small demo's mixtures may not fill a batch.
    smallest = min(root.read_json("mixes", name, "mix.lock.json")["samples"] for name in MODELS)
    usual = load_config(train.TrainJobConfig, toy, []).train.batch
    changes: list[tuple[str, Any]] = [
        ("root", config.root), ("local", config.local), ("mixtures", list(MODELS)),
        ("train.seed", config.seed), ("train.model", str(HERE / "model")), ("train.batch", min(usual, smallest)),
    ]  # fmt: skip
    if config.samples_seen is not None:
        changes.append(("train.samples_seen", config.samples_seen))
    job = load_config(train.TrainJobConfig, toy, changes)
    _job("train", job, train.run)


def _evaluate(config: DemoConfig) -> None:
    families = {source: STYLES[style].family for source, style in STYLE_OF.items()}
    job = evaluate.EvaluateConfig(
        root=config.root, local=config.local, models=list(MODELS), reference=REFERENCE, families=families
    )
    _job("evaluate", job, evaluate.run)
    if config.methods:
        changes = {"models": ["even"], "method": ["zero_shot", *config.methods], "test_time": TEST_TIME}
        _job("evaluate", job.model_copy(update=changes), evaluate.run)


def _attribute(config: DemoConfig) -> None:
    """What the scorer's matches rest on: of ten pairs, and of pictures where it is known."""
    root = Root(config.root)
    _job("attribute", attributions.job(root, config.seed), attribute.run)
    map_tests.write_map_tests(root, config.seed, config.rows / FULL_ROWS)


def _report(config: DemoConfig) -> None:
    """Compare once more, with the figures of all models, and write the page."""
    _compare(config)
    root = Root(config.root)
    _job("report", report.ReportConfig(
        root=config.root, title="Headwater demo: six sources, eight models, five unseen styles", summary=SUMMARY,
        reference=REFERENCE, checks=str(root.local("comparison.json")), seed=config.seed, methods_note=METHODS_NOTE,
        tasks={
            style: report.TaskLabel(label=LABELS[style], role=STYLES[style].role, family=STYLES[style].family)
            for style in LABELS
        },
        attributions=attributions.drawn(root, config.seed), attributions_note=attributions.CHOICE,
        map_tests=str(root.local(map_tests.FILE)),
        credits=[f"{style.name}: {style.attribution}" for style in STYLES.values()],
    ), report.run)  # fmt: skip


def _results(root: Root) -> list[Result]:
    return [result for result in all_results(root) if result.run_id in MODELS]


def _index(config: DemoConfig) -> None:
    _job("index", index.IndexConfig(root=config.root), index.run)


# In order; `--until` names the last one to run.
STAGES: dict[str, Callable[[DemoConfig], None]] = {
    "download": _download,
    "score": _score,
    "signals": _signals,
    "dedupe": _dedupe,
    "study": _study,
    "compare": _compare,
    "mix": _mix,
    "train": _train,
    "evaluate": _evaluate,
    "attribute": _attribute,
    "report": _report,
}


def _job(name: str, config: Config, run: Callable[[Config], dict[str, Any]]) -> None:
    """One stage, with its line in the ledger."""
    say(f"── {name}")
    run_recorded(name, config, lambda: run(config))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater demo`."""
    return job_main("demo", DemoConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
