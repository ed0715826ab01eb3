"""Advice from result files: the page is one that `headwater mix` takes, and the prediction stays as it was stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import yaml

from evaluation.results import IMAGES, Component, Result, SetResult, write_images, write_results
from evaluation.runs import Run
from pipelines.cli import main
from pipelines.store.catalog import FILE
from tests.evaluation.study_runs import LINES, REFERENCE, SHIFT, WAYS, mixed, singles
from tests.pipelines.test_expression import fill

DIRICHLET = [
    dict(zip(LINES, w.tolist(), strict=True)) for w in np.random.default_rng(5).dirichlet(np.ones(3), 5).round(2)
]
RUNS = [*singles(noise=0.02), *(mixed(p, seed=i) for i, p in enumerate(DIRICHLET))]


def result_of(run: Run) -> Result:
    """A line of a results file whose pictures are the run's."""
    common: dict[str, Any] = {
        "n": 400, "classes": 400, "low": 0.0, "high": 1.0, "chance": 1 / WAYS, "at_floor": False, "acc5": None,
        "mean_per_class_recall": 0.5, "protocol": "p", "template_hash": "t", "family": "", "same_family": False,
    }  # fmt: skip
    shift, reference = (float(run.pictures[name, SHIFT].values.mean()) for name in (SHIFT, REFERENCE))
    base = SetResult(value=reference, acc1=reference, **common)
    parts = [Component(source=name, n=round(100 * share)) for name, share in run.shares.items()]
    return Result(
        run_id=run.run_id, kind=run.kind, components=parts, n_total=run.n_total, seed=run.seed,  # type: ignore[arg-type]
        eval={REFERENCE: base, SHIFT: SetResult(value=shift, acc1=shift, reference=base, **common)},
    )  # fmt: skip


def images_of(run: Run) -> pa.Table:
    parts = []
    for (task, concepts), found in run.pictures.items():
        n = len(found.keys)
        columns = {
            "run_id": [run.run_id] * n, "task": [task] * n, "concepts": [concepts] * n, "key": found.keys.tolist(),
            "concept": found.concepts.tolist(), "predicted": [""] * n, "n_classes": [n] * n,
            "rank": (found.values < 0.5).astype(np.int32), "ties": [0] * n, "expected_accuracy": found.values,
        }  # fmt: skip
        parts.append(pa.table(columns, schema=IMAGES))
    return pa.concat_tables(parts)


def publish(root: Path, runs: Sequence[Run], name: str = "study") -> None:
    write_results(root / "results" / f"{name}.jsonl", [result_of(run) for run in runs])
    write_images(root / "results" / f"{name}.images.parquet", pa.concat_tables([images_of(run) for run in runs]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path, RUNS)
    return tmp_path


def advise(root: Path, *more: str, target: str = SHIFT) -> int:
    return main(["advise", "--root", str(root), "--target", target, "--total", "4k", *more])


def test_a_page_that_mix_takes_and_a_prediction_with_its_digest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The condition leaves 10 samples of ant, best on the shift, and 20 of bee: at three uses 30 of 80, and 50."""
    with duckdb.connect(str(root / FILE)) as con:
        fill(con)
        for source, times in (("bee", 2), ("cat", 3)):
            con.execute(f"""INSERT INTO samples SELECT samples.* REPLACE (md5('{source}' || n || uid) AS uid,
                '{source}' AS source) FROM samples, range({times}) t(n) WHERE source = 'ant'""")
    rules = ["--max-repeats", "3", "--exclude", "cat", "--where", "clip_score >= 0.5"]
    more = ["--target", SHIFT, "--total", "80", "--constraint", "reference>=0.01"]
    assert main(["advise", "--root", str(root), *more, *rules]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["shares"] == pytest.approx({"ant": 0.375, "bee": 0.625})
    page = yaml.safe_load(Path(found["page"]).read_text())
    assert page["sources"] == [
        {"source": "ant", "weight": 3, "max_repeats": 3},
        {"source": "bee", "weight": 5, "max_repeats": 3},
    ]
    assert (page["total"], page["where"], page["on_shortage"]) == (80, "clip_score >= 0.5", "repeat")
    stored = Path(found["prediction"]).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == found["sha256"]
    assert (root / "advice/advised.sha256").read_text() == f"{found['sha256']}  advised.prediction.json\n"
    assert found["sha256"] in err and found["sha256"] in Path(found["page"]).read_text()
    prediction = json.loads(stored)
    assert prediction["metric"] == "value" and len(prediction["runs"]) == 17
    assert prediction["errors"]["probits"]["mediant law"]["value"] < 0.05
    assert main(["mix", "--root", str(root), "--config", found["page"]]) == 0


def test_without_a_catalog_rows_are_taken_as_enough(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(root, "--rows", "{ant: 1000}", "--predictor", "mediant law") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["shares"] == pytest.approx({"ant": 0.25, "bee": 0.75})
    assert "against even mixing: +" in err and "by the mediant law" in err


def test_runs_of_a_study_have_their_pictures_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "study/runs.jsonl", [result_of(run) for run in RUNS])
    for run in RUNS:
        write_images(tmp_path / "study/runs" / run.run_id / "images.parquet", images_of(run))
    assert advise(tmp_path, "--runs", str(tmp_path / "study/runs.jsonl")) == 0
    assert json.loads(capsys.readouterr().out)["shares"] == {"ant": 1.0}


def test_what_was_predicted_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(root) == 0
    assert advise(root) == 2
    assert "advised.prediction.json is there, and what was predicted stays" in capsys.readouterr().err
    assert advise(root, "--name", "other") == 0
    assert advise(root, "--dry-run") == 0


def test_predicted_beside_measured(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(root, "--rows", "{ant: 2000}") == 0
    measured = ["advise", "--root", str(root), "--measured"]
    assert main(measured) == 2
    assert "no result of a run 'advised' yet; mix, train and evaluate it" in capsys.readouterr().err
    trained = [mixed({"ant": 0.5, "bee": 0.5}), mixed({"ant": 0.5, "bee": 0.5}, -0.8)]
    for run, held in zip(trained, (True, False), strict=True):
        object.__setattr__(run, "run_id", "advised")
        publish(root, [run], "advised")
        capsys.readouterr()
        assert main(measured) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)["sets"]
        assert found[SHIFT]["held"] is held and found[REFERENCE]["held"]
        assert ("beyond the errors of both" in err) is not held
    path = root / "advice/advised.prediction.json"
    path.write_bytes(path.read_bytes().replace(b"0.", b"0.9", 1))
    assert main(measured) == 2
    assert "was changed after it was stored" in capsys.readouterr().err
    assert main([*measured, "--name", "odd"]) == 2
    assert "no prediction; there is advised" in capsys.readouterr().err


def test_results_of_other_tools_count_as_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table beside our own results: all are read as top-1; a source that only the table knows is one to mix."""
    lines = ["model,source,size,imagenet,sketch", "z,zoo,4000,0.5,0.9", "y,zoo,8000,0.6,0.93", "u,a b,1,0.1,0.1"]
    table = root / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    only = ["advise", "--root", str(root), "--runs", str(table), "--target", "imagenet-sketch", "--total", "4000"]
    assert main([*only, "--reference", "imagenet", "--name", "table"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shares"] == {"zoo": 1.0}
    assert json.loads((root / "advice/table.prediction.json").read_text())["left_out"]["u"].startswith("'a b' says")
    assert main([*only, "--metric", "value"]) == 2
    assert "other tools' results have no k-way accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--constraint", "ink>=0.3"], "constraint: 'ink>=0.3' is none; write \"reference>=0.30\""),
        (["--constraint", "reference>=30"], "an accuracy of 0 to 1"),
        (["--constraint", "reference>=0.9"], "no advice by the mediant law: no candidate: at most "),
        (["--predictor", "guess"], "predictor: 'guess' is not known; use mediant law, output mixing, regression"),
        (["--predictor", "output mixing"], "no advice by the output mixing: cannot test: no ensemble was evaluated"),
        (["--exclude", "ant,bee,cat"], "the sources allowed have 0 samples, 4000 are wanted"),
        (["--exclude", "elk"], "limits name the source 'elk'"),
        (["--runs", "none.jsonl"], "none.jsonl is missing"),
        (["--total", "many"], "field 'total'"),
    ],
)
def test_what_is_wrong_is_one_line(
    root: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert advise(root, *more) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headwater advise:")]
    assert says in line
    assert not (root / "advice").exists()


def test_sets_that_are_not_there(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise(root, target="glyph") == 2
    assert "target: no run was evaluated on 'glyph'; there are ink" in capsys.readouterr().err
    assert main(["advise", "--root", str(root)]) == 2
    assert "target and total: name the shift" in capsys.readouterr().err
    assert advise(tmp_path / "empty") == 2
    assert "no results yet; run `headwater evaluate`" in capsys.readouterr().err
