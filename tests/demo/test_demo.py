"""The whole chain on real HTTP, Ray and DuckDB: found against planted, resume after kill -9, the same bytes again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from markupsafe import escape
from PIL import Image

from demo import web
from demo.compare import compare
from demo.evalsets import REFERENCE
from demo.map_tests import FILE
from demo.run import DemoConfig, run
from evaluation.report_data import Check
from filters.errors import InputError
from pipelines.alone import alone
from pipelines.report import Findings, all_results
from pipelines.report_attributions import map_tests
from pipelines.store.catalog import connect
from pipelines.store.root import Root

pytestmark = pytest.mark.usefixtures("ray_session")

SMALL: dict[str, Any] = {"rows": 600, "samples_per_shard": 25, "samples_seen": 1280, "methods": ["umfc"]}
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
    """A small demo that ran to its report: the data's jobs on Ray, those of the models, for time's sake, here."""
    root = tmp_path_factory.mktemp("demo") / "root"
    run(DemoConfig(root=str(root), until="mix", **SMALL))
    run(DemoConfig(root=str(root), local=True, **SMALL))
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


def test_exact_copies_and_leaks_are_all_found(demo: Path) -> None:
    checks = {check.check: check for check in findings(demo)}
    for name in ("exact duplicates", "leaked evaluation pictures, exact", "leaked evaluation pictures, near"):
        assert checks[name].planted
        assert checks[name].found == checks[name].planted


def test_the_planted_placeholder_is_found_and_trains_no_model(demo: Path) -> None:
    checks = {check.check: check for check in findings(demo)}
    found = checks["one body under many addresses, called placeholder"]
    assert (found.planted, found.found, found.met) == (12, 12, True)
    assert checks["clean pictures called placeholders"].false == 0
    with connect(Root(str(demo))) as con:
        used = con.execute(
            "SELECT count(*) FROM mixture_samples JOIN samples USING (uid) WHERE kind = 'placeholder'"
        ).fetchone()
    assert used == (0,)


# Each spoils the catalog in one way, and names a check that must then fail.
SPOILED = {
    "DELETE FROM samples WHERE uid = (SELECT min(uid) FROM samples)": "records in the dumps = samples in the catalog",
    "UPDATE samples SET uid = (SELECT min(uid) FROM samples)": "records in the dumps = samples in the catalog",
    "INSERT INTO samples BY NAME SELECT * REPLACE ('x' AS file) FROM samples LIMIT 1":
        "records in the dumps = samples in the catalog",
    "UPDATE samples SET reason = 'http_410' WHERE uid = (SELECT min(uid) FROM samples WHERE reason = 'http_404')":
        "http_404 → failed_to_download, http_404",
    "UPDATE samples SET \"group\" = NULL, duplicate_of = NULL WHERE kind = 'exact_bytes'": "exact duplicates",
    "UPDATE samples SET \"group\" = uid WHERE kind = 'exact_bytes'": "pictures with the pixels of another",
    "UPDATE samples SET \"group\" = NULL, duplicate_of = NULL WHERE kind = 'near'": "near duplicates, scale",
    "UPDATE samples SET duplicate_of = (SELECT min(uid) FROM samples WHERE status = 'success') WHERE kind IS NULL":
        "clean pictures called duplicates",
    "UPDATE samples SET kind = NULL WHERE kind = 'placeholder'": "one body under many addresses, called placeholder",
    "UPDATE samples SET kind = 'placeholder' WHERE kind = 'near'": "clean pictures called placeholders",
    "UPDATE samples SET eval_set = NULL WHERE eval_kind = 'exact_bytes'": "leaked evaluation pictures, exact",
    "UPDATE samples SET eval_item = 'x (zebra)' WHERE eval_kind = 'exact_bytes'": "leaked evaluation pictures, exact",
    "UPDATE samples SET eval_set = 'noto-v1', eval_item = 'x (zebra)' WHERE status = 'success'":
        "clean pictures called leaked",
    "UPDATE samples SET eval_set = NULL WHERE eval_kind = 'near'": "leaked evaluation pictures, near",
    "UPDATE samples SET eval_in_emojione_v1 = NULL, eval_in_noto_v1 = NULL, eval_in_fxemoji = NULL, "
    "eval_in_emojione_monotone = NULL, eval_in_fluent_emoji_high_contrast = NULL":
        "leaked evaluation pictures, exact, in the column of their set",
    "UPDATE samples SET language = 'en'": "captions in other languages, called not English",
    "UPDATE samples SET language = 'la'": "English captions, called English",
    "UPDATE samples SET caption_blocked = false": "captions with a phrase of the block list",
    "UPDATE samples SET text_based = true": "captions that name a class of the list",
    "UPDATE samples SET caption = 'the same for all'": "captions equal to another",
    "UPDATE samples SET clip_score = -clip_score": "swapped captions, left-out cells",
}  # fmt: skip


@pytest.mark.parametrize(("change", "name"), SPOILED.items())
def test_each_check_can_fail(demo: Path, monkeypatch: pytest.MonkeyPatch, change: str, name: str) -> None:
    assert [check.met for check in findings(demo) if check.check.startswith(name)] != [False]
    con = connect(Root(str(demo)))
    con.execute("CREATE TEMP TABLE spoiled AS FROM samples")
    con.execute(re.sub("^(UPDATE|DELETE FROM|INSERT INTO) samples", r"\1 spoiled", change))
    con.execute("CREATE OR REPLACE TEMP VIEW samples AS FROM spoiled")
    monkeypatch.setattr("pipelines.store.catalog.connect", lambda _root: nullcontext(con))
    checks = compare(Root(str(demo)), [], REFERENCE, MODELS).checks
    assert False in [check.met for check in checks if check.check.startswith(name)]


def test_a_model_that_is_missing_shows(demo: Path) -> None:
    root = Root(str(demo))
    checks = {check.check: check for check in compare(root, all_results(root)[1:], REFERENCE, MODELS).checks}
    models = checks["models surely above chance on the reference"]
    assert (models.planted, models.met) == (MODELS, False)


def test_every_model_has_every_figure_with_its_interval(demo: Path) -> None:
    results = all_results(Root(str(demo)))
    assert len(results) == MODELS + 1  # and the even mixture's by UMFC
    for result in results:
        assert len(result.eval) == 5
        for figure in result.eval.values():
            assert figure.n >= 100
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
            assert figure.at_floor == (figure.low <= figure.chance)
        shifts = [figure for name, figure in result.eval.items() if name != REFERENCE]
        assert all(shift.reference is not None and shift.reference.classes == shift.classes for shift in shifts)


def test_signals_and_presets_are_there_for_every_picture(demo: Path) -> None:
    with connect(Root(str(demo))) as con:
        empty = con.execute(
            "SELECT count(*) FROM samples WHERE status = 'success' AND NOT (caption_words > 0 "
            "AND language IS NOT NULL AND caption_blocked IS NOT NULL AND entries IS NOT NULL "
            "AND image_based IS NOT NULL)"
        ).fetchone()
        ways = con.execute(
            "SELECT count(*) FILTER (image_based(samples)), count(*) FILTER (datacomp_basic(samples)), count(*) "
            "FROM samples WHERE status = 'success'"
        ).fetchone()
    assert empty == (0,)
    assert ways is not None and 0 < ways[0] < ways[2] and 0 < ways[1] < ways[2]
    lock = json.loads((demo / "mixes" / "presets" / "mix.lock.json").read_text())
    assert lock["top"]["scope"] == "global"
    assert "image_based(samples)" in (demo / "report" / "index.html").read_text(encoding="utf-8")


def test_ten_pairs_are_attributed_and_the_maps_tested(demo: Path) -> None:
    root = Root(str(demo))
    [name] = root.names("attributions")
    pairs = [root.read_json("attributions", name, file) for file in root.names("attributions", name, suffix=".json")]
    assert len(pairs) == 10
    tests = map_tests(str(demo / FILE))
    assert [line.pictures for test in tests for line in test.lines if line.first_more] == [24] * 5
    page = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert all(str(escape(f"{pair['caption']}; cosine {pair['cosine']:.2f}")) in page for pair in pairs)
    assert all(str(escape(test.note)) in page for test in tests)


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
    for section in ("verdicts", "duplicates", "signals", "attribution"):
        assert f'id="{section}"' in page
    with Image.open(demo / "report" / "scatter.png") as plot:
        assert min(plot.size) > 500


def test_a_second_run_does_nothing_and_changes_nothing(demo: Path) -> None:
    before, page = published(demo), (demo / "report" / "index.html").read_bytes()
    runs = set((demo / "runs").iterdir())
    run(DemoConfig(root=str(demo), **SMALL))
    assert published(demo) == before
    assert (demo / "report" / "index.html").read_bytes() == page
    new = [path.read_text() for path in set((demo / "runs").iterdir()) - runs]
    assert all('"rows_in": 0' in text for text in new)


@pytest.mark.parametrize("other", [{"seed": 1}, {"rows": 900}, {"samples_per_shard": 50}])
def test_other_settings_on_the_same_root_are_refused(demo: Path, other: dict[str, int]) -> None:
    before = published(demo)
    with pytest.raises(InputError, match="--seed 0 --rows 600 --samples-per-shard 25"):
        run(DemoConfig(root=str(demo), **{**SMALL, **other}))
    assert published(demo) == before


def test_a_root_that_is_no_demo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(InputError, match="no demo made"):
        run(DemoConfig(root=str(tmp_path), **SMALL))


def test_a_second_demo_on_a_root_waits_its_turn(tmp_path: Path) -> None:
    with alone(tmp_path, "demo"), pytest.raises(InputError, match="a demo is running here"):
        run(DemoConfig(root=str(tmp_path), **SMALL))


@pytest.mark.slow
def test_killed_in_the_middle_of_the_download_it_ends_in_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "methods"]
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


@pytest.mark.slow
def test_a_seed_that_nobody_tuned_on_meets_the_goals(tmp_path: Path) -> None:
    """Near duplicates, false alarms and swapped captions on a web of another seed, at half size."""
    root = tmp_path / "root"
    run(DemoConfig(root=str(root), seed=20261122, rows=3000, until="compare"))
    judged = {check.check.partition(":")[0]: check for check in findings(root) if check.met is not None}
    assert {"clean pictures called duplicates", "swapped captions, left-out cells", "exact duplicates"} <= set(judged)
    assert sum(name.startswith("near duplicates, ") for name in judged) == 7 + 10  # kinds, and strengths
    assert [name for name, check in judged.items() if not check.met] == []
