"""Results files to the runs of a study, for jobs that ask what training sets did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from evaluation.accuracies import Metric, set_name
from evaluation.formats import is_datacomp
from evaluation.methods import Method
from evaluation.results import Result, read_images, read_results
from evaluation.runs import Run, run_of
from filters.errors import ConfigError, InputError
from pipelines.store.root import Root


def run_files(root: Root, names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files `names`, or all of <root>/results: our own results files, and those of others."""
    paths = [Path(name) for name in names]
    if not paths:
        paths = [root.local("results", name) for name in root.names("results", suffix=".jsonl")]
    if not paths:
        raise InputError(f"{root.url}/results: no results yet; run `headwater evaluate`, or pass --runs FILE")
    own = [path for path in paths if path.suffix == ".jsonl" and not (path.is_file() and is_datacomp(path))]
    return own, [path for path in paths if path not in own]


def read_runs(
    files: Sequence[Path], target: str, reference: str | None, metric: Metric
) -> tuple[list[Run], dict[str, str], dict[str, str]]:
    """The runs of our own files that were evaluated on the target, what its set and the reference are called, and why
    the other runs are not here.

    Results of a method that adapts at test time are of the same training, and no runs of their own. ConfigError where
    the reference is not given and the results have not one; InputError where no run was evaluated on the target.
    """
    pairs = [(result, path) for path in files for result in read_results(path) if not is_adapted(result)]
    found = next((n for r, _ in pairs for n in r.eval if set_name(n) == set_name(target)), target)
    bases = list(dict.fromkeys(n for r, _ in pairs for n, figure in r.eval.items() if figure.reference is None))
    if reference is None and len(bases) != 1:
        raise ConfigError(f"reference: name the reference set; the results have {', '.join(bases) or 'none'}")
    base = reference or bases[0]
    lacking = {r.run_id: f"was not evaluated on {found}" for r, _ in pairs if found not in r.eval}
    runs = []
    for path in dict.fromkeys(path for _, path in pairs):
        here = [result for result, file in pairs if file == path and result.run_id not in lacking]
        tables = {result.run_id: _images_path(path, result.run_id) for result in here}
        read = {file: read_images(file) for file in set(tables.values())}
        runs += [run_of(result, read[tables[result.run_id]], metric=metric) for result in here]
    if pairs and not runs:
        sets = sorted({name for result, _ in pairs for name in result.eval if name not in bases})
        raise InputError(f"target: no run was evaluated on {target!r}; there are {', '.join(sets) or 'no shifts'}")
    return runs, {"target": found, "reference": base}, lacking


def _images_path(results: Path, run: str) -> Path:
    """Where the pictures behind a result are: beside a file of `headwater evaluate`, or in a study's folder."""
    beside = results.with_name(results.name.removesuffix(".jsonl") + ".images.parquet")
    others = (results.with_name("runs") / run / "images.parquet", results.with_name("images.parquet"))
    return next((path for path in (beside, *others) if path.is_file()), beside)


def is_adapted(result: Result) -> bool:
    """Whether a result is of a method that adapts at test time, `MODEL+METHOD`, and of no training of its own."""
    return result.run_id.rpartition("+")[2] in get_args(Method) and "+" in result.run_id
