"""The study's job on a small root: what it writes, that it goes on after a kill, and what it keeps of failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.results import read_images, read_results
from filters.errors import ConfigError, HeadwaterError
from pipelines import study, study_run
from pipelines.store.root import Root
from pipelines.study_folder import StudyFolder
from pipelines.study_set import swap_captions
from tests.pipelines.studied import EACH, SOURCES, files, make_root, settings
from trainer import loop

RATES = {"rates": [0.001, 0.002]}
OF_ALL = ("runs.jsonl", "claims.json", "report/")  # what a study with other runs has otherwise
FEW = {"sizes": [1.0], "mixtures": [], "filters": [], "ensembles": [{"name": "all"}]}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A root on which no study was made."""
    return make_root(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def done(clean: Root, tiny_model: Path) -> tuple[Root, dict[str, Any]]:
    """The same root's study, and its summary."""
    return clean, study.run(settings(clean, tiny_model, **RATES))


def uids(root: Root, run: str) -> list[str]:
    return list(pq.read_table(root.local("study", "runs", run, "manifest.parquet"))["uid"].to_pylist())


def test_every_run_has_its_files_and_its_result(done: tuple[Root, dict[str, Any]]) -> None:
    root, summary = done
    folder = StudyFolder(root, "study")
    results = {result.run_id: result for result in read_results(root.local("study", "runs.jsonl"))}
    assert (summary["missing"], summary["failed"], summary["over"]) == ([], {}, summary["runs"])
    assert len(results) == summary["runs"] == 6 + 1 + 4 + 1
    for run, result in results.items():
        assert set(result.eval) == {"val", "shifted"}
        assert read_images(root.local("study", "runs", run, "images.parquet")).num_rows == 36
        if result.kind != "output_mix":
            logits = folder.read_logits(run, ["val", "shifted"])
            assert {name: one.shape for name, one in logits.items()} == {"val": (12, 6), "shifted": (12, 6)}
            assert uids(root, run) == list(dict.fromkeys(uids(root, run)))
            assert len(uids(root, run)) == result.n_total
    kinds = [results[run].kind for run in ("a-n20-s0", "a25-b75-n39-s0", "a-half1-n23-s0", "ensemble-all-n60-s0")]
    assert kinds == ["single", "input_mix", "filtered", "output_mix"]
    assert results["a-n20-s0"].eval["val"].same_family
    assert not results["b-n20-s0"].eval["val"].same_family


def test_smaller_sets_are_part_of_larger_ones(done: tuple[Root, dict[str, Any]]) -> None:
    root, _ = done
    known = EACH - 1  # of `a` one picture is known to be in an evaluation set
    for source, there in zip(SOURCES, (known, EACH, EACH), strict=True):
        assert set(uids(root, f"{source}-n20-s0")) < set(uids(root, f"{source}-n{there}-s0"))
    mixed = set(uids(root, "a25-b75-n39-s0"))
    assert mixed < {*uids(root, "a-n39-s0"), *uids(root, "b-n40-s0")}
    halves = [set(uids(root, run)) for run in ("a-half1-n23-s0", "a-half2-by-self-top50-swap40-s0")]
    assert not halves[0] & halves[1]


def test_a_scorer_keeps_its_best_and_the_swapped_are_counted(done: tuple[Root, dict[str, Any]]) -> None:
    root, summary = done
    chosen = {
        who: json.loads(root.read_bytes("study", "runs", f"a-half2-by-{who}-top50-swap40-s0", "mix.lock.json"))[
            "choice"
        ]
        for who in ("self", "best", "random")
    }
    assert {one["pool"] for one in chosen.values()} == {EACH - 1 - 23}
    assert {one["kept"] for one in chosen.values()} == {8}
    assert {one["swapped"] for one in chosen.values()} == {6}
    assert (chosen["self"]["scorer"], chosen["random"]["scorer"]) == ("a-half1-n23-s0", "random")
    best = summary["choices"]["best"]["a"]["source"]
    assert chosen["best"]["scorer"] == f"{best}-n{EACH}-s0"
    heights = summary["choices"]["best"]["a"]["heights"]
    assert heights[best] == max(height for source, height in heights.items() if source != "a")
    [result] = read_results(root.local("study", "runs", "a-half2-by-self-top50-swap40-s0", "result.jsonl"))
    assert result.filter is not None
    assert (result.filter["scorer"], result.filter["half"]) == ("a-half1-n23-s0", 2)


def test_the_rate_is_chosen_on_the_reference_s_fit_half(done: tuple[Root, dict[str, Any]]) -> None:
    root, summary = done
    rate = summary["choices"]["rate"]
    best = max(trial["value"] for trial in rate["trials"])
    assert rate["chosen"] == min(trial["rate"] for trial in rate["trials"] if trial["value"] == best)
    assert not root.exists("study", "rates", "rate-0.001", "logits", "shifted.npy")
    fit = root.read_json("study", "concepts.json")["fit"]
    images = read_images(root.local("study", "rates", "rate-0.001", "images.parquet")).to_pylist()
    values = [row["expected_accuracy"] for row in images if row["concept"] in fit]
    assert rate["trials"][0]["value"] == pytest.approx(np.mean(values), abs=1e-12)
    [result] = read_results(root.local("study", "runs", "c-n20-s0", "result.jsonl"))
    assert result.lr == rate["chosen"]


def test_a_second_start_changes_nothing(
    done: tuple[Root, dict[str, Any]], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, summary = done
    before = files(root)
    again = study.run(settings(root, tiny_model, **RATES))
    assert files(root) == before
    assert (again["shards_skipped"], again["results"]) == (summary["runs"], summary["results"])
    config = root.local("study.yaml")
    config.write_text(json.dumps(settings(root, tiny_model, **RATES).model_dump(mode="json")))
    capsys.readouterr()
    assert study.main(["--config", str(config), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["missing"], state["results"]) == ([], summary["results"])
    assert files(root) == before


def test_more_runs_may_be_asked_for_and_nothing_else_changed(
    done: tuple[Root, dict[str, Any]], tiny_model: Path
) -> None:
    root, _ = done
    before = files(root)
    for change, name in (({"ways": 3}, "ways"), ({"rates": [0.1]}, "rates"), ({"where": "caption <> 'x'"}, "where")):
        with pytest.raises(ConfigError, match=f"begun with another {name}; undo"):
            study.run(settings(root, tiny_model, **{**RATES, **change}))
    assert files(root) == before
    summary = study.run(settings(root, tiny_model, **RATES, mixtures=[{"dirichlet": 1}, {"leave_one_out": True}]))
    assert summary["shards_done"] == 4
    after = files(root)
    assert [name for name in before if before[name] != after[name] and not name.startswith(OF_ALL)] == []


def test_a_dry_run_writes_nothing(
    clean: Root, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.estimate._TIMED_SECONDS", 0.2)
    plan = study.plan(settings(clean, tiny_model, **RATES, folder="dry"))
    assert [(run["id"], run["samples"], run["steps"]) for run in plan["runs"][:3]] == [
        ("rate-0.001", 39, 2), ("rate-0.002", 39, 2), ("a-n20-s0", 20, 2),
    ]  # fmt: skip
    assert all(run["minutes"] >= 0 for run in plan["runs"])
    assert "14 runs, about" in capsys.readouterr().err
    assert not clean.exists("dry")


@pytest.mark.parametrize("at", ["train", "evaluate_similarities"])
def test_killed_in_any_run_it_ends_in_the_same_bytes(
    at: str, done: tuple[Root, dict[str, Any]], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = done[0], getattr(study_run, at)
    calls: list[None] = []
    config = settings(root, tiny_model, **RATES, folder=f"killed-{at}", **FEW)

    def killed(*given: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == 4:  # in the second run after two trials
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(study_run, at, killed)
        with pytest.raises(KeyboardInterrupt):
            study.run(config)
    [over] = root.local(config.folder, "runs").glob("*/run.json")
    written = over.stat().st_mtime_ns
    assert study.run(config)["missing"] == []
    assert over.stat().st_mtime_ns == written
    ours, theirs = files(root, config.folder), files(root)
    same = [name for name in ours if name in theirs and not name.startswith(OF_ALL)]
    assert len([name for name in same if name.endswith("run.json")]) == 5
    assert [name for name in same if ours[name] != theirs[name]] == []


def test_a_failed_run_is_kept_and_listed_and_stops_what_needs_it(
    clean: Root, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real = settings(clean, tiny_model, barely=0.01, folder="failing", **FEW), loop.train

    def failing(manifest: Path, *given: Any) -> dict[str, Any]:
        if manifest.parent.name == "b-n40-s0":
            raise HeadwaterError("the loss is nan")
        return real(manifest, *given)

    monkeypatch.setattr(study_run, "train", failing)
    summary = study.run(config)
    assert summary["failed"] == {"b-n40-s0": "the loss is nan"}
    assert summary["counts"] == {"failed": 1, "flagged": 2}
    assert summary["blocked"] == {"ensemble-all-n119-s0": "b-n40-s0 has no model"}
    assert summary["missing"] == ["ensemble-all-n119-s0"]
    assert summary["flagged"] == {"a-n39-s0": ["barely converged"], "c-n40-s0": ["barely converged"]}
    assert sorted(summary["results"]) == ["a-n39-s0", "c-n40-s0"]
    assert study.run(config)["shards_done"] == 0


def test_swapped_captions_are_the_same_captions_in_other_places() -> None:
    captions = [f"caption {n}" for n in range(20)]
    pool = pa.table({"uid": [str(n) for n in range(20)], "caption": captions})
    found, swapped = swap_captions(pool, 0.3, seed=1)
    assert swapped.sum() == 6
    assert sorted(found["caption"].to_pylist()) == sorted(captions)
    assert [a != b for a, b in zip(found["caption"].to_pylist(), captions, strict=True)] == swapped.tolist()
    assert swap_captions(pool, 0.0, seed=1)[0].equals(pool)
    assert not swap_captions(pool, 0.05, seed=1)[1].any()  # one caption has nowhere to go


@pytest.mark.slow
def test_on_ray_the_bytes_are_the_same(
    done: tuple[Root, dict[str, Any]], tiny_model: Path, ray_session: None
) -> None:
    root = done[0]
    study.run(settings(root, tiny_model, **RATES, folder="ray", local=False, **FEW))
    ours, theirs = files(root, "ray"), files(root)
    same = [name for name in ours if name in theirs and not name.startswith(OF_ALL)]
    assert len([name for name in same if name.endswith("run.json")]) == 5
    assert [name for name in same if ours[name] != theirs[name]] == []


def test_what_the_runs_say_is_in_the_summary(done: tuple[Root, dict[str, Any]]) -> None:
    """Two sizes of one seed are no line: each figure says what it lacks."""
    _, summary = done
    found = summary["analysis"]
    assert found["reference"] == "val"
    shift = found["shifts"]["shifted"]
    assert set(shift["lines"]) == set(SOURCES)
    assert all("cannot test" in line and "4 are needed" in line for line in shift["lines"].values())
    assert set(shift["mixtures"]) == {"a+b 25.6:74.4 n39", "a+b+c 33.3:33.3:33.3 ensemble n60"}
    assert len(shift["filters"]) == 4
    json.dumps(found, allow_nan=False)
