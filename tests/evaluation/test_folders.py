from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image

from evaluation.classes import by_class, head_names, restrict, shared_classes, subset
from evaluation.folders import (
    DOMAINS,
    any_folder,
    class_folders,
    domainnet,
    imagenet,
    imagenet_ids,
    objectnet,
    read_names,
    templates,
    without_border,
)
from evaluation.images import FileImages
from filters.errors import InputError

DATA = Path(__file__).parents[2] / "evaluation" / "data"
CLASSES = {"n1": "tench", "n2": "goldfish", "n3": "shark"}


def picture(colour: tuple[int, int, int] = (9, 9, 9), side: int = 8, border: int = 0) -> bytes:
    image = Image.new("RGB", (side, side), (255, 0, 0))
    image.paste(colour, (border, border, side - border, side - border))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write(folder: Path, names: list[str], each: int = 1) -> Path:
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            (folder / name / f"{i}.png").write_bytes(picture((number % 256, number // 256, i)))
    return folder


def test_labels_follow_names_and_pictures_are_read_when_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, ["n3", "n1", "n2"], each=2)
    task = class_folders(folder, CLASSES, ["{c}"], "x")
    assert task.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert task.classnames == list(CLASSES.values())
    assert task.keys == ["n1/0.png", "n1/1.png", "n2/0.png", "n2/1.png", "n3/0.png", "n3/1.png"]
    assert task.images[0] == (folder / "n1" / "0.png").read_bytes()
    assert task.images[1:3] == [(folder / "n1/1.png").read_bytes(), (folder / "n2/0.png").read_bytes()]
    part = restrict(task, ["shark", "tench"])
    assert isinstance(part.images, FileImages)
    assert part.images[0] == (folder / "n1" / "0.png").read_bytes()
    (folder / "n1" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png cannot be read: No such file"):
        task.images[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "1 folders are missing of the 3 classes of x: n2"),
        ("extra", "1 folders are not among the 3 classes of x: zz"),
        ("empty", "n2 holds no pictures"),
        ("none", "no such folder"),
        ("one level off", "3 folders are missing of the 3 classes of x: n1, n2, n3"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(change: str, says: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", list(CLASSES))
    if change == "missing":
        shutil.rmtree(folder / "n2")
    elif change == "extra":
        write(folder, ["zz"])
    elif change == "empty":
        (folder / "n2" / "0.png").unlink()
    elif change == "none":
        folder = tmp_path / "elsewhere"
    else:
        folder = tmp_path
    with pytest.raises(InputError, match=says):
        class_folders(folder, CLASSES, ["{c}"], "x")


def test_the_label_spaces_of_imagenet_s_family(tmp_path: Path) -> None:
    """A7 and T12: R and A have 200 classes each, 86 of them in both; V2's folders are numbers, in numeric order."""
    wnids = (DATA / "imagenet_classes.csv").read_text().splitlines()[1:]
    by_set = {
        name: [line.split(",")[1] for line in wnids if line.split(",")[column] == "1"]
        for name, column in (("r", 2), ("a", 3))
    }
    assert [len(names) for names in by_set.values()] == [200, 200]
    assert len({*by_set["r"], *by_set["a"]}) == 314
    assert len(set(by_set["r"]) & set(by_set["a"])) == 86
    for variant in ("r", "a"):
        task = imagenet(write(tmp_path / variant, by_set[variant]), variant, templates("openai80"))
        assert len(task.classnames) == 200
        assert len(task.templates) == 80
    assert imagenet(tmp_path / "a", "a", ["{c}"]).classnames[0] == open_clip.IMAGENET_CLASSNAMES[6]
    task = imagenet(write(tmp_path / "v2", [str(i) for i in range(1000)]), "v2", templates("single"))
    assert task.labels.tolist() == list(range(1000))
    assert [Path(key).parent.name for key in task.keys] == [str(i) for i in range(1000)]
    assert task.classnames == list(open_clip.IMAGENET_CLASSNAMES)
    assert (task.name, task.templates) == ("imagenet_v2", ["a photo of a {c}."])
    with pytest.raises(InputError, match="800 folders are not among the 200 classes of imagenet_r"):
        imagenet(write(tmp_path / "all", [line.split(",")[1] for line in wnids]), "r", ["{c}"])


def test_templates_are_open_clip_s() -> None:
    assert [len(templates(kind)) for kind in ("openai80", "simple7", "single")] == [80, 7, 1]
    assert templates("openai80")[0] == "a bad photo of a {c}."


@pytest.fixture
def objectnet_folder(tmp_path: Path) -> Path:
    """A picture a class, and a class that ImageNet has not."""
    lines = (DATA / "objectnet_classes.csv").read_text().splitlines()[1:]
    folders = [line.split(",")[0] for line in lines]
    assert len(folders) == 113
    assert len({wnid for line in lines for wnid in line.split(",")[2].split(";")}) == 125
    for name in [*folders, "egg_carton"]:
        (tmp_path / "objectnet" / name).mkdir(parents=True)
        (tmp_path / "objectnet" / name / "x.png").write_bytes(picture((0, 0, 255), border=2))
    return tmp_path / "objectnet"


def test_objectnet_has_113_classes_and_no_borders(objectnet_folder: Path) -> None:
    task = objectnet(objectnet_folder, ["{c}"])
    assert len(task.images) == 113
    with Image.open(io.BytesIO(task.images[5])) as image:
        assert image.size == (4, 4)
        assert image.getcolors() == [(16, (0, 0, 255))]
    assert "t-shirt" in task.classnames
    with pytest.raises(InputError, match="nothing but border"):
        without_border(picture(side=4))


def test_objectnet_by_imagenet_s_names_takes_the_best_of_several(objectnet_folder: Path) -> None:
    own = objectnet(objectnet_folder, ["{c}"])
    task = objectnet(objectnet_folder, ["{c}"], protocol="objectnet_imagenet_ids")
    assert (own.protocol, task.protocol) == ("objectnet_names", "objectnet_imagenet_ids")
    assert len(head_names(own)) == 113
    assert head_names(task)[:2] == ["analog clock", "digital clock"]
    assert len(head_names(task)) == 125
    scores = np.zeros((2, 125), np.float32)
    scores[0, 1] = scores[1, 0] = 1
    found = by_class(task, scores)
    assert found.shape == (2, 113)
    assert found[:, 0].tolist() == [1, 1]
    assert found[:, 1:].max() == 0


def test_the_reference_on_the_classes_of_a_shift(tmp_path: Path, objectnet_folder: Path) -> None:
    """val-on-R has 200 of its classes, one of them one of two `missile`; val-on-ObjectNet 125 as 113."""
    rows = [line.split(",") for line in (DATA / "imagenet_classes.csv").read_text().splitlines()[1:]]
    val = imagenet(write(tmp_path / "val", [row[1] for row in rows]), "val", ["{c}"])
    r = imagenet(write(tmp_path / "r", [row[1] for row in rows if row[2] == "1"]), "r", ["{c}"])
    on_r, own = subset(val, shared_classes(val, r)), subset(r, shared_classes(val, r))
    assert [len(on_r.pictures), len(own.pictures)] == [200, 200]
    assert own.names == r.classnames
    assert "missile (n03773504)" in on_r.names
    on_objectnet = subset(val, shared_classes(val, objectnet(objectnet_folder, ["{c}"])))
    assert len(on_objectnet.pictures) == 125
    assert len(on_objectnet.classes) == 113
    scores = np.arange(1000, dtype=np.float32)[None].repeat(1000, axis=0)
    clocks = on_objectnet.names.index("analog clock / digital clock")
    assert on_objectnet.of(scores)[:, clocks].tolist() == [530] * 125
    assert sorted(np.bincount(on_objectnet.labels).tolist())[-9:] == [2] * 6 + [3] * 3
    # Names that are a list of ImageNet's, but for a few, stand for the same classes.
    assert imagenet_ids(["x", *r.classnames[1:]]) == r.ids
    assert imagenet_ids(["x"] * 200) == []


def test_domainnet_is_six_sets_of_the_same_classes(tmp_path: Path) -> None:
    for domain in DOMAINS:
        write(tmp_path / domain, ["The_Eiffel_Tower", "bear"])
    tasks = domainnet(tmp_path, ["{c}"])
    assert [task.name for task in tasks] == [f"domainnet_{domain}" for domain in DOMAINS]
    assert all(task.classnames == ["The Eiffel Tower", "bear"] for task in tasks)
    shutil.rmtree(tmp_path / "sketch" / "bear")
    with pytest.raises(InputError, match=r"sketch: 1 folders are missing .*bear"):
        domainnet(tmp_path, ["{c}"])


def test_any_folder_is_a_set(tmp_path: Path) -> None:
    task = any_folder(write(tmp_path / "pets", ["a_cat", "dog"]), ["a {c}"])
    assert (task.name, task.classnames) == ("pets", ["a cat", "dog"])
    with pytest.raises(InputError, match="0 class folders"):
        any_folder(tmp_path / "pets" / "dog", ["{c}"])
    wnids = any_folder(write(tmp_path / "two", ["n01443537", "n01440764"]), ["{c}"])
    assert wnids.classnames == ["tench", "goldfish"]
    assert wnids.ids == ["n01440764", "n01443537"]
    named = any_folder(tmp_path / "two", ["{c}"], names={"n01443537": "a", "n01440764": "b"})
    assert (named.classnames, named.ids, named.labels.tolist()) == (["a", "b"], [], [0, 1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\tdog\nb\tcat\n", {"a": "dog", "b": "cat"}),
        ("dog\ncat\n", {"0": "dog", "1": "cat"}),
        ("a\tdog\ncat\n", "line 2 is not `folder<tab>name`"),
        ("a\tdog\na\tcat\n", "line 2 names folder a once more"),
        ("a\tdog\tx\n", "line 1 is not"),
        ("a\n\nb\n", "has an empty line"),
    ],
)
def test_lists_of_class_names(text: str, says: dict[str, str] | str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(text)
    if isinstance(says, dict):
        assert read_names(tmp_path / "names.txt") == says
    else:
        with pytest.raises(InputError, match=says):
            read_names(tmp_path / "names.txt")
