"""Evaluate and probe on sets that the configuration names, on captions, and on embeddings without a model."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.formats import read_rows
from evaluation.results import Result, read_results
from evaluation.tasks import Task, write_task
from pipelines import evaluate, probe, results
from pipelines.evaluation_sets import SetConfig, Sets
from pipelines.store.root import Root
from tests.evaluation.test_cache import picture
from tests.evaluation.test_captions import write_captioned
from tests.evaluation.test_folders import DATA, write

CONFIG = Path(__file__).parents[2] / "configs" / "eval" / "imagenet_shifts.yaml"


def result(root: Path, name: str) -> Result:
    [found] = read_results(root / "results" / f"{name}.jsonl")
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a set in CLIP_benchmark's layout that has a train split, and one of captions."""
    names = ["fox", "hen", "sea", "cup"]
    for split, count in (("test", 16), ("train", 24)):
        images = [picture(5 * (i % 4) + i // 4) for i in range(count)]
        task = Task("pets", images, np.arange(count) % 4, names, ["a {c}"], [str(i) for i in range(count)])
        write_task(tmp_path / split / "pets", task)
    (tmp_path / "eval").mkdir()
    (tmp_path / "test" / "pets").rename(tmp_path / "eval" / "pets")
    (tmp_path / "train" / "pets" / "test").rename(tmp_path / "eval" / "pets" / "train")
    write_captioned(
        tmp_path / "eval" / "coco", {f"s{i}": f"picture {i}\nnumber {i * i}\n".encode() for i in range(12)}
    )
    return tmp_path


@pytest.mark.slow
def test_imagenet_and_its_shifts_by_the_config_that_is_shipped(tmp_path: Path, tiny_model: Path) -> None:
    """A picture a class; ObjectNet by either protocol, ImageNet on the classes of each shift."""
    rows = list(csv.DictReader((DATA / "imagenet_classes.csv").read_text().splitlines()))
    wnids = [row["wnid"] for row in rows]
    objects = (DATA / "objectnet_classes.csv").read_text().splitlines()[1:]
    for folder, names in {
        "imagenet/val": wnids,
        "sketch": wnids,
        "imagenetv2-matched-frequency-format-val": [str(i) for i in range(1000)],
        "imagenet-r": [row["wnid"] for row in rows if row["in_r"] == "1"],
        "imagenet-a": [row["wnid"] for row in rows if row["in_a"] == "1"],
        "objectnet-1.0/images": [line.split(",")[0] for line in objects],
    }.items():
        write(tmp_path / folder, names)
    flags = [
        "--config", str(CONFIG), "--datasets", str(tmp_path), "--root", str(tmp_path), "--local", "--name", "own",
        "--checkpoint", str(tiny_model),
    ]  # fmt: skip
    for name in ("imagenet", "imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet"):
        flags += ["--set", f"sets.{name}.templates=single"]
    assert evaluate.main(flags) == 0
    found = result(tmp_path, "own").eval
    assert found["imagenet"].n == 1000
    sizes = {name: (one.n, one.classes, one.reference.n) for name, one in found.items() if one.reference}
    assert sizes == {
        "imagenet_v2": (1000, 1000, 1000), "imagenet_r": (200, 200, 200), "imagenet_a": (200, 200, 200),
        "imagenet_sketch": (1000, 1000, 1000), "objectnet": (113, 113, 125),
    }  # fmt: skip
    assert found["objectnet"].protocol == "expected_100_way objectnet_names"
    assert evaluate.main([*flags, "--set", "sets.objectnet.protocol=objectnet_imagenet_ids"]) == 0
    other = result(tmp_path, "own").eval
    assert other["objectnet"].protocol == "expected_100_way objectnet_imagenet_ids"
    assert other["objectnet"].value != found["objectnet"].value
    assert other["objectnet"].reference == found["objectnet"].reference


def test_folders_of_any_kind_beside_those_under_the_root(
    root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        write(root / "domainnet" / domain, ["fox", "hen", "wolf"], each=2)
    write(root / "mine", ["0", "1"], each=2)
    (root / "mine" / "names.txt").write_text("red fox\nhen\n")
    flags = [
        "--root", str(root), "--local", "--ways", "2", "--checkpoint", str(tiny_model), "--name", "m",
        "--datasets", str(root), "--set", "sets.dn={kind: domainnet, path: domainnet}",
        "--set", f"sets.mine={{kind: folder, path: mine, alone: true, classnames: {root}/mine/names.txt}}",
        "--set", "sets.mine.templates=['a {c}']",
    ]  # fmt: skip
    assert evaluate.main(flags) == 2
    assert "reference: say which set the others are shifts of; there is pets, dn_clipart" in capsys.readouterr().err
    assert evaluate.main([*flags, "--reference", "dn_real", "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["retrieval"] == ["coco"]
    assert evaluate.main([*flags, "--reference", "dn_real"]) == 0
    found = result(root, "m").eval
    assert list(found) == ["dn_real", *(name for name in plan["sets"] if name != "dn_real")]
    assert (found["dn_clipart"].n, found["dn_clipart"].classes) == (6, 3)
    assert (found["pets"].classes, found["pets"].n) == (2, 8)  # fox and hen
    assert (found["mine"].reference, found["mine"].classes, found["mine"].protocol) == (None, 2, "expected_2_way")
    coco = result(root, "m").retrieval["coco"]
    assert (coco.n, coco.captions) == (12, 24)
    assert set(coco.metrics) == {f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)}
    assert results.main(["m", "--root", str(root), "--format", "datacomp", "--out", str(root / "theirs")]) == 0
    rows = {row.dataset: row.metrics for row in read_rows(root / "theirs")}
    assert rows["coco"].items() >= coco.metrics.items()
    capsys.readouterr()
    assert evaluate.main([*flags, "--reference", "dn_real"]) == 0
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 1
    (root / "mine" / "1" / "2.png").write_bytes(picture(7))
    assert evaluate.main([*flags, "--reference", "dn_real"]) == 0
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("sets.x={kind: imagenet_r, path: none}", "none: no such folder"),
        ("sets.x={kind: imagenet_q, path: none}", "field 'sets.x.kind': input should be 'webdataset'"),
        ("sets.x={kind: folder, pth: none}", "unknown key 'sets.x.pth'; did you mean 'path'?"),
        (
            "sets.x={kind: folder, path: mine, protocol: objectnet_names}",
            "`protocol` is for kind objectnet, not folder",
        ),
        ("sets.x={kind: webdataset, path: mine, templates: single}", "a webdataset has its own file of templates"),
        ("sets.x={kind: folder, path: mine, templates: [a photo]}", "sets.x.templates: 'a photo' has no {c}"),
        ("sets.x={kind: folder, path: mine, templates: quite}", "quite is missing"),
        ("sets.x={kind: folder, path: mine, classnames: {a: hen}}", "1 folders are not among the 1 classes of x: b"),
        ("sets.x={kind: folder, path: mine, classnames: {a: hen, b: fox, c: cup}}", "1 folders are missing of the 3"),
        ("sets.x={kind: folder, path: empty}", "b holds no pictures"),
        ("sets.pets={kind: folder, path: mine}", "sets.pets: "),
        ("sets.a/b={kind: folder, path: mine}", "'a/b' is no name for a set"),
        ("sets.x={kind: folder, path: corrupt}", "x: b/0.png: picture 1: "),
    ],
)
def test_what_is_wrong_with_a_set_is_one_line(
    given: str, says: str, root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "empty", "corrupt"):
        write(root / name, ["a", "b"])
    (root / "empty" / "b" / "0.png").unlink()
    (root / "corrupt" / "b" / "0.png").write_bytes(b"no picture")
    alone = ["--set", "sets.x.alone=true"] if given.startswith("sets.x=") else []
    code = evaluate.main(
        ["--root", str(root), "--local", "--ways", "2", "--reference", "pets", "--datasets", str(root),
         "--checkpoint", str(tiny_model), "--set", given, *alone]
    )  # fmt: skip
    err = capsys.readouterr().err
    assert code == (3 if "corrupt" in given else 2)
    assert says in err
    assert "Traceback" not in err
    assert code == 3 or err.strip().count("\n") == 0


def test_embeddings_made_elsewhere_give_what_the_model_gives(
    root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--local", "--ways", "2", "--method", "zero_shot,umfc", "--set", "test_time.clusters=2"]
    made = root / "made"
    model = ["--root", str(root), "--checkpoint", str(tiny_model), "--name", "m", "--save-embeddings", str(made)]
    assert evaluate.main([*base, *model]) == 0
    assert sorted(path.name for path in (made / "m").iterdir()) == ["coco.npz", "pets.npz"]
    other = ["--root", str(root / "other"), "--embeddings", str(made / "m")]
    assert evaluate.main([*base, *other]) == 0
    for name in ("m", "m+umfc"):
        first, second = result(root, name), result(root / "other", name)
        assert (first.eval, first.retrieval) == (second.eval, second.retrieval)
    assert second.model == str(made / "m")
    assert probe.main(["--root", str(root / "other"), "--local", "--embeddings", str(made / "m"), "--test", "pets",
                       "--train", "pets", "--shots", "0,2"]) == 0  # fmt: skip
    capsys.readouterr()
    assert evaluate.main([*other, "--local", "--method", "tpt"]) == 2
    assert "method: tpt tunes a model's prompt on pictures; embeddings are neither" in capsys.readouterr().err
    (made / "m" / "pets.npz").unlink()
    assert evaluate.main([*base, *model]) == 0
    assert (made / "m" / "pets.npz").is_file()
    shutil.rmtree(root / "eval" / "pets")
    assert evaluate.main(["--root", str(root), "--local", "--checkpoint", str(tiny_model), "--name", "captions"]) == 0
    assert list(result(root, "captions").retrieval) == ["coco"]


def test_a_probe_is_fitted_on_the_train_split_and_reuses_features(
    root: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--root", str(root), "--local", "--checkpoint", str(tiny_model), "--name", "m", "--test", "pets",
        "--shots", "0,1,2,all", "--seeds", "2",
    ]  # fmt: skip
    assert probe.main(flags) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)["figures"]["m"]
    assert [(one["shots"], one["pictures"], one["n"]) for one in figures] == [
        (0, 0, 16), (1, 4, 16), (2, 8, 16), (None, 24, 16),
    ]  # fmt: skip
    assert all(one["low"] <= one["acc1"] <= one["high"] for one in figures)
    assert "probe: m: pets: 2 shots of pets/train: " in err
    assert len(list((root / "eval_cache").rglob("*.npy"))) == 2
    assert probe.main(flags) == 0
    assert json.loads(capsys.readouterr().out)["shards_skipped"] == 1
    assert probe.main([*flags, "--test", "cats"]) == 2
    assert "no set 'cats'; there is pets" in capsys.readouterr().err.replace("cats/train", "cats")
    assert probe.main([*flags, "--shots", "few"]) == 2
    assert "shots: 'few' is no number of pictures" in capsys.readouterr().err


def test_a_worker_reads_the_sets_itself(root: Path) -> None:
    sets = Sets(Root(str(root)), "eval", {"x": SetConfig(kind="folder", path="mine")}, str(root))
    assert (sets.names, sets.retrieval) == (["pets", "x"], ["coco"])
    assert sets.choose(["pets/train"]).load().tasks[0].labels.tolist()[:4] == [0, 1, 2, 3]
