"""The command line: help, exit codes, one JSON line on stdout, errors of one line on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, main
from pipelines.sources import SOURCES
from tests.pipelines.chain import cc12m_dump


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--root" in text
    assert f"headwater {command}" in text


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mixx"]) == 2
    assert "unknown command 'mixx'" in capsys.readouterr().err


def test_ingest_prints_one_json_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = cc12m_dump(tmp_path, 7)
    code = main(["ingest", "--root", str(tmp_path / "root"), "--source", "cc12m", "--metadata", str(dump)])
    out = capsys.readouterr().out
    assert code == 0
    assert json.loads(out) | {"counts": {"ok": 7}, "rows_in": 7} == json.loads(out)
    assert out.count("\n") == 1


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = cc12m_dump(tmp_path, 3)
    root = tmp_path / "root"
    assert main(["ingest", "--root", str(root), "--source", "cc12m", "--metadata", str(dump), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert not root.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ingest", "--source", "flickr", "--metadata", "."], f"expected one of {', '.join(sorted(SOURCES))}"),
        (["ingest", "--source", "cc12m"], "field 'metadata': field required"),
        (["ingest", "--source", "cc12m", "--metadata", "nowhere"], "nowhere"),
        (["ingest", "--source", "cc12m", "--metadata", ".", "--set", "sede=1"], "did you mean 'seed'?"),
        (["ingest", "--source", "cc12m", "--metadata", ".", "--set", "seed"], "expected KEY=VALUE"),
        (["download"], "nothing ingested"),
        (["score", "--model", "ViT-B-23"], "nothing downloaded"),
        (["dedupe"], "nothing downloaded"),
        (["index"], "nothing downloaded"),
        (["report", "--checks", "none.json"], "checks none.json: cannot be read"),
        (["ingest", "--source", "cc12m", "--metadata", "s4://x"], "metadata s4://x: Protocol not known: s4"),
        (["mix", "--config", "none.yaml"], "none.yaml: no such file"),
        (["train"], "field 'train': field required"),
        (["train", "--set", "train.model=demo/model"], "no mixture yet"),
        (["evaluate", "--reference", "imagenet"], "no model yet"),
        (["sql", "SELECT 1"], "run `headwater index"),
        (["explain", "00"], "run `headwater index"),
        (["mix-diff", "a", "b"], "run `headwater index"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([arguments[0], "--root", str(tmp_path), *arguments[1:]])
    printed = capsys.readouterr()
    assert code == 2
    assert says in printed.err
    assert printed.err.strip().count("\n") == 0
    assert printed.out == ""


def test_a_mistyped_root_is_one_line_and_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in (tmp_path / "none", "s4://none"):
        assert main(["index", "--root", str(root)]) == 2
        assert capsys.readouterr().err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = cc12m_dump(tmp_path, 2)
    (tmp_path / "root").write_text("")
    assert main(["ingest", "--root", str(tmp_path / "root"), "--source", "cc12m", "--metadata", str(dump)]) == 1
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("headwater ingest: ")
    assert "\n" not in printed


def test_a_job_runs_as_a_script_from_any_directory(tmp_path: Path) -> None:
    """As `ray submit` does it: the bare script, another current directory."""
    script = tmp_path / "ingest.py"
    script.write_text((Path(__file__).parents[2] / "pipelines" / "ingest.py").read_text())
    dump = cc12m_dump(tmp_path, 2)
    command = [sys.executable, str(script), "--root", str(tmp_path / "root"), "--source", "cc12m", "--metadata"]
    done = subprocess.run([*command, str(dump)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_in"] == 2
