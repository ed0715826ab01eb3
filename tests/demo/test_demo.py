"""The whole chain on real HTTP, Ray and DuckDB: found against planted, resume after kill -9, the same bytes again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo import web
from demo.evalsets import REFERENCE
from demo.run import DemoConfig, run
from evaluation.report_data import Check
from pipelines.report import Findings, all_results
from pipelines.store.catalog import connect
from pipelines.store.root import Root

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL = {"rows": 600, "samples_per_shard": 25, "samples_seen": 1280}
MODELS = 8


def published(root: Path) -> dict[str, bytes]:
    """The bytes that must be the same for the same seed: shards (but for their clocks), manifests and uid lists."""
    files = [
        *root.glob("shards/*/*.tar"), *root.glob("shards/*/*.parquet"), *root.glob("metadata/*/*.parquet"),
        *root.glob("mixes/*/manifest.parquet"), *root.glob("mixes/*/uids.npy"),
    ]  # fmt: skip
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(files)}


def findings(root: Path) -> list[Check]:
    return Findings.model_validate_json((root / "comparison.json").read_bytes()).checks


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small demo that ran to its report."""
    root = tmp_path_factory.mktemp("demo") / "root"
    run(DemoConfig(root=str(root), **SMALL))
    yield root
    web.stop(root)


def test_every_record_is_a_sample_with_the_status_and_reason_that_were_planted(demo: Path) -> None:
    truth = pq.read_table(demo / "raw" / "ground_truth.parquet").to_pylist()
    with connect(Root(str(demo))) as con:
        found = {
            (source, file, line): (status, reason)
            for source, file, line, status, reason in con.execute(
                "SELECT source::VARCHAR, file, line, status::VARCHAR, reason::VARCHAR FROM samples"
            ).fetchall()
        }
        uids = con.execute("SELECT count(DISTINCT uid) FROM samples").fetchone()
    wanted = {(r["source"], r["file"], r["line"]): (r["expected_status"], r["expected_reason"]) for r in truth}
    assert found == wanted
    assert uids == (len(truth),)


def test_exact_copies_and_exact_leaks_are_all_found(demo: Path) -> None:
    checks = {check.check: check for check in findings(demo)}
    for name in ("exact duplicates", "leaked evaluation pictures, exact"):
        assert checks[name].planted
        assert checks[name].found == checks[name].planted


def test_every_model_has_every_figure_with_its_interval(demo: Path) -> None:
    results = all_results(Root(str(demo)))
    assert len(results) == MODELS
    for result in results:
        assert len(result.eval) == 5
        for figure in result.eval.values():
            assert figure.n >= 100
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
            assert figure.at_floor == (figure.low <= figure.chance)
        shifts = [figure for name, figure in result.eval.items() if name != REFERENCE]
        assert all(shift.reference is not None and shift.reference.classes == shift.classes for shift in shifts)


class _Loads(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [v or "" for k, v in attrs if k == "src" and not (v or "").startswith("data:")]


def test_the_report_is_one_file_that_loads_nothing(demo: Path) -> None:
    page = (demo / "report" / "index.html").read_text(encoding="utf-8")
    parser = _Loads()
    parser.feed(page)
    assert parser.outside == []
    assert "exact duplicates" in page
    assert "only-yfcc" in page


def test_a_second_run_does_nothing_and_changes_nothing(demo: Path) -> None:
    before, page = published(demo), (demo / "report" / "index.html").read_bytes()
    runs = set((demo / "runs").iterdir())
    run(DemoConfig(root=str(demo), **SMALL))
    assert published(demo) == before
    assert (demo / "report" / "index.html").read_bytes() == page
    new = [path.read_text() for path in set((demo / "runs").iterdir()) - runs]
    assert all('"rows_in": 0' in text for text in new)


def test_killed_in_the_middle_of_the_download_it_ends_in_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "pipelines.cli", "demo", "--root", str(root), *flags, "--until", "mix"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        _wait_for_shards(root, driver)
        driver.send_signal(signal.SIGKILL)
    made = len(list(root.glob("shards/*/*.parquet")))
    assert 0 < made < SMALL["rows"] // SMALL["samples_per_shard"]
    assert _is_alive(int((root / "web" / "web.json").read_text().split('"pid": ')[1].split(",")[0]))
    try:
        run(DemoConfig(root=str(root), until="mix", **SMALL))
    finally:
        web.stop(root)
    assert published(root) == published(demo)
    assert not list(root.rglob("*.tmp"))


def _wait_for_shards(root: Path, driver: subprocess.Popen[bytes], shards: int = 4) -> None:
    deadline = time.monotonic() + 180
    while len(list(root.glob("shards/*/*.parquet"))) < shards:
        assert driver.poll() is None, "the demo ended before it could be killed"
        assert time.monotonic() < deadline, "no shard appeared"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_seed_that_nobody_tuned_on_meets_the_goals(tmp_path: Path) -> None:
    """Near duplicates, false alarms and swapped captions on a web of another seed, at half size."""
    root = tmp_path / "root"
    run(DemoConfig(root=str(root), seed=20261122, rows=3000, until="compare"))
    missed = [check.check for check in findings(root) if check.met is False]
    assert missed == []
