"""Where a study keeps what it has done, under the data root.

    <root>/study/study.json            what may not change while the study lasts
    <root>/study/guard.json            pictures of evaluation sets, and what was kept out of training
    <root>/study/claims.json           the claims with their hash, and amendments
    <root>/study/concepts.json         the two halves of the concepts: `fit` and `report`
    <root>/study/rate.json, rates/     the learning rate and its trials
    <root>/study/best.json             for each filtered source the best scorer's, and what it was chosen by
    <root>/study/runs/<id>/manifest.parquet, mix.lock.json    the training set
    <root>/study/runs/<id>/model/                             the checkpoint with its log
    <root>/study/runs/<id>/logits/<set>.npy                   float16 [N, C]: cosines, before the scale of 100
    <root>/study/runs/<id>/result.jsonl, images.parquet       figures, and a row for each picture behind them
    <root>/study/runs/<id>/run.json                           written last: a run that has it is over
    <root>/study/runs.jsonl            the results of all runs that were evaluated, in order of their ids

A run without `run.json` is made again from its training on; nothing else is ever written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from evaluation.results import Result, read_results, to_json
from filters.errors import ConfigError, InputError
from filters.published import published
from pipelines.store.root import Root
from pipelines.study_matrix import RunSpec

RUNS, RESULTS, RECORD = "runs", "runs.jsonl", "run.json"
Logits = NDArray[np.float16]


class RunRecord(BaseModel):
    """What became of a run: `done`, with what is to be said of it in `flags`, or `failed`, with the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: RunSpec
    mark: str
    status: Literal["done", "failed"]
    flags: list[str] = []
    reason: str | None = None
    final_loss: float | None = None


_RECORD = TypeAdapter(RunRecord)


class StudyFolder:
    """One study's files; picklable, so that it travels to workers."""

    def __init__(self, root: Root, name: str) -> None:
        self.root, self.name = root, name

    def local(self, *parts: str) -> Path:
        """A path below the study's folder."""
        return self.root.local(self.name, *parts)

    def exists(self, *parts: str) -> bool:
        """Whether the file is there (and therefore complete)."""
        return self.root.exists(self.name, *parts)

    def read(self, *parts: str) -> Any:
        """A JSON file."""
        return self.root.read_json(self.name, *parts)

    def write(self, value: Any, *parts: str) -> None:
        """Publish a JSON file, unless it says this already."""
        if not (self.exists(*parts) and self.read(*parts) == value):
            self.root.write_json(value, self.name, *parts)

    def record(self, run: str, among: str = RUNS) -> RunRecord | None:
        """What became of a run; None while it is not over. InputError for a file that cannot be read."""
        if not self.exists(among, run, RECORD):
            return None
        return _RECORD.validate_python(self.read(among, run, RECORD))

    def settled(self, spec: RunSpec, mark: str, among: str = RUNS) -> bool:
        """Whether a run is over; ConfigError where what is there was made otherwise."""
        found = self.record(spec.id, among)
        if found is not None and found.mark != mark:
            raise ConfigError(
                f"{self.local(among, spec.id)}: this run was made with another recipe or training set; remove the "
                "folder, or give the study another `folder`"
            )
        return found is not None

    def write_record(self, record: RunRecord, among: str = RUNS) -> None:
        """Say that a run is over."""
        self.root.write_json(record.model_dump(mode="json"), self.name, among, record.spec.id, RECORD)

    def records(self) -> list[RunRecord]:
        """All runs that are over, in order of their ids."""
        names = self.root.names(self.name, RUNS)
        return [record for name in names if (record := self.record(name)) is not None]

    def results(self) -> list[Result]:
        """The results of all runs that were evaluated, in order of their ids."""
        done = [record.spec.id for record in self.records() if record.status == "done"]
        return [result for run in done for result in read_results(self.local(RUNS, run, "result.jsonl"))]

    def write_results(self) -> int:
        """Publish runs.jsonl, if anything is new; how many results it has."""
        results = self.results()
        data = "".join(f"{to_json(result)}\n" for result in results).encode()
        if not (self.exists(RESULTS) and self.root.read_bytes(self.name, RESULTS) == data):
            self.root.write_bytes(data, self.name, RESULTS)
        return len(results)

    def write_logits(self, run: str, task: str, logits: Logits, among: str = RUNS) -> None:
        """Publish the cosines [N, C] of a set's pictures and classes."""
        with published(self.local(among, run, "logits", f"{task}.npy")) as path, path.open("wb") as file:
            np.save(file, logits)

    def read_logits(self, run: str, tasks: Sequence[str], among: str = RUNS) -> dict[str, NDArray[np.float32]]:
        """The cosines float32 [N, C] by set that a run was evaluated with; InputError for those that are missing."""
        found = {}
        for task in tasks:
            path = self.local(among, run, "logits", f"{task}.npy")
            try:
                found[task] = np.load(path, allow_pickle=False).astype(np.float32)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read ({error}); remove {path.parent.parent}") from error
        return found
