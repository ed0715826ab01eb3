"""The report of a study whose runs' truths are planted: verdicts, tables, figures, its part of the main page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from evaluation.results import ALL_CLASSES, write_images, write_results
from evaluation.runs import Run
from pipelines import study_tables as tables
from pipelines.prediction import digest_of
from pipelines.store.root import Root
from pipelines.study_analysis import analyse
from pipelines.study_claims import register
from pipelines.study_config import Proposal, StudyConfig
from pipelines.study_folder import RUNS, RunRecord, StudyFolder
from pipelines.study_html import study_section
from pipelines.study_matrix import RunSpec, Supply
from pipelines.study_proposals import proposed
from pipelines.study_report import write_report
from tests.evaluation.study_runs import REFERENCE, SHIFT, mixed, singles
from tests.pipelines.test_advise import images_of, result_of

CLAIMS = """claims:
  - {id: C2, claim: lines, statistic: R2, direction: at least, threshold: 0.9, seeds: [0, 1]}
  - {id: C10, claim: diluted, statistic: dilution of `half`, direction: above, threshold: 0, seeds: [0, 1]}
  - {id: C11, claim: between, statistic: shifts where `half` is outside, direction: at most, threshold: 0, seeds: [0]}
  - {id: C12, claim: outputs, statistic: "ensemble-half, half", direction: at most, threshold: 0.1, seeds: [0]}
  - {id: C4, claim: named, statistic: order, cannot_test: "of a named source"}
  - {id: C99, claim: new, statistic: unknown, direction: above, threshold: 0, seeds: [0]}
  - {id: C13, claim: seeds, statistic: slope, direction: at most, threshold: 0.1, seeds: [7]}
"""
HALF = {"ant": 0.5, "bee": 0.5}


def named(run: Run) -> str:
    name = {"single": run.group, "input_mix": "half", "output_mix": "ensemble-half"}[run.kind]
    return f"{name}-n{run.n_total}-s{run.seed}"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, StudyConfig, dict[str, Any]]:
    root = Root(str(tmp_path_factory.mktemp("planted")))
    folder = StudyFolder(root, "study")
    runs = [
        *singles(noise=0.01),
        *(mixed(HALF, seed=seed) for seed in (0, 1)),
        *(mixed(HALF, seed=seed, kind="output_mix") for seed in (0, 1)),
    ]
    for run in runs:
        name = named(run)
        pictures = {**run.pictures, (REFERENCE, ALL_CLASSES): run.pictures[REFERENCE, SHIFT]}
        one = replace(run, run_id=name, pictures=pictures)
        write_images(folder.local(RUNS, name, "images.parquet"), images_of(one))
        write_results(folder.local(RUNS, name, "result.jsonl"), [result_of(one)])
        kind: Any = run.kind
        spec = RunSpec(id=name, kind=kind, counts={run.group: run.n_total}, seed=run.seed or 0)
        flags = ["barely converged"] if name == "cat-n1000-s0" else []
        folder.write_record(RunRecord(spec=spec, mark="m", status="done", flags=flags))
    claims = root.local("claims.yaml")
    claims.write_text(CLAIMS)
    record = register(root, "study", claims, 0)
    config = StudyConfig.model_validate({
        "root": root.url, "reference": REFERENCE, "ways": 20, "sources": ["ant", "bee", "cat"], "claims": str(claims),
        "train": {"model": "m", "samples_seen": 30_000},
        "proposals": [{"name": "half", "target": SHIFT, "total": 4000}],
    })  # fmt: skip
    return folder, config, {"claims_sha256": record["sha256"], "amendments": 0}


def state_of(planted: tuple[StudyFolder, StudyConfig, dict[str, Any]], analysis: dict[str, Any]) -> dict[str, Any]:
    folder, _, claims = planted
    flagged = {record.spec.id: record.flags for record in folder.records() if record.flags}
    return {
        **claims, "analysis": analysis, "choices": {}, "guard": {"val": Counter(pictures=3, near=1)}, "failed": {},
        "flagged": flagged, "missing": [],
    }  # fmt: skip


def test_verdicts_name_what_they_could_not_test(planted: tuple[StudyFolder, StudyConfig, dict[str, Any]]) -> None:
    folder, config, _ = planted
    _, analysis = analyse(folder, config, [], [record.spec.id for record in folder.records()])
    claims = analysis["claims"]
    assert list(claims) == ["C2", "C4", "C10", "C11", "C12", "C13", "C99"]
    assert {name: one["verdict"] for name, one in claims.items()} == {
        "C2": "shown", "C4": "cannot test", "C10": "shown", "C11": "shown", "C12": "shown", "C13": "cannot test",
        "C99": "cannot test",
    }  # fmt: skip
    assert claims["C13"]["reason"] == "no run has the seed 7"
    assert claims["C99"]["reason"].startswith("no statistic is known by the id C99")
    assert claims["C10"]["parts"][SHIFT].startswith("+")
    assert json.loads(json.dumps(analysis)) == analysis


def test_the_page_has_figures_tables_and_no_claim_of_its_own(
    planted: tuple[StudyFolder, StudyConfig, dict[str, Any]],
) -> None:
    folder, config, _ = planted
    wanted = [record.spec.id for record in folder.records()]
    found, analysis = analyse(folder, config, [], wanted)
    page = write_report(folder, config, found, state_of(planted, analysis))
    text = page.read_text()
    for name in ("sources", "mixtures", "efficiency"):
        assert f"({name}.png)" in text
        assert page.with_name(f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "filters.png" not in text and "credit.png" not in text
    assert "**shown**" in text and "3 cannot test, 4 shown" in text
    assert "no evaluation set ref; credit needs its classes" in text
    assert "Flagged runs, kept: `cat-n1000-s0` (barely converged)" in text
    assert "`half`: cannot test: nothing was proposed yet" in text
    before = {path: path.stat().st_mtime_ns for path in page.parent.iterdir()}
    write_report(folder, config, found, state_of(planted, analysis))
    assert {path: path.stat().st_mtime_ns for path in page.parent.iterdir()} == before


def test_fewer_runs_are_a_smaller_study(planted: tuple[StudyFolder, StudyConfig, dict[str, Any]]) -> None:
    folder, config, _ = planted
    wanted = [record.spec.id for record in folder.records() if record.spec.id.startswith("ant")]
    found, analysis = analyse(folder, config, [], wanted)
    assert {run.group for run in found.runs} == {"ant"}
    assert analysis["claims"]["C10"] == {
        **analysis["claims"]["C10"], "verdict": "cannot test", "reason": "the mixture was not trained",
    }  # fmt: skip
    assert analysis["credit"][SHIFT].startswith("cannot test: 1 sources have runs of their own")
    found, analysis = analyse(folder, config, [], [])
    assert (found.runs, analysis["shifts"], analysis["ranking"]) == ((), {}, {})


def test_the_main_page_holds_the_report_with_its_figures(
    planted: tuple[StudyFolder, StudyConfig, dict[str, Any]],
) -> None:
    folder, config, _ = planted
    found, analysis = analyse(folder, config, [], [record.spec.id for record in folder.records()])
    write_report(folder, config, found, state_of(planted, analysis))
    html = study_section(folder.root, "study", "report")
    assert html.count('src="data:image/png;base64,') == 3
    assert "<h1" not in html and "<h3>Which source is best</h3>" in html and "<td>C2</td>" in html
    assert study_section(folder.root, "study", "none") == ""


def test_a_cell_of_a_table_is_one_short_line() -> None:
    assert tables.cell("a | b\nc", {}) == "a / b c"
    assert len(tables.cell("x" * 300, {})) == 110
    assert tables.cell("at floor: a+b 50:50 at 100: low", {"a+b 50:50 n100": "half"}) == "at floor: half: low"


def test_what_is_proposed_was_predicted_first_and_is_measured(
    planted: tuple[StudyFolder, StudyConfig, dict[str, Any]],
) -> None:
    """`ant` is best by far, so that it is proposed alone, and gains nothing over the best single source: itself."""
    folder, config, _ = planted
    folder.write_results()
    known = Supply(there=dict.fromkeys(config.sources, 8000), halves={})
    assert proposed(config, folder, known, ask=False) == []
    specs = proposed(config, folder, known, ask=True)
    assert [spec.id for spec in specs] == ["ant-n4000-s0", "ant-n4000-s1"]
    digest = digest_of(folder.root, "half")
    assert proposed(config, folder, known, ask=True) == specs
    assert digest_of(folder.root, "half") == digest
    _, analysis = analyse(folder, config, [], [record.spec.id for record in folder.records()])
    found = analysis["proposals"]["half"]
    assert (found["sha256"], found["shares"], found["seeds"]) == (digest, {"ant": 1.0}, 2)
    assert found["outcome"]["target"]["held"]
    assert found["known_before"]
    assert found["gains"]["best single source (ant)"]["verdict"] == "no detectable gain"
    assert any("no detectable gain" in line for line in tables.proposals(analysis))
    impossible = config.model_copy(update={"proposals": [Proposal(name="none", target="nowhere")]})
    assert proposed(impossible, folder, known, ask=True) == []
    _, analysis = analyse(folder, impossible, [], [record.spec.id for record in folder.records()])
    assert analysis["proposals"] == {"none": "cannot test: nothing was proposed yet"}
