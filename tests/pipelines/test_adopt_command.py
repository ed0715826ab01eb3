"""Which tars are adopted, under which numbers, and what is said of those that cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from filters.errors import ConfigError, InputError
from pipelines import adopt
from pipelines.store.root import Root
from tests.pipelines.adoptable import settings, study, write_tar


def test_numbers_are_the_names_own_where_they_tell_the_tars_apart(tmp_path: Path) -> None:
    def numbers(*names: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            write_tar(folder / name, [])
        found = adopt.plan(settings(Root(str(tmp_path / "root")), folder))["shards"]
        assert list(found.values()) == sorted(names)
        return list(found)

    assert numbers("00000.tar", "00007.tar") == ["00000", "00007"]
    assert numbers("shard_000003.tar", "shard_000012.tar") == ["000003", "000012"]
    assert numbers("12/345.tar", "13/346.tar") == ["345", "346"]
    assert numbers("9.tar", "10.tar") == ["00000", "00001"]
    assert numbers("a0.tar", "b0.tar") == ["00000", "00001"]
    assert numbers("train.tar") == ["00000"]


def test_globs_name_tars_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path / "study", tars=3)
    monkeypatch.chdir(tmp_path)
    root = Root(str(tmp_path / "root"))
    assert list(adopt.plan(settings(root, "study/shard_00000[02].tar"))["shards"]) == ["000000", "000002"]
    assert list(adopt.plan(settings(root, "*/*.tar"))["shards"]) == ["000000", "000001", "000002"]


def test_compressed_tars_beside_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study(tmp_path / "study")
    (folder / "shard_000002.tar.gz").touch()
    adopt.run(settings(Root(str(tmp_path / "root")), folder))
    assert "1 compressed tars are left out, from shard_000002.tar.gz" in capsys.readouterr().err


def test_what_cannot_be_adopted_is_said_in_one_line(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").touch()
    with pytest.raises(InputError, match=r"no tars here; 0\.tar\.gz is compressed"):
        adopt.run(settings(root, tmp_path / "packed"))
    with pytest.raises(InputError, match=r"/nowhere: no such folder or file; check the path"):
        adopt.run(settings(root, tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"/nowhere/\*\.tar: no file has a name like this"):
        adopt.run(settings(root, tmp_path / "nowhere" / "*.tar"))
    with pytest.raises(InputError, match=r"/study/sizes\.json: sizes\.json is no tar; name files \*\.tar"):
        adopt.run(settings(root, folder / "sizes.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"/empty: no tars in this folder or below; name the one that holds"):
        adopt.run(settings(root, tmp_path / "empty"))
    with pytest.raises(ConfigError, match="only local tars"):
        adopt.run(settings(root, "s3://bucket/tars"))
    with pytest.raises(ConfigError, match="needs a local folder"):
        adopt.run(settings(Root("memory://root"), folder))
    shutil.copytree(folder, root.local("shards", "here"))
    with pytest.raises(InputError, match="lies in the root's shards"):
        adopt.run(settings(root, root.local("shards", "here")))
    with pytest.raises(InputError, match="holds 2 shards, from shard_000000, that are not of these tars"):
        adopt.run(settings(root, folder, "here"))
    root.write_bytes(b"", "metadata", "mine", "00000.parquet")
    with pytest.raises(InputError, match="was ingested; choose another --source"):
        adopt.run(settings(root, folder))


@pytest.mark.parametrize("place", range(7))
def test_the_tars_may_be_named_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int) -> None:
    folder = study(tmp_path / "study")
    flags = [["--dry-run"], ["--source", "mine"], ["--root", str(tmp_path / "root")], ["--local"], ["--cpus=1"], []]
    words = [word for flag in [*flags[:place], [str(folder)], *flags[place:]] for word in flag]
    assert adopt.main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["shards"] == {n: f"shard_{n}.tar" for n in ("000000", "000001")}


def test_the_tars_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(study(tmp_path / "study"))
    flags = ["--root", str(tmp_path / "root"), "--source", "mine", "--local"]
    assert adopt.main([*flags, "--tars", folder]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"success": 12}
    assert adopt.main([*flags, "--tars", folder, "other"]) == 2
    assert "headwater adopt: other: --tars says the same; give one of them" in capsys.readouterr().err
