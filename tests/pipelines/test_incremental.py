"""A catalog that was brought up to date step by step equals one that was built anew; what is written is bounded."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from filters.errors import ShardError
from pipelines.store import levels, publish
from pipelines.store.catalog import connect
from pipelines.store.models import ModelInfo, write_model
from pipelines.store.root import Root
from pipelines.store.schema import SHARD, SIGNALS, features, verdicts
from pipelines.store.stages import choose
from pipelines.store.survey import survey
from tests.pipelines.test_stages import put

VIEWS = ("samples", "attempts", "sources", "shards", "mixture_samples", "entries", "presets", "columns", "mixtures")
SOURCES = ("ant", "bee")
MODEL = "datacomp-b32"  # scores that a dump declares are true of later attempts too
UIDS, SHARDS = 30, 5
STEPS = 24


def uid(source: str, i: int) -> str:
    # Some are in both sources, as uids that the dumps declare may be.
    return f"{(i if i < 5 else i + 1000 * SOURCES.index(source)) * 0x9E3779B97F4A7C15 % 2**128:032x}"


def write_shard(root: Root, rng: random.Random, source: str, number: str) -> None:
    first = number < "00003"
    rows = []
    for i in sorted(rng.sample(range(UIDS), rng.randint(0, 12))):
        found, failed = uid(source, i), rng.random() < 0.4
        rows.append({
            "uid": found, "uid_lo": int(found[16:], 16), "source": source, "attempt": 0 if first else int(number) - 2,
            "shard": number, "key": f"{number}{i:04d}", "caption": rng.choice(["a", "b", None]), "offset": i,
            "size": None if failed else rng.randint(1, 9), "status": "failed_to_download" if failed else "success",
            "reason": "timeout" if failed else "ok", "captions": ["a", "b"], "caption_raw": {"x": "y"},
        })  # fmt: skip
    put(root, SHARD, rows, "shards", source, number=number)
    if not first:
        root.write_bytes(b"", "retries", source, f"{number}.parquet")


def write_sidecars(root: Root, rng: random.Random, source: str, number: str) -> None:
    uids = root.read_table("shards", source, f"{number}.parquet")["uid"].to_pylist()
    chosen = [found for found in uids if rng.random() < 0.8]
    kind = rng.choice(("features", "verdicts", "signals"))
    rows: list[dict[str, Any]]
    if kind == "features":
        vector = {"image_embedding": [0.0, 0.0], "text_embedding": [0.0, 0.0]}
        scores = [
            {"uid": found, "clip_score": rng.choice([None, 0.25, 0.5, float("nan")]), **vector} for found in chosen
        ]
        put(root, features(2), scores, "features", MODEL, source, number=number)
    elif kind == "verdicts":
        rows = [{"uid": found, "kind": rng.choice([None, "near"]), "eval_in_x": None} for found in chosen]
        put(root, verdicts(["x"]), rows, "verdicts", "v", source, number=number)
        root.write_json({}, "verdicts", "v", "dedupe.json")
    else:
        put(
            root, SIGNALS, [{"uid": found, "entries": [0]} for found in chosen], "signals", "s", source, number=number
        )
        root.write_bytes(b"of\n", "signals", "s", "entries.txt")


def change(root: Root, rng: random.Random) -> None:
    """Something that jobs do to a root: a shard is added, made anew or taken away, or a sidecar is written."""
    source, number = rng.choice(SOURCES), f"{rng.randrange(SHARDS):05d}"
    there = root.exists("shards", source, f"{number}.parquet")
    if there and rng.random() < 0.15:
        root.remove("shards", source, f"{number}.parquet")
    elif there and rng.random() < 0.7:
        write_sidecars(root, rng, source, number)
    else:
        write_shard(root, rng, source, number)


def update(root: Root, *, anew: bool = False, cap: int = 40) -> publish.Published | None:
    sidecars = choose(root, dict.fromkeys(("features", "verdicts", "signals")))
    found = survey(root, sidecars, [], anew=anew)
    return None if found.is_current else publish.publish(root, found, [], cap=cap)


def contents(root: Root) -> dict[str, Counter[str]]:
    with connect(root) as con:
        return {view: Counter(map(repr, con.execute(f"FROM {view}").fetchall())) for view in VIEWS}


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_step_by_step_equals_built_anew(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "BASE", 4)
    rng, root = random.Random(seed), Root(str(tmp_path / "root"))
    write_shard(root, rng, "ant", "00000")
    write_model(root, MODEL, ModelInfo(model="x", pretrained="openai", precision="fp32", dim=2))
    for step in range(10):
        for _ in range(rng.randint(1, 3)):
            change(root, rng)
        if not root.shards("shards"):
            continue
        done = update(root)
        again = Root(str(tmp_path / f"again{step}"))
        shutil.copytree(root.url, again.url, ignore=shutil.ignore_patterns("catalog*"))
        anew = update(again)
        assert contents(root) == contents(again), f"seed {seed}, step {step}"
        assert anew is not None
        if done is not None:
            assert (done.samples, done.statuses, done.missing) == (anew.samples, anew.statuses, anew.missing)
        shutil.rmtree(again.url)
    assert update(root) is None
    before = contents(root)
    update(root, anew=True)
    assert contents(root) == before


def test_verdicts_that_change_under_one_name_are_read_again(tmp_path: Path) -> None:
    root, rng = Root(str(tmp_path / "root")), random.Random(0)
    write_shard(root, rng, "ant", "00000")
    uids = root.read_table("shards", "ant", "00000.parquet")["uid"].to_pylist()
    for kind in ("near", "semantic"):
        rows = [{"uid": found, "kind": kind} for found in uids]
        put(root, verdicts([]), rows, "verdicts", "v", "ant")
        root.write_json({}, "verdicts", "v", "dedupe.json")
        update(root)
        with connect(root) as con:
            assert con.execute("SELECT DISTINCT kind FROM samples").fetchall() == [(kind,)]


def add_shards(root: Root, numbers: range, rows: int) -> int:
    """Shards of so many rows each; the bytes of their files."""
    added = 0
    for number in numbers:
        rng = random.Random(number)
        table: list[dict[str, Any]] = []
        for i in range(rows):
            found = f"{rng.getrandbits(128):032x}"
            table.append({
                "uid": found, "uid_lo": int(found[16:], 16), "source": "ant", "attempt": 0, "shard": f"{number:05d}",
                "key": f"{number:05d}{i:04d}", "caption": f"caption {rng.random()}", "url": f"http://{rng.random()}",
                "sha256": f"{rng.getrandbits(256):064x}", "status": "success", "reason": "ok", "size": i, "offset": i,
            })  # fmt: skip
        put(root, SHARD, table, "shards", "ant", number=f"{number:05d}")
        added += root.stat("shards", "ant", f"{number:05d}.parquet")[0]
    return added


def test_bytes_written_are_bounded_by_bytes_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that was copied with each shard that comes would be written twelve times over."""
    monkeypatch.setattr(levels, "BASE", 500)
    root, added, written, largest = Root(str(tmp_path / "root")), 0, 0, 0
    for number in range(STEPS):
        added += add_shards(root, range(number, number + 1), 500)
        done = update(root, cap=levels.CAP)
        assert done is not None
        written += done.bytes_written
        largest = max(largest, done.segments)
    small, _, _ = root.stat("catalog.duckdb")
    # Three levels up to 12,000 rows, in files of DuckDB that are up to twice as large; and a small catalog each time.
    assert written - STEPS * small <= 4 * 2 * added
    assert largest <= 4 * levels.FAN


def test_other_processes_read_the_published_file_from_any_folder(tmp_path: Path) -> None:
    """By path alone, as the `duckdb` shell does; a reader that was there before keeps what it has."""
    root = Root(str(tmp_path / "root"))
    add_shards(root, range(2), 10)
    update(root)
    code = (
        "import duckdb, sys; con = duckdb.connect(sys.argv[1], read_only=True); n = 'SELECT count(*) FROM samples'; "
        "print(con.execute(n).fetchall()[0][0], flush=True); input(); print(con.execute(n).fetchall()[0][0])"
    )
    command = [sys.executable, "-c", code, str(root.local("catalog.duckdb"))]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as reader:
        assert reader.stdin and reader.stdout
        assert reader.stdout.readline() == "20\n"
        add_shards(root, range(2, 4), 10)
        update(root)
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "20\n"
    with connect(root) as con:
        assert con.execute("SELECT count(*) FROM samples").fetchone() == (40,)


def test_files_of_the_catalog_before_stay_a_while(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    add_shards(root, range(2), 10)
    update(root)
    folder = root.local("catalog")
    (first,) = folder.glob("*.duckdb")
    os.utime(first, (0, 0))  # it has been there for long
    for _ in range(2):
        update(root, anew=True)
        assert first.exists()
    os.utime(first, (0, 0))
    update(root, anew=True)
    assert not first.exists()


def test_a_publication_that_fails_leaves_the_catalog_as_it_was(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    add_shards(root, range(2), 10)
    update(root)
    add_shards(root, range(2, 3), 10)
    root.write_bytes(b"PAR1 damaged", "shards", "ant", "00003.parquet")
    with pytest.raises(ShardError, match="a published file cannot be read"):
        update(root)
    with connect(root) as con:
        assert con.execute("SELECT count(*) FROM samples").fetchone() == (20,)
    assert not list(root.local("catalog").glob(".writing*"))
    root.remove("shards", "ant", "00003.parquet")
    update(root)
    with connect(root) as con:
        assert con.execute("SELECT count(*) FROM samples").fetchone() == (30,)


def rows_of(uids: list[str], source: str, number: str, attempt: int) -> list[dict[str, Any]]:
    common = {"source": source, "shard": number, "attempt": attempt, "status": "success", "reason": "ok"}
    return [{**common, "uid": u, "uid_lo": int(u[16:], 16), "key": f"{number}{i}"} for i, u in enumerate(uids)]


def test_a_shard_without_rows_is_not_read_again_and_again(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    put(root, SHARD, [], "shards", "ant")
    assert update(root) is not None
    put(root, SHARD, rows_of([f"{1:032x}"], "bee", "00000", 0), "shards", "bee")
    assert update(root) is not None
    assert update(root) is None
    root.remove("shards", "bee", "00000.parquet")
    done = update(root)
    assert done is not None
    assert (done.samples, update(root)) == (0, None)


def test_a_segment_of_which_every_row_is_superseded_stays_among_the_attempts(tmp_path: Path) -> None:
    root, uids = Root(str(tmp_path / "root")), [f"{i:032x}" for i in range(1, 5)]
    put(root, SHARD, rows_of(uids, "ant", "00000", 0), "shards", "ant")
    update(root)
    put(root, SHARD, rows_of(uids, "bee", "00000", 1), "shards", "bee")
    update(root)
    with connect(root) as con:
        query = "SELECT (SELECT count(*) FROM attempts), count(*), any_value(source) FROM samples"
        assert con.execute(query).fetchall() == [(8, 4, "bee")]
    assert update(root) is None
