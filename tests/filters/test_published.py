"""What two writers, or one that was killed, leave of a file and beside it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from filters.published import host, published


def test_a_temporary_file_of_a_killed_writer_goes_with_the_next_write(tmp_path: Path) -> None:
    folder = tmp_path / ".writing"
    folder.mkdir()
    (folder / "a.tar.0123").write_bytes(b"half")
    (folder / "b.tar.0123").write_bytes(b"another's")
    with published(tmp_path / "a.tar", folder) as writing:
        writing.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.tar", "b.tar.0123"]


def test_a_temporary_file_goes_only_when_its_writer_is_dead(tmp_path: Path) -> None:
    """Of two writers of one file neither takes the other's away, on this machine or another."""
    path, folder = tmp_path / "a.tar", tmp_path / ".writing"
    folder.mkdir()
    with subprocess.Popen(["true"]) as dead:
        pass
    here = hashlib.sha256(host().encode()).hexdigest()[:16]
    kept = [f"a.tar.{here}.{os.getppid()}.1", "a.tar.elsewhere.7.2"]
    with published(path, folder) as first:
        for name in [*kept, f"a.tar.{here}.{dead.pid}.3", "a.tar.elsewhere.7.4"]:
            (folder / name).write_bytes(b"half")
        os.utime(folder / "a.tar.elsewhere.7.4", (0, 0))
        with published(path, folder) as second:
            second.write_bytes(b"second")
        first.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)


def test_what_was_not_written_to_its_end_is_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    try:
        with published(path) as writing:
            writing.write_bytes(b"half")
            assert writing.name.startswith(".")
            raise OSError("disk full")
    except OSError:
        pass
    assert list(path.parent.iterdir()) == []
