from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evaluation.formats import (
    SHIFTS,
    clip_benchmark_name,
    clip_benchmark_record,
    datacomp_average,
    datacomp_line,
    main_metric,
    read_clip_benchmark,
    read_datacomp,
    shift_average,
)
from filters.errors import InputError


def test_a_result_of_clip_benchmark_goes_there_and_back(tmp_path: Path) -> None:
    record = clip_benchmark_record("wds/imagenet", "ViT-B-32", "x", {"acc1": 0.5, "acc5": None})
    assert math.isnan(record["metrics"]["acc5"])
    assert list(record) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    name = clip_benchmark_name(record)
    assert name == "wds_imagenet_x_ViT-B-32_en_zeroshot_classification.json"
    (tmp_path / name).write_text(json.dumps(record))
    found = read_clip_benchmark(tmp_path / name)
    assert found["metrics"] == {"acc1": 0.5, "acc5": None}
    for wrong, says in (("[1]", "no result of CLIP_benchmark"), ("{", "line 1 is no JSON")):
        (tmp_path / name).write_text(wrong)
        with pytest.raises(InputError, match=says):
            read_clip_benchmark(tmp_path / name)


def test_datacomp_s_lines_and_averages(tmp_path: Path) -> None:
    keys = [*SHIFTS, "vtab/pets", *(f"other{i}" for i in range(31))]
    assert len(keys) == 38
    lines = [
        datacomp_line(key, key, {"acc1": i / 100, "acc5": None, "mean_per_class_recall": 0.9})
        for i, key in enumerate(keys)
    ]
    lines.append(datacomp_line("fairness/fairface", "FairFace", {"acc": 0.1}))
    path = tmp_path / "eval_results.jsonl"
    path.write_text("\n".join(lines))
    found = read_datacomp(path)
    assert found["vtab/pets"]["main_metric"] == 0.9
    assert found["fairness/fairface"]["main_metric"] is None
    assert shift_average(found) == pytest.approx(sum(range(6)) / 600)
    expected = (sum(i for i, key in enumerate(keys) if key != "vtab/pets") / 100 + 0.9) / 38
    assert datacomp_average(found) == pytest.approx(expected)
    del found["other0"]
    with pytest.raises(InputError, match="over 38 sets, here are 37"):
        datacomp_average(found)
    del found["imagenet-o"]
    with pytest.raises(InputError, match="lacks imagenet-o"):
        shift_average(found)


def test_the_main_figure_of_a_set() -> None:
    assert main_metric("imagenet1k", {"acc1": 0.3}) == 0.3
    assert main_metric("fairness/utkface", {}) is None
    with pytest.raises(InputError, match=r"DataComp counts mean_per_class_recall, and the result has acc1"):
        main_metric("fgvc_aircraft", {"acc1": 0.3})


@pytest.mark.parametrize("line", ["{", '{"key": "a"}', "3"])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(datacomp_line("a", "a", {"acc1": 1.0}) + "\n\n" + line)
    with pytest.raises(InputError, match="line 3"):
        read_datacomp(tmp_path / "x.jsonl")
