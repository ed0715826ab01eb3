"""The dedupe job: what it writes, that a later run equals a fresh one, that a killed one goes on, what it refuses."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.tasks import Task, write_task
from filters import near_pairs
from filters.errors import ConfigError, HeadwaterError, InputError, ShardError
from pipelines import dedupe
from pipelines.dedupes import pairs
from pipelines.dedupes.compact import from_hex, to_hex
from pipelines.dedupes.looks import VERSION
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import eval_features, verdicts
from tests.filters.drawings import FAMILIES, clock, flag, jpeg, near_copy, smiley
from tests.pipelines.pictured import Given, add_features, add_shard, uid_of

PRIORITY = ["photos"]
DRAWN = [
    Given(f"{family}{n}", jpeg(draw(n)), f"{family}, {n * 7919}")
    for family, draw in FAMILIES.items()
    for n in range(4)
]
COPIES = [
    Given("same", jpeg(clock(2)), "something else"),
    Given("half", near_copy(smiley(1), 0.5, 0, 85), "smiley,  7919"),
    Given("cropped", near_copy(flag(3), 1, 0.05, 80), None),
]


def settings(root: Root, **fields: Any) -> dedupe.DedupeConfig:
    return dedupe.DedupeConfig(root=root.url, local=True, priority=PRIORITY, **fields)


def make_root(folder: Path, *, copies: bool = True) -> Root:
    root = Root(str(folder))
    add_shard(root, "web", 0, DRAWN[:5])
    add_shard(root, "web", 1, DRAWN[5:])
    if copies:
        add_shard(root, "photos", 0, COPIES)
    return root


def add_sets(root: Root) -> None:
    """A webdataset set, and a folder of pictures."""
    shown = [jpeg(clock(2)), near_copy(flag(1), 0.8, 0, 90), jpeg(clock(7)), jpeg(clock(8))]
    names = ["two", "one", "seven", "eight"]
    write_task(root.local("eval", "Tar-Set"), Task("Tar-Set", shown, np.arange(4), names, ["{c}"], names))
    folder = root.local("eval", "folder", "clocks")
    folder.mkdir(parents=True)
    (folder / "2.jpg").write_bytes(jpeg(clock(2)))
    (folder / "3.jpg").write_bytes(near_copy(clock(3), 0.6, 0.03, 80))


def rows_of(root: Root, name: str) -> dict[str, dict[str, Any]]:
    tables = [
        root.read_table("verdicts", name, s.source, f"{s.number}.parquet") for s in root.shards("verdicts", name)
    ]
    return {row["uid"]: row for table in tables for row in table.to_pylist()}


def files_of(root: Root, name: str) -> dict[str, bytes]:
    folder = root.local("verdicts", name)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def test_verdicts_and_counts_by_source_and_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root(tmp_path)
    add_sets(root)
    summary = dedupe.run(settings(root, tasks="eval"))
    assert summary["counts"] == {"exact_bytes": 1, "near": 2, "unique": 12}
    assert summary["by_source"] == {"photos": {"unique": 3}, "web": {"unique": 9, "exact_bytes": 1, "near": 2}}
    assert summary["eval_overlaps"] == {
        "Tar-Set": {"photos": {"exact_bytes": 1}, "web": {"exact_bytes": 1, "near": 1}},
        "folder": {"photos": {"exact_bytes": 1}, "web": {"exact_bytes": 1, "near": 1}},
    }
    printed = capsys.readouterr().err
    assert "dedupe: web: 9 unique, 1 exact_bytes, 2 near\n" in printed
    assert "dedupe: in evaluation set folder: photos: 1 exact_bytes; web: 1 exact_bytes, 1 near\n" in printed
    rows = rows_of(root, summary["verdicts"])
    assert {uid: row["duplicate_of"] for uid, row in rows.items() if row["kind"]} == {
        uid_of("clock2"): uid_of("same"),
        uid_of("smiley1"): uid_of("half"),
        uid_of("flag3"): uid_of("cropped"),
    }
    row = rows[uid_of("clock2")]
    assert (row["eval_in_tar_set"], row["eval_in_folder"]) == ("exact_bytes", "exact_bytes")
    assert (row["eval_set"], row["eval_item"]) == ("Tar-Set", "s0000000 (two)")
    row = rows[uid_of("clock3")]
    assert (row["eval_in_tar_set"], row["eval_in_folder"], row["eval_item"]) == (None, "near", "clocks/3.jpg")
    assert rows[uid_of("smiley1")]["caption_of"] == uid_of("half")
    assert rows[uid_of("same")]["caption_of"] is None
    table = root.read_table("verdicts", summary["verdicts"], "web", "00000.parquet")
    assert verdicts(["Tar-Set", "folder"]).conform(table).equals(table)


def test_a_large_jpeg_and_a_png_of_its_pixels_are_near(tmp_path: Path) -> None:
    whole = jpeg(clock(2).resize((1600, 1250), Image.Resampling.BICUBIC))
    out = io.BytesIO()
    Image.open(io.BytesIO(whole)).save(out, "PNG")
    root = Root(str(tmp_path))
    add_shard(root, "web", 0, [Given("jpeg", whole), Given("other", jpeg(clock(5)))])
    add_shard(root, "photos", 0, [Given("png", out.getvalue())])
    found = dedupe.run(settings(root))
    # The JPEG was decoded at a reduced scale: see `filters.stored.store`.
    hashes = [root.read_table("shards", s, "00000.parquet")["pixel_hash"][0] for s in ("web", "photos")]
    assert hashes[0] != hashes[1]
    row = rows_of(root, found["verdicts"])[uid_of("jpeg")]
    assert (row["kind"], row["duplicate_of"]) == ("near", uid_of("png"))
    assert found["counts"] == {"near": 1, "unique": 2}


def test_the_second_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    add_sets(root)
    first = dedupe.run(settings(root, tasks="eval"))
    before = files_of(root, first["verdicts"])
    second = dedupe.run(settings(root, tasks="eval"))
    assert (second["shards_done"], second["shards_skipped"]) == (0, 3)
    assert second["eval_overlaps"] == first["eval_overlaps"]
    root.remove("verdicts", first["verdicts"], "dedupe.json")
    third = dedupe.run(settings(root, tasks="eval"))
    assert (third["shards_done"], third["shards_skipped"], third["counts"]) == (0, 3, first["counts"])
    assert files_of(root, first["verdicts"]) == before


@pytest.mark.parametrize("cached", [True, False])
def test_new_shards_and_sets_give_what_a_fresh_run_gives(
    tmp_path: Path, cached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, grown = make_root(tmp_path / "fresh"), make_root(tmp_path / "grown", copies=False)
    add_sets(fresh)
    expected = dedupe.run(settings(fresh, tasks="eval"))
    compared = int(capsys.readouterr().err.split(" pairs compared, ")[0].rsplit(" ", 1)[-1])
    add_sets(grown)
    (grown.local("eval", "folder")).rename(tmp_path / "later")
    dedupe.run(settings(grown, tasks="eval"))
    (tmp_path / "later").rename(grown.local("eval", "folder"))
    add_shard(grown, "photos", 0, COPIES)
    # A shard that nothing of the new concerns: its file stays as it is.
    if not cached:
        for path in grown.local("pairs").rglob("*.parquet"):
            path.unlink()
    capsys.readouterr()
    found = dedupe.run(settings(grown, tasks="eval"))
    assert found["verdicts"] == expected["verdicts"]
    assert files_of(grown, found["verdicts"]) == files_of(fresh, found["verdicts"])
    printed = capsys.readouterr().err
    again = int(printed.split(" pairs compared, ")[0].rsplit(" ", 1)[-1])
    assert (0 < again < compared) if cached else again == compared
    assert "dedupe: 1 shards to do, 2 done before" in printed


def test_a_verdict_file_that_was_cut_is_written_again(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    add_shard(root, "web", 0, [Given("a", jpeg(clock(1))), Given("b", jpeg(smiley(1)))])
    name = dedupe.run(settings(root))["verdicts"]
    path = root.local("verdicts", name, "web", "00000.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert dedupe.run(settings(root))["shards_done"] == 1
    assert path.read_bytes() == whole


def test_only_files_whose_content_changes_are_written(tmp_path: Path) -> None:
    root = make_root(tmp_path, copies=False)
    name = dedupe.run(settings(root, caption_similarity=None))["verdicts"]
    times = {path: path.stat().st_mtime_ns for path in root.local("verdicts", name).rglob("*.parquet")}
    add_shard(root, "photos", 0, COPIES[:1])
    found = dedupe.run(settings(root, caption_similarity=None))
    assert (found["shards_done"], found["shards_skipped"]) == (2, 1)
    changed = {path.stem for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert changed == {"00000"}


KILLED = """
import sys, time
from pipelines.dedupes import pairs
pairs._BLOCK = 4
verify = pairs.picture_distance
def slow(*args):
    time.sleep(0.2)
    return verify(*args)
pairs.picture_distance = slow
from pipelines.dedupe import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, killed = make_root(tmp_path / "fresh"), make_root(tmp_path / "killed")
    for root in (fresh, killed):
        add_sets(root)
    monkeypatch.setattr(pairs, "_BLOCK", 4)
    expected = dedupe.run(settings(fresh, tasks="eval"))
    compared = int(capsys.readouterr().err.split(" pairs compared, ")[0].rsplit(" ", 1)[-1])
    flags = ["--root", killed.url, "--local", "--tasks", "eval", "--set", "priority=[photos]"]
    folder = killed.local("pairs", pairs.VERSION)
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen([sys.executable, "-c", KILLED, *flags], stdout=log, stderr=log)
        while len(list(folder.glob("*.parquet"))) < 2 and job.poll() is None:
            time.sleep(0.01)
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    done = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    assert done >= 8
    found = dedupe.run(settings(killed, tasks="eval"))
    printed = capsys.readouterr().err
    assert "dedupe: 0 shards to do, 3 done before" in printed
    assert f"dedupe: {compared - done} pairs compared, {done} known before" in printed
    assert found["verdicts"] == expected["verdicts"]
    assert files_of(killed, found["verdicts"]) == files_of(fresh, found["verdicts"])
    assert not list(killed.local().rglob(".writing/*"))


def test_a_run_killed_while_it_publishes_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path)
    expected = dedupe.run(settings(root))
    whole = files_of(root, expected["verdicts"])
    for path in root.local("verdicts").rglob("*.parquet"):
        path.write_bytes(b"an old verdict")
    root.remove("verdicts", expected["verdicts"], "dedupe.json")
    write = Root.write_table

    def failing(self: Root, table: pa.Table, *parts: str, **more: Any) -> None:
        if parts[-2:] == ("web", "00001.parquet"):
            raise OSError("the disk is full")
        write(self, table, *parts, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Root, "write_table", failing)
        with pytest.raises(OSError, match="the disk is full"):
            dedupe.run(settings(root))
    assert not root.exists("verdicts", expected["verdicts"], "dedupe.json")
    assert dedupe.run(settings(root))["counts"] == expected["counts"]
    assert files_of(root, expected["verdicts"]) == whole


def test_many_files_of_pairs_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path)
    monkeypatch.setattr(pairs, "_BLOCK", 2)
    first = dedupe.run(settings(root))
    assert len(root.names("pairs", pairs.VERSION)) > 3
    monkeypatch.setattr(pairs, "_FILES", 3)
    before = pairs.Verifier(root, cpus=1, local=True)
    assert len(root.names("pairs", pairs.VERSION)) == 1
    assert pairs.Verifier(root, cpus=1, local=True).known == before.known > 0
    root.remove("verdicts", first["verdicts"], "dedupe.json")
    assert dedupe.run(settings(root))["counts"] == first["counts"]
    assert len(root.names("pairs", pairs.VERSION)) == 1


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.fixture
def embedded(tmp_path: Path) -> Root:
    """Two shards with features `fp` of three numbers: `a` and `c` are close, and two evaluation pictures."""
    root = Root(str(tmp_path / "root"))
    first = add_shard(root, "web", 0, [Given("a", jpeg(clock(1))), Given("b", jpeg(smiley(1)))])
    second = add_shard(root, "web", 1, [Given("c", jpeg(flag(1)))])
    add_features(root, "fp", first, ["a", "b"], unit((1, 0, 0), (0, 1, 0)), [0.2, 0.3])
    add_features(root, "fp", second, ["c"], unit((1, 0.1, 0)), [0.9])
    folder = root.local("eval", "held")
    folder.mkdir(parents=True)
    for name, drawing in (("x", clock(5)), ("y", clock(9))):
        (folder / f"{name}.jpg").write_bytes(jpeg(drawing))
    return root


def add_eval_features(root: Root, items: list[str], vectors: np.ndarray) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
    table = pa.Table.from_arrays([pa.array(items), column], schema=eval_features(vectors.shape[1]).arrow)
    root.write_table(table, "eval_features", "fp", "held.parquet", metadata={KEY: "1"})


def test_semantic_duplicates_and_overlaps(embedded: Root, capsys: pytest.CaptureFixture[str]) -> None:
    fields: dict[str, Any] = {"tasks": "eval", "features": "fp", "semantic_distance": 0.01}
    without = dedupe.run(settings(embedded, **fields))
    assert without["counts"] == {"semantic": 1, "unique": 2}
    assert without["eval_overlaps"] == {"held": {}}
    assert "no embeddings of the evaluation set held" in capsys.readouterr().err
    # The originals are of one size, so the score decides.
    row = rows_of(embedded, without["verdicts"])[uid_of("a")]
    assert (row["kind"], row["duplicate_of"]) == ("semantic", uid_of("c"))
    assert row["distance"] == pytest.approx(1 - 1 / np.hypot(1, 0.1), abs=1e-3)
    add_eval_features(embedded, ["x.jpg", "y.jpg"], unit((0, 0, 1), (0, 1, 0.01)))
    found = dedupe.run(settings(embedded, **fields))
    assert found["eval_overlaps"] == {"held": {"web": {"semantic": 1}}}
    row = rows_of(embedded, found["verdicts"])[uid_of("b")]
    assert (row["eval_in_held"], row["eval_item"]) == ("semantic", "y.jpg")
    other = dedupe.run(settings(embedded, features="fp"))
    assert other["counts"] == {"unique": 3}
    assert other["verdicts"] != found["verdicts"]


def test_evaluation_sets_have_a_semantic_distance_of_their_own(
    embedded: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = dedupe.run(settings(embedded, tasks="eval", features="fp", eval_semantic_distance=0.01))
    assert missing["eval_sets_without_embeddings"] == ["held"]
    add_eval_features(embedded, ["x.jpg", "y.jpg"], unit((0, 0, 1), (0, 0.995, 0.1)))
    capsys.readouterr()
    alone = dedupe.run(settings(embedded, tasks="eval", features="fp", eval_semantic_distance=0.01))
    assert (alone["counts"], alone["eval_sets_without_embeddings"]) == ({"unique": 3}, [])
    assert alone["eval_overlaps"] == {"held": {"web": {"semantic": 1}}}
    assert alone["searches"] == {"eval_semantic": {"clusters": 1, "probes": 1, "recall": 1.0}}
    words = "eval_semantic: embeddings visit 1 of 1 clusters, which finds 100.00% of a sample's pairs\n"
    assert words in capsys.readouterr().err
    wide: dict[str, Any] = {"tasks": "eval", "features": "fp", "semantic_distance": 0.01}
    both = dedupe.run(settings(embedded, **wide, eval_semantic_distance=0.001))
    assert both["counts"] == {"semantic": 1, "unique": 2}
    assert both["eval_overlaps"] == {"held": {}}
    assert set(both["searches"]) == {"semantic", "eval_semantic"}
    # What is up to date says the same again.
    again = dedupe.run(settings(embedded, **wide, eval_semantic_distance=0.001))
    assert (again["searches"], again["shards_done"]) == (both["searches"], 0)


def test_a_crowd_is_said_to_be_searched_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path)
    complete = dedupe.run(settings(root))
    assert complete["searches"] == {}
    monkeypatch.setattr(near_pairs, "_COMPLETE", 10)
    crowd = dedupe.run(settings(root, tangent_probes=15))
    assert crowd["searches"] == {"pixels": {"probes": 15}}
    assert crowd["counts"] == complete["counts"]
    assert (
        "pixels: each picture of the crowd is compared with the 15 nearest clusters only" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("damage", "says"), [("missing", "00001.parquet: not there"), ("lacks", "lacks 1 of the sh")]
)
def test_missing_scores_do_not_change_survivors_silently(embedded: Root, damage: str, says: str) -> None:
    assert dedupe.run(settings(embedded, features="fp"))["counts"] == {"unique": 3}
    if damage == "missing":
        embedded.remove("features", "fp", "web", "00001.parquet")
    else:
        add_features(embedded, "fp", ShardId("web", "00000"), ["a"], unit((1, 0, 0)), [0.1])
    add_shard(embedded, "web", 2, [Given("d", jpeg(smiley(2)))], reason="http_404")
    with pytest.raises(ShardError, match=says):
        dedupe.run(settings(embedded, features="fp"))


def test_a_picture_without_an_embedding_is_compared_by_its_looks_alone(embedded: Root) -> None:
    path = ("features", "fp", "web", "00000.parquet")
    table = embedded.read_table(*path)
    place = table.column_names.index("image_embedding")
    nulled = pa.array([None, *table["image_embedding"].to_pylist()[1:]], table.schema.field(place).type)
    table = table.set_column(place, table.schema.field(place), nulled)
    embedded.write_table(table, *path, metadata={KEY: "null"})
    add_eval_features(embedded, ["x.jpg", "y.jpg"], unit((0, 0, 1), (0, 1, 0.01)))
    found = dedupe.run(settings(embedded, tasks="eval", features="fp", semantic_distance=0.01))
    assert found["counts"] == {"unique": 3}
    assert found["eval_overlaps"] == {"held": {"web": {"semantic": 1}}}


def test_a_retry_takes_the_features_of_its_first_attempt(embedded: Root) -> None:
    add_shard(embedded, "web", 2, [Given("d", jpeg(smiley(2)))], attempt=1)
    add_features(embedded, "fp", ShardId("web", "00001"), ["c", "d"], unit((1, 0.1, 0), (0, 1, 0.01)), [0.9, 0.1])
    found = dedupe.run(settings(embedded, features="fp", semantic_distance=0.01))
    row = rows_of(embedded, found["verdicts"])[uid_of("d")]
    assert (row["kind"], row["duplicate_of"]) == ("semantic", uid_of("b"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("missing", r"features/fp/web/00001.parquet: not there; run `headwater score`"),
        ("lacks", r"features/fp/web/00000.parquet: lacks 1 of the shard's 2 pictures"),
        ("nan", r"features/fp/web/00001: image_embedding: 1 rows hold NaN"),
        ("width", r"features/fp/web/00001: image_embedding: has 2 numbers a row, 3 are needed"),
        ("length", r"features/fp/web/00001: image_embedding: 1 of 1 rows have a length other than 1"),
        ("broken", r"features/fp/web/00001.parquet: cannot be read"),
        ("items", r"eval_features/fp/held.parquet: is not of the pictures of held"),
        ("eval_nan", r"eval_features/fp/held.parquet: image_embedding: 1 rows hold NaN"),
        ("eval_width", r"eval_features/fp/held.parquet: image_embedding: has 2 numbers a row, 3 are needed"),
    ],
)
def test_damaged_embeddings_are_one_line(embedded: Root, damage: str, says: str) -> None:
    second = ShardId("web", "00001")
    path = embedded.local("features", "fp", "web", "00001.parquet")
    bad = {"nan": unit((np.nan, 0, 0)), "width": unit((1, 0)), "length": unit((0, 0, 0))}
    if damage == "missing":
        path.unlink()
    elif damage == "broken":
        path.write_bytes(b"PAR1")
    elif damage == "lacks":
        add_features(embedded, "fp", ShardId("web", "00000"), ["a"], unit((1, 0, 0)), [0.1])
    elif damage in bad:
        add_features(embedded, "fp", second, ["c"], bad[damage], [0.5])
    elif damage == "items":
        add_eval_features(embedded, ["x.jpg", "z.jpg"], unit((0, 0, 1), (0, 1, 0)))
    elif damage == "eval_nan":
        add_eval_features(embedded, ["x.jpg", "y.jpg"], unit((0, 0, 1), (0, np.nan, 0)))
    else:
        add_eval_features(embedded, ["x.jpg", "y.jpg"], unit((0, 1), (1, 0)))
    with pytest.raises(HeadwaterError, match=says) as raised:
        dedupe.run(settings(embedded, tasks="eval", features="fp", semantic_distance=0.01))
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, InputError | ShardError)


def test_settings_that_make_no_sense(embedded: Root) -> None:
    with pytest.raises(ConfigError, match="give --features FINGERPRINT too"):
        dedupe.run(settings(embedded, semantic_distance=0.1))
    with pytest.raises(ConfigError, match="--eval-semantic-distance compares embeddings; give --features"):
        dedupe.run(settings(embedded, tasks="eval", eval_semantic_distance=0.1))
    with pytest.raises(ConfigError, match="compares with evaluation sets; give --tasks FOLDER too"):
        dedupe.run(settings(embedded, features="fp", eval_semantic_distance=0.1))
    with pytest.raises(ConfigError, match=r"'other' is not under .*/features; there is fp"):
        dedupe.run(settings(embedded, features="other"))
    with pytest.raises(ConfigError, match="'other' is not under"):
        dedupe.plan(settings(embedded, features="other"))
    with pytest.raises(InputError, match="no evaluation sets here"):
        dedupe.run(settings(embedded, tasks="shards/web/none"))
    embedded.local("eval", "HELD").mkdir()
    with pytest.raises(ConfigError, match="would both be eval_in_held; rename one"):
        dedupe.run(settings(embedded, tasks="eval"))


def test_a_damaged_evaluation_picture_is_named(embedded: Root) -> None:
    (embedded.local("eval", "held") / "y.jpg").write_bytes(jpeg(clock(9))[:500])
    with pytest.raises(InputError, match=r"eval/held: y\.jpg: .*replace the picture or take it out"):
        dedupe.run(settings(embedded, tasks="eval"))


def test_a_changed_evaluation_set_is_looked_at_again(embedded: Root) -> None:
    assert dedupe.run(settings(embedded, tasks="eval"))["eval_overlaps"] == {"held": {}}
    (embedded.local("eval", "held") / "y.jpg").write_bytes(jpeg(flag(1)))
    assert dedupe.run(settings(embedded, tasks="eval"))["eval_overlaps"] == {"held": {"web": {"exact_bytes": 1}}}


def test_a_set_put_back_after_a_killed_run_is_looked_at_again(
    embedded: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embedded.local("eval", "held")
    (folder / "y.jpg").write_bytes(jpeg(flag(1)))
    expected = dedupe.run(settings(embedded, tasks="eval"))
    folder.rename(tmp_path / "kept")
    folder.mkdir()
    (folder / "z.jpg").write_bytes(jpeg(clock(7)))
    write = Root.write_json

    def killed(self: Root, value: Any, *parts: str) -> None:
        if parts[-1] == "set.json":
            raise KeyboardInterrupt
        write(self, value, *parts)

    with monkeypatch.context() as patched:
        patched.setattr(Root, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            dedupe.run(settings(embedded, tasks="eval"))
    (folder / "z.jpg").unlink()
    (tmp_path / "kept").rename(folder)
    embedded.remove("verdicts", expected["verdicts"], "dedupe.json")
    assert dedupe.run(settings(embedded, tasks="eval"))["eval_overlaps"] == expected["eval_overlaps"]


def test_shards_without_pictures_and_a_uid_in_two_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root(tmp_path)
    add_sets(root)
    add_shard(root, "web", 2, [Given("gone", jpeg(clock(9)))], reason="http_404")
    add_shard(root, "zoo", 0, [Given("clock3", jpeg(clock(3)))])
    found = dedupe.run(settings(root, tasks="eval").model_copy(update={"priority": ["photo"]}))
    assert found["by_source"]["zoo"] == {"unique": 1}
    assert rows_of(root, found["verdicts"])[uid_of("clock3")]["duplicate_of"] is None
    assert "priority: nothing is downloaded from photo; there is photos, web, zoo" in capsys.readouterr().err
    assert root.read_table("verdicts", found["verdicts"], "web", "00002.parquet").num_rows == 0
    for name in ("web/00000", "web/00001", "photos/00000", "zoo/00000"):
        root.remove("shards", *f"{name}.parquet".split("/"))
    empty = dedupe.run(settings(root, tasks="eval"))
    assert (empty["counts"], empty["eval_overlaps"]) == ({}, {"Tar-Set": {}, "folder": {}})


def test_damaged_shards_and_looks(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    tar = root.local("shards", "web", "00001.tar")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:3000])
    with pytest.raises(ShardError, match=r"1 of 3 shards cannot be compared, the first: web/00001: .*is cut short"):
        dedupe.run(settings(root))
    # The others are done, so that the next run has only this one to do.
    assert len(list(root.local("looks", VERSION).rglob("*.parquet"))) == 2
    tar.write_bytes(whole)
    before = dedupe.run(settings(root))
    # The same shard made anew: other pictures under the same settings.
    add_shard(root, "web", 1, [*DRAWN[5:-1], Given("another", jpeg(clock(11)))])
    root.remove("verdicts", before["verdicts"], "dedupe.json")
    with pytest.raises(ShardError, match=r"looks/.*/web/00001.parquet: was made from another version of its shard"):
        dedupe.run(settings(root))


def test_a_full_disk_for_what_is_mapped_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int, _start: int, size: int) -> None:
        assert size > 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = make_root(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HeadwaterError, match=r"no room for 11,520 bytes \(No space left on device\); set TMPDIR"):
        dedupe.run(settings(root))


def test_hexadecimal_texts_and_bytes() -> None:
    texts = ["0123456789abcdef" * 2, None, "F" * 64, "00" * 16]
    column = pa.chunked_array([texts[:2], texts[2:]], pa.string())
    found = from_hex(column, "here")
    assert to_hex(found).to_pylist() == ["0123456789abcdef" * 2, None, "f" * 32, "00" * 16]
    assert to_hex(found.slice(2, 1)).to_pylist() == ["f" * 32]
    assert len(from_hex(pa.chunked_array([], pa.string()), "here")) == len(to_hex(found.slice(0, 0))) == 0
    for bad in ("abc", "g" * 32):
        with pytest.raises(ShardError, match="here: holds a value that is not 32 hexadecimal digits"):
            from_hex(pa.chunked_array([[bad]]), "here")
