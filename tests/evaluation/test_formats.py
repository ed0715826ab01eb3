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
    datacomp_key,
    datacomp_line,
    datacomp_tasks,
    is_benchmark_table,
    main_metric,
    read_clip_benchmark,
    read_datacomp,
    read_rows,
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
    lines = []
    for i, key in enumerate(keys):
        metrics = {"acc1": i / 100, "acc5": None, "mean_per_class_recall": 0.9}
        lines.append(datacomp_line(key, metrics, main_metric(key, metrics)))
    lines.append(datacomp_line("fairness/fairface", {"acc": 0.1}, None))
    assert json.loads(lines[6])["dataset"] == "Oxford-IIIT Pet"
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


@pytest.mark.parametrize("line", ["{", '{"key": "a"}', "3", '{"key": "a", "metrics": {"acc1": "high"}}'])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(datacomp_line("a", {"acc1": 1.0}, 1.0) + "\n\n" + line)
    with pytest.raises(InputError, match="line 3"):
        read_datacomp(tmp_path / "x.jsonl")


def test_datacomp_has_forty_sets_of_which_it_counts_thirty_eight() -> None:
    tasks = datacomp_tasks()
    assert len(tasks) == 40
    assert [key for key, (_, main) in tasks.items() if main is None] == ["fairness/fairface", "fairness/utkface"]
    assert set(SHIFTS) <= tasks.keys()
    mains = [main for _, main in tasks.values()]
    assert (mains.count("acc1"), mains.count("mean_per_class_recall"), mains.count("mean_recall@1")) == (27, 4, 2)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("imagenet1k", "imagenet1k"),
        ("imagenet", "imagenet1k"),
        ("wds_imagenet1k_test", "imagenet1k"),
        ("imagenet_v2", "imagenetv2"),
        ("imagenet_r", "imagenet-r"),
        ("wds/imagenet-r", "imagenet-r"),
        ("wds_vtab-pets_test", "vtab/pets"),
        ("wds_geode_test", "fairness/geode"),
        ("Stanford Cars", "cars"),
        ("drawings", "drawings"),
        ("test", "test"),
    ],
)
def test_sets_are_known_under_many_names(name: str, key: str) -> None:
    assert datacomp_key(name) == key


def test_the_table_that_clip_benchmark_builds(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.csv"
    path.write_text(
        "acc1,dataset,model,pretrained,language,task,model_fullname,image_retrieval_recall@5\n"
        "0.5,wds/cars,B,openai,en,zeroshot_classification,B openai,\n"
        ",flickr30k,B,openai,en,zeroshot_retrieval,B openai,0.75\n"
    )
    assert is_benchmark_table(path)
    cars, flickr = read_rows(path)
    assert (cars.model, cars.source, cars.dataset, cars.metrics) == ("B", "openai", "wds/cars", {"acc1": 0.5})
    assert (flickr.task, flickr.metrics) == ("zeroshot_retrieval", {"image_retrieval_recall@5": 0.75})
    path.write_text(path.read_text().replace("0.75", "good"))
    with pytest.raises(InputError, match="result 2 has a metric that is no number"):
        read_rows(path)
    path.write_text("model,source,size,val\n")
    assert not is_benchmark_table(path)
