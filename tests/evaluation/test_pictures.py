"""Pictures of evaluation sets: both forms, names, order, and what is refused in one line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from evaluation.pictures import eval_files, eval_pictures, eval_sets
from evaluation.tasks import load_task, write_task
from filters.errors import InputError
from tests.evaluation.conftest import MakeTask


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_task_gives_keys_and_classes_in_its_order(tmp_path: Path, make_task: MakeTask) -> None:
    write_task(tmp_path / "set", make_task("set", ["cat", "dog"], per_class=3))
    task = load_task(tmp_path / "set")
    found = list(eval_pictures(tmp_path / "set"))
    assert [name for name, _ in found] == [
        f"{key} ({task.classnames[label]})" for key, label in zip(task.keys, task.labels.tolist(), strict=True)
    ]
    assert [data for _, data in found] == task.images
    assert [path.name for path in eval_files(tmp_path / "set")] == ["0.tar", "1.tar", "2.tar", "3.tar"]


def test_a_set_without_classes_gives_keys(tmp_path: Path) -> None:
    write_tar(tmp_path / "test" / "0.tar", {"a.jpg": b"1", "a.txt": b"a caption"})
    (tmp_path / "test" / "nshards.txt").write_text("1\n")
    assert list(eval_pictures(tmp_path)) == [("test/0/a", b"1")]


def test_other_tars_and_members_out_of_order(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", {"x/1.cls": b"0", "x/2.jpg": b"two", "x/1.PNG": b"one"})
    write_tar(tmp_path / "a" / "c.tar", {"./1.webp": b"three"})
    assert list(eval_pictures(tmp_path)) == [("a/c/1", b"three"), ("b/x/1", b"one"), ("b/x/2", b"two")]


def test_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("dog/2.JPG", "cat/1.png", "cat/labels.csv", ".hidden/3.png", "dog/.4.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    assert list(eval_pictures(tmp_path)) == [("cat/1.png", b"cat/1.png"), ("dog/2.JPG", b"dog/2.JPG")]


def test_names_of_sets(tmp_path: Path) -> None:
    for name in ("one", "Two", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert eval_sets(tmp_path) == ["Two", "one"]
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.jpg lies beside the sets"):
        eval_sets(tmp_path)


def test_no_sets(tmp_path: Path, make_task: MakeTask) -> None:
    with pytest.raises(InputError, match="no evaluation sets here"):
        eval_sets(tmp_path / "absent")
    write_task(tmp_path / "set", make_task("set", ["cat", "dog"]))
    with pytest.raises(InputError, match="is an evaluation set itself"):
        eval_sets(tmp_path / "set")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"a.cls": b"0"}, "member a has cls; expected a picture"),
        ({"a.png": b"1"}, "has label 'no .cls'"),
        ({"a.png": b"1", "a.cls": b"2"}, "has label '2'; expected 0 to 1"),
    ],
)
def test_broken_samples_are_named(tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    write_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "test" / "nshards.txt").write_text("1\n")
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match=says):
        list(eval_pictures(tmp_path))


def test_missing_and_cut_tars_and_empty_sets(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        list(eval_pictures(tmp_path / "empty"))
    write_tar(tmp_path / "cut" / "0.tar", {"a.jpg": bytes(4000)})
    whole = (tmp_path / "cut" / "0.tar").read_bytes()
    (tmp_path / "cut" / "0.tar").write_bytes(whole[:2000])
    with pytest.raises(InputError, match="is not a whole tar"):
        list(eval_pictures(tmp_path / "cut"))
    (tmp_path / "cut" / "test").mkdir()
    for text, says in (("2", "promises 2 tars"), ("x", "says 'x'")):
        (tmp_path / "cut" / "test" / "nshards.txt").write_text(text)
        with pytest.raises(InputError, match=says):
            list(eval_pictures(tmp_path / "cut"))
