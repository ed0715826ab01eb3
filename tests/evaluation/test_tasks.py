"""Task folders: what is written is read, by us and by plain tar tools, and each thing that can be wrong is named."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.classes import restrict, shared_classes, subset
from evaluation.tasks import Task, load_task, write_task
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask

NAMES = ["dog face", "cat face", "red heart", "crêpe"]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def rewrite(tar: Path, change: dict[str, bytes | None]) -> None:
    """Replace, add or (None) remove members of a tar."""
    with tarfile.open(tar) as archive:
        parts = {m.name: stream.read() for m in archive if (stream := archive.extractfile(m)) is not None}
    parts.update({name: data for name, data in change.items() if data is not None})
    with tarfile.open(tar, "w") as archive:
        for name, data in parts.items():
            if change.get(name, b"") is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path, make_task: MakeTask) -> Path:
    write_task(tmp_path / "set", make_task("set", NAMES, family="noto"))
    return tmp_path / "set"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_round_trip(tmp_path: Path, make_task: MakeTask, kind: str) -> None:
    task = make_task("set", NAMES, family="noto", kind=kind)
    write_task(tmp_path / "set", task)
    back = load_task(tmp_path / "set")
    assert back.images == task.images and back.labels.tolist() == task.labels.tolist()
    assert back.labels.dtype == np.int64
    assert replace(back, images=[], labels=task.labels) == replace(task, images=[])
    assert load_task(tmp_path / "set", name="other").name == "other"


def test_same_task_same_bytes(tmp_path: Path, make_task: MakeTask) -> None:
    write_task(tmp_path / "a", make_task("set", NAMES))
    write_task(tmp_path / "b", make_task("set", NAMES))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert not list(tmp_path.glob(".*"))


def test_layout_is_clip_benchmarks(folder: Path) -> None:
    """File names, member names and their order, as CLIP_benchmark's converter writes them."""
    assert (folder / "test" / "nshards.txt").read_text().strip() == "4"
    assert (folder / "classnames.txt").read_text().splitlines() == NAMES
    with tarfile.open(folder / "test" / "1.tar") as archive:
        members = archive.getmembers()
        assert [m.name for m in members] == ["s0000002.png", "s0000002.cls", "s0000003.png", "s0000003.cls"]
        assert {m.mtime for m in members} == {0}
        stream = archive.extractfile("s0000002.cls")
        assert stream is not None and int(stream.read()) == 1


def test_write_refuses(tmp_path: Path, make_task: MakeTask) -> None:
    task = make_task("set", NAMES)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="never changed in place"):
        write_task(tmp_path / "there", task)
    with pytest.raises(InputError, match="fewer than the 9 tars"):
        write_task(tmp_path / "few", task, tars=9)
    with pytest.raises(InputError, match="picture 0 is not WebP, PNG or JPEG"):
        write_task(tmp_path / "gif", replace(task, images=[b"GIF89a", *task.images[1:]]))
    with pytest.raises(InputError, match="one entry a line"):
        write_task(tmp_path / "lines", replace(task, classnames=["a\nb", *NAMES[1:]]))
    assert not (tmp_path / "gif").exists()


def test_missing_files(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"classnames\.txt is missing"):
        load_task(tmp_path / "empty")
    (folder / "test" / "2.tar").unlink()
    with pytest.raises(InputError, match=r"2\.tar is missing; nshards\.txt promises 4"):
        load_task(folder)
    (folder / "test" / "nshards.txt").write_text("four\n")
    with pytest.raises(InputError, match="says 'four'"):
        load_task(folder)


def test_no_pictures(folder: Path) -> None:
    for number in range(4):
        with tarfile.open(folder / "test" / f"{number}.tar", "w"):
            pass
    with pytest.raises(InputError, match="holds no pictures"):
        load_task(folder)


def test_other_kind_of_task(folder: Path) -> None:
    (folder / "dataset_type.txt").write_text("retrieval\n")
    with pytest.raises(InputError, match="is a retrieval set"):
        load_task(folder)


def test_bad_text_files(folder: Path) -> None:
    (folder / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(InputError, match=r"no \{c\} where"):
        load_task(folder)
    (folder / "classnames.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match="has an empty line"):
        load_task(folder)


def test_class_without_picture(folder: Path) -> None:
    with (folder / "classnames.txt").open("a") as file:
        file.write("unicorn\n")
    with pytest.raises(InputError, match=r"1 classes .* the first is 'unicorn'"):
        load_task(folder)


@pytest.mark.parametrize("label", [b"4", b"-1", b"dog", b""])
def test_label_out_of_range(folder: Path, label: bytes) -> None:
    rewrite(folder / "test" / "1.tar", {"s0000003.cls": label})
    with pytest.raises(InputError, match=r"1\.tar: member s0000003\.cls has label .*expected 0 to 3"):
        load_task(folder)


def test_half_sample(folder: Path) -> None:
    rewrite(folder / "test" / "0.tar", {"s0000001.cls": None})
    with pytest.raises(InputError, match=r"member s0000001 has png; expected a picture .* and a \.cls"):
        load_task(folder)


@pytest.mark.parametrize("keep", [0, 10, -100])
def test_corrupt_picture(folder: Path, keep: int) -> None:
    """Not a picture, cut in its header, cut in its pixels."""
    image = load_task(folder).images[0]
    rewrite(folder / "test" / "0.tar", {"s0000000.png": image[:keep]})
    with pytest.raises(InputError, match=r"0\.tar: member s0000000\.png: .*not a whole picture"):
        load_task(folder)


def test_corrupt_tar(folder: Path) -> None:
    (folder / "test" / "3.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(InputError, match=r"3\.tar is not a whole tar"):
        load_task(folder)


def test_restrict(make_task: MakeTask) -> None:
    task = make_task("set", NAMES)
    small = restrict(task, ["red heart", "dog face"])
    assert small.labels.tolist() == [1, 1, 0, 0]
    assert small.images == [*task.images[0:2], *task.images[4:6]]
    assert small.keys == ["s0000000", "s0000001", "s0000004", "s0000005"]
    assert small.classnames == ["red heart", "dog face"] and small.templates == task.templates
    assert subset(task, ["red heart", "dog face"]).classes == [[2], [0]]


def test_restrict_refuses(make_task: MakeTask) -> None:
    task = make_task("set", NAMES)
    with pytest.raises(InputError, match="has no class 'wolf'"):
        restrict(task, ["dog face", "wolf"])
    with pytest.raises(InputError, match="stands twice in the names asked for"):
        restrict(task, ["dog face", "dog face"])
    with pytest.raises(InputError, match="stands twice in set"):
        restrict(replace(task, classnames=["a", "a", "b", "c"]), ["a"])
    with pytest.raises(InputError, match="no classes are left"):
        restrict(task, [])


def test_shared_classes_keep_the_first_ones_order(make_task: MakeTask) -> None:
    one: Task = make_task("one", NAMES)
    two: Task = make_task("two", ["red heart", "zebra", "dog face"])
    assert shared_classes(one, two) == ["dog face", "red heart"]


def test_members_in_folders_and_names_with_odd_line_ends(tmp_path: Path, make_task: MakeTask) -> None:
    """`tar c ./` puts ./ before each name; U+2028 and the form feed end no line, as CLIP_benchmark reads it."""
    names = ["dog\u2028face", "cat\x0cface", "red heart", "x"]
    folder = tmp_path / "set"
    write_task(folder, make_task("set", names))
    for tar in (folder / "test").glob("*.tar"):
        with tarfile.open(tar) as archive:
            parts = {m.name: stream.read() for m in archive if (stream := archive.extractfile(m)) is not None}
        with tarfile.open(tar, "w") as archive:
            for name, data in parts.items():
                info = tarfile.TarInfo(f"./v1.0/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    task = load_task(folder)
    assert task.classnames == names
    assert task.keys[0] == "v1.0/s0000000" and task.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    (folder / "classnames.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(InputError, match=r"classnames\.txt is not UTF-8"):
        load_task(folder)


def test_a_whole_task_may_have_a_name_twice(make_task: MakeTask) -> None:
    """ImageNet's names hold `missile` and `sunglasses` twice; sets with the same list need no matching by name."""
    names = ["missile", "dog", "missile"]
    one, two = make_task("one", names), make_task("two", list(names))
    part = subset(one, shared_classes(one, two))
    assert part.labels.tolist() == [0, 0, 1, 1, 2, 2] and part.classes == [[0], [1], [2]]
    with pytest.raises(InputError, match="stands twice"):
        subset(one, ["dog", "missile"])
