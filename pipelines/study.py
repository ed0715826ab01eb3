"""A study of sources: nested subsets, mixtures, ensembles and filtered variants, trained and evaluated run by run.

headwater study --config configs/study/toy.yaml
headwater study --config configs/study/toy.yaml --dry-run
headwater study --config configs/study/toy.yaml --json
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evaluation.tasks import Task
from filters.errors import HeadwaterError
from pipelines import manifest
from pipelines.alone import alone
from pipelines.draw import draw, survey
from pipelines.engine import map_shards, record, run_together
from pipelines.job import Account, job_main, say
from pipelines.rules import find_rules
from pipelines.store import catalog
from pipelines.store.root import Root
from pipelines.study_analysis import analyse
from pipelines.study_claims import read_claims, register
from pipelines.study_config import StudyConfig
from pipelines.study_fit import best_scorer, choices, choose_rate, rate_jobs
from pipelines.study_folder import StudyFolder
from pipelines.study_guard import check_sources, guard_text
from pipelines.study_matrix import RunSpec, Supply, ensembles_like, expand, mixture, recipe_of, supply
from pipelines.study_proposals import proposed
from pipelines.study_report import write_report
from pipelines.study_run import Job, Runner, load_tasks, make_ensemble
from pipelines.study_settings import mark_of, settings_of, settle, write_halves
from pipelines.train import with_whole_paths
from trainer.estimate import estimate


@dataclass(frozen=True, slots=True)
class _Begun:
    """A study whose training data was found clean: its folder, evaluation sets, guard's counts, supply and runs."""

    folder: StudyFolder
    tasks: list[Task]
    guard: dict[str, dict[str, int]]
    supply: Supply
    specs: list[RunSpec]
    settings: dict[str, Any]


def run(config: StudyConfig) -> dict[str, Any]:
    """Train, evaluate and record each run that is not over, then say what there is.

    The study refuses to start while evaluation pictures are in the training data.
    """
    # A worker of Ray stands in another folder.
    config = config.model_copy(update={"train": with_whole_paths(config.train)})
    begun = _begin(config)
    folder, account = begun.folder, Account("study")
    with alone(folder.local(), "study"):
        settings = settle(folder, begun.settings)
        claims = _register(config, folder)
        folder.write(begun.guard, "guard.json")
        write_halves(folder, begun.tasks)
        trials = rate_jobs(config, begun.supply, settings)
        rate = choose_rate(folder, config, trials, lambda: _make(trials, folder, config, account, [config.reference]))
        say(f"study: learning rate {rate:g}" + (", chosen on the fit half of the reference" if trials else ""))
        for wave in _waves(begun.specs):
            _make_wave([Job(spec, mark_of(spec, rate, settings), rate) for spec in wave], begun, config, account)
        folder.write_results()
        proposals = proposed(config, folder, begun.supply, ask=True)
        for wave in (proposals, like := ensembles_like(config, begun.supply, proposals)):
            _make_wave([Job(spec, mark_of(spec, rate, settings), rate) for spec in wave], begun, config, account)
        folder.write_results()
        account.check(config.max_failed_fraction)
        begun = replace(begun, specs=[*begun.specs, *proposals, *like])
        found, analysis = analyse(folder, config, begun.tasks, [spec.id for spec in begun.specs])
        state = {**_state(config, begun), **claims, "analysis": analysis}
        if found.panels:
            say(f"study: {write_report(folder, config, found, state)}")
        return {**account.summary(), **state}


def plan(config: StudyConfig) -> dict[str, Any]:
    """The runs with their samples, steps and state, and about how many minutes those not over would take."""
    begun = _begin(config)
    folder, rate = begun.folder, config.train.lr
    settle(folder, begun.settings, write=False)
    trials = [] if folder.exists("rate.json") else rate_jobs(config, begun.supply, "")
    todo = [spec for spec in begun.specs if spec.trains and folder.record(spec.id) is None]
    found = _estimate(config, begun, begun.specs[0]) if todo else {"samples_per_s": {"loader": 1.0, "step": 1.0}}
    speed = min(found["samples_per_s"].values())
    # A picture or prompt is only looked at, which takes a third of a training step's time.
    looked = sum(len(task.images) + len(task.classnames) * len(task.templates) for task in begun.tasks) / 3
    runs, seconds = [], 0.0
    for spec in [*(job.spec for job in trials), *begun.specs]:
        seen = recipe_of(config, spec, rate).samples_seen if spec.trains else 0
        over = folder.record(spec.id)
        minutes = (seen + looked) / speed / 60 if spec.trains and over is None else 0.0
        seconds += 60 * minutes
        runs.append({
            "id": spec.id, "kind": spec.kind, "samples": spec.samples, "samples_seen": seen,
            "steps": seen // config.train.batch, "minutes": round(minutes, 1),
            "state": "to do" if over is None else over.status,
        })  # fmt: skip
    workers = _workers(config)
    total = round(seconds / 60 / workers, 1)
    for one in runs:
        say(
            f"{one['id']:<44} {one['kind']:<10} {one['samples']:>9,} samples {one['steps']:>8,} steps "
            f"{one['minutes']:>7.1f} min  {one['state']}"
        )
    say(f"study: {len(runs)} runs, about {total:g} minutes with {workers} at a time")
    claims = {} if config.claims is None else {"claims_sha256": read_claims(Path(config.claims))[1]}
    return {"runs": runs, "minutes": total, "workers": workers, "guard": begun.guard, **claims}


def state(config: StudyConfig) -> dict[str, Any]:
    """What is there of a study, without doing anything."""
    begun = _begin(config)
    folder = begun.folder
    proposals = proposed(config, folder, begun.supply, ask=False)
    like = ensembles_like(config, begun.supply, proposals)
    begun = replace(begun, specs=[*begun.specs, *proposals, *like])
    _, analysis = analyse(folder, config, begun.tasks, [spec.id for spec in begun.specs])
    claims = {} if not folder.exists("claims.json") else _claims_summary(folder.read("claims.json"))
    return {"dry_run": False, **_state(config, begun), **claims, "analysis": analysis}


def _begin(config: StudyConfig) -> _Begun:
    """Look at everything that a study needs, and write nothing."""
    root = Root(config.root)
    folder = StudyFolder(root, config.folder)
    with catalog.connect(root) as con:
        tasks = load_tasks(root, config)
        guard = check_sources(con, root, config, tasks)
        say(f"study: evaluation pictures: {guard_text(guard)}")
        found = supply(con, config)
        settings = settings_of(config, found, tasks, catalog.snapshot(con))
    return _Begun(folder, tasks, guard, found, expand(config, found), settings)


def _register(config: StudyConfig, folder: StudyFolder) -> dict[str, Any]:
    """Fix the claims at the first start, note later changes, and say so."""
    if config.claims is None:
        return {}
    found = _claims_summary(register(folder.root, folder.name, Path(config.claims), len(folder.records())))
    amended = f", amended {found['amendments']} times" if found["amendments"] else ""
    say(f"study: claims {config.claims}: sha256 {found['claims_sha256']}{amended}")
    return found


def _claims_summary(record: dict[str, Any]) -> dict[str, Any]:
    amendments = record["amendments"]
    return {
        "claims_sha256": (amendments[-1] if amendments else record)["sha256"],
        "claims_first_sha256": record["sha256"],
        "amendments": len(amendments),
    }


def _waves(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Runs in the order in which they need one another: training, what scorers chose for, ensembles."""
    scored = [spec for spec in specs if spec.choice is not None and spec.choice.scorers]
    ensembles = [spec for spec in specs if not spec.trains]
    first = [spec for spec in specs if spec.trains and spec not in scored]
    return [first, scored, ensembles]


def _make_wave(jobs: Sequence[Job], begun: _Begun, config: StudyConfig, account: Account) -> None:
    """Make the runs of one wave that are not over, and name those that need a run which is not there."""
    folder, ready = begun.folder, []
    for job in jobs:
        if folder.settled(job.spec, job.mark):
            account.shards_skipped += 1
            continue
        scorer = _scorer(job.spec, begun, config)
        lacking = [run for run in (*job.spec.members, *scorer) if not _has_model(folder, run)]
        if lacking:
            account.extra.setdefault("blocked", {})[job.spec.id] = f"{lacking[0]} has no model"
            say(f"study: {job.spec.id} is left out: {lacking[0]} has no model")
            continue
        ready.append(replace(job, scorer=scorer[0] if scorer else None))
    if all(job.spec.trains for job in ready):
        _make(ready, folder, config, account, None)
        return
    total = account.shards_done + len(ready)
    make = lambda: lambda job: make_ensemble(folder, config, job, begun.tasks)  # noqa: E731
    for job, result in map_shards(ready, make, local=True):
        record(account, job, result, total)


def _scorer(spec: RunSpec, begun: _Begun, config: StudyConfig) -> list[str]:
    """The run that chooses a run's samples, if one does."""
    if spec.choice is None or len(spec.choice.scorers) < 2:
        return [] if spec.choice is None else spec.choice.scorers
    shifts = [task.name for task in begun.tasks if task.name != config.reference]
    return [best_scorer(begun.folder, config, spec, shifts)]


def _has_model(folder: StudyFolder, run: str) -> bool:
    found = folder.record(run)
    return found is not None and found.status == "done"


def _make(
    jobs: Sequence[Job], folder: StudyFolder, config: StudyConfig, account: Account, only: list[str] | None
) -> None:
    """Make runs, several at a time where there is room, each trained by as many processes as `ranks` says."""
    runner = Runner(folder, config, only)
    todo = [job for job in jobs if not folder.settled(job.spec, job.mark, job.among)]
    if todo:
        say(f"study: {len(todo)} runs to make, {len(jobs) - len(todo)} done before")
    if config.ranks > 1 and not config.local:
        todo = [job for job in todo if _trained_together(runner, job, config, account)]
    total = account.shards_done + len(todo)
    done = map_shards(todo, runner, cpus=config.cpus, gpus=config.gpus, local=config.local)
    for job, result in done:
        record(account, job, result, total)


def _trained_together(runner: Runner, job: Job, config: StudyConfig, account: Account) -> bool:
    """Train one run by several processes, which all must see the data root; whether that succeeded."""
    try:
        runner.prepare(job)
        run_together(runner.train, job, config.ranks, cpus=config.cpus, gpus=config.gpus)
    except HeadwaterError as error:
        record(account, job, {"error": str(error)}, 1)
        return False
    return True


def _state(config: StudyConfig, begun: _Begun) -> dict[str, Any]:
    """What is done, flagged, failed and missing of the runs asked for, and each result's figures."""
    folder, asked = begun.folder, {spec.id for spec in begun.specs}
    records = {found.spec.id: found for found in folder.records() if found.spec.id in asked}
    missing = [spec.id for spec in begun.specs if spec.id not in records]
    return {
        "study": str(folder.local()),
        "runs": len(begun.specs),
        "by_kind": dict(sorted(Counter(spec.kind for spec in begun.specs).items())),
        "over": len(records),
        "missing": missing,
        "flagged": {name: found.flags for name, found in records.items() if found.flags},
        "failed": {name: found.reason for name, found in records.items() if found.status == "failed"},
        "guard": begun.guard,
        "choices": choices(folder),
        "results": {
            result.run_id: {name: round(figure.value, 4) for name, figure in result.eval.items()}
            for result in folder.results()
            if result.run_id in asked
        },
    }


def _estimate(config: StudyConfig, begun: _Begun, spec: RunSpec) -> dict[str, Any]:
    """What the first run would take, by a few timed steps."""
    root = begun.folder.root
    with tempfile.TemporaryDirectory(prefix="headwater-study-") as scratch, catalog.connect(root) as con:
        path = Path(scratch) / manifest.FILE
        mix = mixture(spec.id, config, spec.counts, spec.seed, spec.half)
        with path.open("wb") as file:
            manifest.write(draw(con, survey(con, find_rules(con, mix))), file, {})
        return estimate(path, root.local("shards"), config.train, config.ranks)


def _workers(config: StudyConfig) -> int:
    """Runs at a time, as far as this machine knows."""
    if config.local or config.ranks > 1:
        return 1
    there = torch.cuda.device_count() / config.gpus if config.gpus else (os.cpu_count() or 1) / config.cpus
    return max(1, math.floor(there))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater study`; `--json` says what is there of the study and does nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--json" in arguments:
        arguments = [*(one for one in arguments if one != "--json"), "--dry-run"]
        return job_main("study", StudyConfig, run, state, arguments)
    return job_main("study", StudyConfig, run, plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
