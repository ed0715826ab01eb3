"""A published mixture is proved from catalog and YAML, and whatever was changed is said in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import build_mix
from pipelines.cli import main
from pipelines.sql import why_out
from pipelines.store.catalog import FILE, connect
from pipelines.store.root import Root
from tests.pipelines.test_expression import fill

PAGE = {
    "name": "m",
    "total": 12,
    "where": "clip_score >= 0.1 -- not the worst",
    "top_fraction": 0.9,
    "sources": [{"source": "ant", "caption": "captions[1] || ' ' || caption", "where": "caption <> 'caption 9'"}],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with duckdb.connect(str(folder / FILE)) as con:
        fill(con)
    (folder / "mix.yaml").write_text(yaml.safe_dump(PAGE))
    assert main(["mix", "--root", str(folder), "--config", str(folder / "mix.yaml")]) == 0
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "root")
    return tmp_path / "root"


def verify(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = main(["mix", "--root", str(folder), "--verify", "m", *more])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "m is" in line]
    assert len(lines) == 1
    return code, json.loads(printed.out), lines[0]


def test_a_mixture_is_proved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, line = verify(folder, capsys, "--config", str(folder / "mix.yaml"))
    assert (code, found["files"], found["redrawn"], found["bytes"], found["problems"]) == (0, True, True, True, [])
    assert "12 samples follow" in line
    lock = json.loads((folder / "mixes/m/mix.lock.json").read_text())
    assert len(lock["warnings"]) == 2
    assert lock["attrition"][0]["steps"][-1] == ["top_in_source", 16]


def test_another_version_leaves_the_bytes_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_lock(folder, lambda lock: lock["versions"].update(pyarrow="1.0"))
    code, found, _ = verify(folder, capsys)
    assert code == 0
    assert found["bytes"].startswith("not compared: pyarrow 1.0 then")


def change_lock(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "mixes/m/mix.lock.json"
    lock = json.loads(path.read_text())
    change(lock)
    path.write_text(json.dumps(lock))


def change_catalog(folder: Path, statement: str) -> None:
    with duckdb.connect(str(folder / FILE)) as con:
        con.execute(statement)


def drawn(folder: Path) -> str:
    return str(pq.read_table(folder / "mixes/m/manifest.parquet")["uid"][0])


def change_rows(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / "mixes/m/manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: change_rows(f, lambda t: t.slice(1)), "manifest.parquet has the digest"),
        (lambda f: change_rows(f, lambda t: t.take(pa.array(range(11, -1, -1)))), "manifest.parquet has the digest"),
        (lambda f: change_rows(f, lambda t: t.set_column(0, "uid", pa.array(["x"] * 12))), "cannot be read"),
        (lambda f: (f / "mixes/m/manifest.parquet").write_bytes(b"PAR1"), "manifest.parquet cannot be read"),
        (lambda f: (f / "mixes/m/uids.npy").write_bytes(b""), "uids.npy cannot be read"),
        (lambda f: np.save(f / "mixes/m/uids.npy", np.zeros(12, "u8,u8")), "does not hold the manifest's uids"),
        (lambda f: change_lock(f, lambda lock: lock.update(samples=11)), "rows by source, the lock says"),
        (lambda f: change_lock(f, lambda lock: lock.update(manifest_sha256="0")), "other bytes at equal versions"),
        (lambda f: change_lock(f, lambda lock: lock["config"].update(seed=1)), "entered"),
        (lambda f: change_catalog(f, f"DELETE FROM samples WHERE uid = '{drawn(f)}'"), "1 entered, 1 left"),
        (lambda f: change_catalog(f, "UPDATE samples SET captions = ['new']"), "same samples with other captions"),
        (lambda f: change_catalog(f, "DELETE FROM samples WHERE clip_score > 0.5"), "cannot be drawn from this"),
    ],
)  # fmt: skip
def test_whatever_was_changed_is_said(
    folder: Path, change: Callable[[Path], Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    code, found, line = verify(folder, capsys)
    assert code == 1
    assert not found["verified"]
    assert says in line


def test_another_yaml_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mix.yaml").write_text(yaml.safe_dump({**PAGE, "total": 11, "seed": 3}))
    code, _, line = verify(folder, capsys, "--config", str(folder / "mix.yaml"))
    assert code == 1
    assert "mix.yaml differs from the lock in seed, total" in line


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: shutil.rmtree(f / "mixes/m"), "no mixture; there is none"),
        (lambda f: (f / "mixes/m/mix.lock.json").write_text("[]"), "is not a lock file of this version"),
        (lambda f: (f / "mixes/m/mix.lock.json").write_text("{"), "cannot be read"),
        (
            lambda f: change_lock(f, lambda lock: lock["config"].update(where="true; DROP TABLE samples")),
            "not one SQL",
        ),
    ],
)
def test_nothing_to_prove(
    folder: Path, change: Callable[[Path], Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    assert main(["mix", "--root", str(folder), "--verify", "m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_explain_names_the_mixtures_own_rule(folder: Path) -> None:
    change_catalog(folder, "ALTER TABLE samples ADD COLUMN reason VARCHAR")
    change_catalog(folder, "UPDATE samples SET status = 'skipped', reason = 'robots' WHERE caption = 'caption 1'")
    root = Root(str(folder))
    lock = root.read_json("mixes", "m", "mix.lock.json")
    with connect(root) as con:
        samples = con.sql("SELECT * FROM samples").to_arrow_table().to_pylist()
        found = {int(sample["caption"].split()[1]): why_out(con, sample, lock) for sample in samples}
        assert why_out(con, {**samples[0], "source": "bee"}, lock) == "out: not of its sources"
        assert why_out(con, samples[0], None) == "out: its lock file is not there, which would say why"
        broken = {**lock, "config": {**lock["config"], "where": "nope > 1"}}
        assert "`samples` has no column 'nope'" in why_out(con, samples[0], broken)
    assert found[0] == "out: its `where` does not hold: clip_score >= 0.1 -- not the worst"
    assert found[1] == "out: skipped (robots)"
    assert found[2] == "out: clip_score 0.10000000149011612 is not among its top fraction"
    assert found[9] == "out: its `where` for ant does not hold: caption <> 'caption 9'"
    assert found[15] == "out: not drawn: 16 samples of ant passed its rules for 12 places"


def test_the_script_alone_works_from_any_folder(folder: Path, tmp_path: Path) -> None:
    """As `ray submit` does: the script is copied to a home folder and run there, with words for arguments."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(build_mix.__file__, home / "build_mix.py")
    project = Path(build_mix.__file__).parents[1]
    for script in (home / "build_mix.py", Path(build_mix.__file__)):
        for more in (["--config", str(folder / "mix.yaml"), "--name", "again"], ["--verify", "again"]):
            command = [sys.executable, str(script), "--root", str(folder), *more]
            done = subprocess.run(
                command, cwd=home, env={**os.environ, "PYTHONPATH": str(project)}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["mixture"] == "again"
    assert sorted(path.name for path in home.iterdir() if path.name != "__pycache__") == ["build_mix.py"]
    first, again = (json.loads((folder / f"mixes/{name}/mix.lock.json").read_text()) for name in ("m", "again"))
    assert first["digest"] == again["digest"]
