"""`headwater results`: shown, class by class, written for CLIP_benchmark and DataComp, and read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.formats import SHIFTS, datacomp_line, datacomp_tasks, read_clip_benchmark, read_datacomp
from evaluation.results import Component, RunInfo, write_results
from evaluation.shifts import Protocol, evaluate_similarities
from evaluation.tasks import Task
from pipelines.cli import main

NAMES = ["fox", "hen", "sea", "cup", "elk", "fig"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main(["results", *arguments])
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {}, printed.err


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no root is named it is a folder of the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two models' results on a reference and a shift."""
    rng = np.random.default_rng(0)
    tasks = []
    for name, each in (("imagenet", 5), ("imagenet_r", 3)):
        labels = np.repeat(np.arange(6), each)
        tasks.append(Task(name, [b""] * len(labels), labels, NAMES, ["{c}"], [str(i) for i in range(len(labels))]))
    for number, run_id in enumerate(("even", "odd")):
        scores = {
            task.name: (rng.normal(size=(len(task.labels), 6)) + 2 * np.eye(6)[task.labels]).astype(np.float32)
            for task in tasks
        }
        info = RunInfo(
            run_id=run_id, kind="single", components=[Component(source="wit", n=500 + number)], n_total=500 + number
        )
        found = evaluate_similarities(info, tasks, scores, "imagenet", protocol=Protocol(ways=3, resamples=50))
        write_results(tmp_path / "results" / f"{run_id}.jsonl", [found.result])
    return tmp_path


def test_all_results_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, text = run(capsys, "--root", str(root))
    assert code == 0
    assert [(row["model"], row["set"], row["n"]) for row in line["results"]] == [
        ("even", "imagenet", 30), ("even", "imagenet_r", 18), ("odd", "imagenet", 30), ("odd", "imagenet_r", 18),
    ]  # fmt: skip
    metrics = line["results"][0]["metrics"]
    assert set(metrics) == {
        "acc1", "acc1_low", "acc1_high", "acc5", "mean_per_class_recall", "expected_3_way", "ece"
    }  # fmt: skip
    assert f"{100 * metrics['acc1']:.1f} ({100 * metrics['acc1_low']:.1f} to" in text
    assert run(capsys, "even", "--root", str(root), "--dry-run")[1]["models"] == ["even"]


def test_one_set_class_by_class_and_domains(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, text = run(capsys, "even", "--root", str(root), "--per-class", "imagenet_r")
    assert code == 0
    assert [part["name"] for part in line["per_class"]] == NAMES
    worst = min(line["per_class"], key=lambda part: part["acc1"])
    rows = [part for part in text.split("\n") if part.startswith("│")]
    assert [cell.strip() for cell in rows[0].split("│")[1:4]] == [worst["name"], "3", f"{3 * worst['acc1']:g}"]
    assert f"{100 * worst['low']:.1f} to {100 * worst['high']:.1f}" in rows[0]
    code, line, text = run(capsys, "even", "--root", str(root), "--per-domain")
    found = line["per_domain"]["even"]
    assert [(part["name"], part["n"]) for part in found["domains"]] == [("imagenet", 30), ("imagenet_r", 18)]
    assert found["mean"] == pytest.approx(np.mean([part["acc1"] for part in found["domains"]]))
    assert "even by domain" in text


def test_clip_benchmarks_files_go_there_and_back(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "out"
    code, line, _ = run(capsys, "--root", str(root), "--format", "clip_benchmark", "--out", str(out))
    assert code == 0
    path = out / "imagenet_r_wit_odd_en_zeroshot_classification.json"
    assert str(path) in line["written"] and len(line["written"]) == 4
    record = read_clip_benchmark(path)
    assert (record["dataset"], record["model"], record["pretrained"]) == ("imagenet_r", "odd", "wit")
    assert record["metrics"] == line["results"][3]["metrics"]
    back = run(capsys, "--read", str(out))[1]["results"]
    assert sorted(back, key=str) == sorted([{**row, "n": None} for row in line["results"]], key=str)
    template = str(root / "t" / "bench_{model}_{dataset}.json")
    written = run(capsys, "--root", str(root), "--format", "clip_benchmark", "--out", template)[1]["written"]
    assert str(root / "t" / "bench_even_imagenet.json") in written


def test_datacomps_file_is_read_as_its_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line, _ = run(capsys, "odd", "--root", str(root), "--format", "datacomp", "--out", str(root / "odd"))
    assert code == 0
    assert line["written"] == [str(root / "odd" / "eval_results.jsonl")]
    found = read_datacomp(root / "odd" / "eval_results.jsonl")
    assert list(found) == ["imagenet1k", "imagenet-r"]
    assert found["imagenet-r"]["main_metric"] == line["results"][1]["metrics"]["acc1"]
    first = json.loads((root / "odd" / "eval_results.jsonl").read_text().splitlines()[0])
    assert (first["key"], first["dataset"]) == ("imagenet1k", "ImageNet 1k")
    many = run(capsys, "--root", str(root), "--format", "datacomp", "--out", str(root / "all"))[1]["written"]
    assert many == [str(root / "all" / name / "eval_results.jsonl") for name in ("even", "odd")]


def test_datacomps_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "medium" / "eval_results.jsonl"
    path.parent.mkdir()
    mains = {key: None if main is None else i / 100 for i, (key, (_, main)) in enumerate(datacomp_tasks().items())}
    path.write_text("".join(datacomp_line(key, {"acc1": 0.5}, main) + "\n" for key, main in mains.items()))
    code, line, text = run(capsys, "--read", str(path.parent), "--root", str(tmp_path))
    assert code == 0
    known = [main for main in mains.values() if main is not None]
    assert line["datacomp"]["medium"]["average"] == pytest.approx(np.mean(known))
    assert line["datacomp"]["medium"]["imagenet_shifts"] == pytest.approx(np.mean([mains[key] for key in SHIFTS]))
    assert f"DataComp's average {100 * np.mean(known):.2f}" in text
    # and what lacks the metric that DataComp counts is written, and said
    again = ("--read", str(path), "--root", str(tmp_path), "--format", "datacomp", "--out", str(tmp_path / "x.jsonl"))
    code, _, text = run(capsys, *again)
    assert code == 0
    assert "wilds/fmow: DataComp counts acc_worst_region, and the result has acc1; its main metric is null" in text
    assert read_datacomp(tmp_path / "x.jsonl")["wilds/fmow"]["main_metric"] is None


def test_a_table_for_robustness(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = root / "table.csv"
    code, line, _ = run(capsys, "--root", str(root), "--format", "csv", "--out", str(table))
    assert code == 0
    lines = table.read_text().splitlines()
    assert lines[0] == "model,source,size,val,r,val-on-r"
    assert lines[1].startswith("even,wit,500,")
    back = run(capsys, "--read", str(table))[1]["results"]
    same = {(row["model"], row["set"]): row["metrics"]["acc1"] for row in back}
    assert same["odd", "r"] == line["results"][3]["metrics"]["acc1"]


def test_robustness_takes_other_tools_results(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CLIP_benchmark's files one by one or as a folder, DataComp's, and ours, give the same points."""
    bench, comp = str(root / "bench"), str(root / "comp")
    written = run(capsys, "--root", str(root), "--format", "clip_benchmark", "--out", bench)[1]["written"]
    run(capsys, "--root", str(root), "--format", "datacomp", "--out", comp)
    found = []
    for results in (None, bench, ",".join(written), f"{comp}/even,{comp}/odd/eval_results.jsonl"):
        chosen = [] if results is None else ["--results", results]
        assert (
            main(["robustness", "--root", str(root), "--reference", "imagenet", "--baseline", "std+low", *chosen])
            == 0
        )
        line = json.loads(capsys.readouterr().out)
        assert line["models"] == 2
        found.append(list(line["shifts"]["r"]["effective"].values()))
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "no result 'none'; there is even, odd"),
        (["--format", "csv"], "give both --format and --out"),
        (["--out", "x"], "give both --format and --out"),
        (["--read", "none.json"], "none.json: no such file"),
        (["--read", "."], "holds neither eval_results.jsonl nor *.json"),
        (["even", "--read", "x.json"], "read: other tools' results have neither names"),
        (["--per-class", "imagenet"], "per_class: 2 results; name one: even, odd"),
        (["even", "--per-class", "cars"], "even has no set 'cars'; there is imagenet, imagenet_r"),
        (["--format", "datacomp", "--out", "x.jsonl"], "x.jsonl is one file and there are 2 models; name a folder"),
        (["--format", "clip_benchmark", "--out", "x.json"], "x.json would hold several results"),
        (["--format", "clip_benchmark", "--out", "{who}.json"], "the parts in braces may be dataset, model"),
        (["--format", "xml", "--out", "x"], "field 'format'"),
    ],
)
def test_wrong_questions_are_one_line(
    root: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    code, line, text = run(capsys, "--root", str(root), *arguments)
    assert (code, line) == (2, {})
    assert says in text.splitlines()[-1]
    assert not (root / "x.jsonl").exists() and not (root / "x").exists()


def test_a_result_without_classes_says_what_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "results" / "even.jsonl"
    line = json.loads(path.read_text())
    for figure in line["eval"].values():
        del figure["per_class"]
    del line["per_domain"]
    path.write_text(json.dumps(line) + "\n")
    for flags in (["--per-class", "imagenet"], ["--per-domain"]):
        code, _, text = run(capsys, "even", "--root", str(root), *flags)
        assert code == 2 and "run `headwater evaluate` again" in text
    assert run(capsys, "even", "--root", str(root))[0] == 0


def test_compare_needs_single_pictures(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "even.jsonl", "odd.jsonl", "--root", str(root)]) == 2
    assert "picture by picture" in capsys.readouterr().err
