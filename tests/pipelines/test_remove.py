"""Takedown: what was removed is in no catalog, no mixture and no file, and does not come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from filters.errors import ConfigError, InputError
from filters.published import published
from pipelines import adopt, build_mix, dedupe, download, index, ingest, remove, signals
from pipelines.cli import main
from pipelines.selection import Selection
from pipelines.store import removals
from pipelines.store import root as roots
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.verify_mix import verify
from tests.pipelines.adoptable import rows_of, study
from tests.pipelines.adoptable import settings as adoption
from tests.pipelines.chain import cc12m_dump, picture_server
from tests.pipelines.test_download import settings

ROWS, PER_SHARD = 10, 4
GONE, TWICE = (2, 5), 2  # number 2 stands twice in the dump


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of ten pictures in three shards with verdicts, signals, a catalog, and the mixtures `all` and `few`."""
    folder = tmp_path_factory.mktemp("built")
    dump = cc12m_dump(folder, ROWS)
    with (dump / "cc12m.tsv").open("a", encoding="utf-8") as file:
        file.write(f"http://pictures.test/{TWICE}.png\ta picture of number {TWICE}\n")
    root = Root(str(folder / "root"))
    ingest.run(ingestion(root, dump))
    with picture_server({"/9.png": [(503, {}, b"")]}) as server:
        download.run(settings(root, server, retries=0))
    dedupe.run(dedupe.DedupeConfig(root=root.url, local=True))
    signals.run(signals.SignalsConfig(root=root.url, local=True))
    index.run(index.IndexConfig(root=root.url))
    build_mix.run(mixture(root, "all", 9))
    build_mix.run(mixture(root, "few", 2, where="url LIKE '%/7.png' OR url LIKE '%/8.png'"))
    index.run(index.IndexConfig(root=root.url))
    root.write_bytes(b"drawn", "attributions", "m", f"{uid_of(root, GONE[0])}.png")
    root.write_bytes(b"exported", "mixes", "all", "tars", "00000.tar")
    return folder


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Root:
    shutil.copytree(built, tmp_path / "copy")
    return Root(str(tmp_path / "copy/root"))


def ingestion(root: Root, dump: Path, **fields: Any) -> ingest.IngestConfig:
    given = {"source": "cc12m", "metadata": str(dump), "samples_per_shard": PER_SHARD, **fields}
    return ingest.IngestConfig(root=root.url, **given)


def mixture(root: Root, name: str, total: int, **fields: Any) -> build_mix.MixJobConfig:
    page = {"name": name, "total": total, "sources": [{"source": "cc12m"}], **fields}
    return build_mix.MixJobConfig.model_validate({"root": root.url, **page})


def uid_of(root: Root, number: int) -> str:
    with connect(root) as con:
        query = "SELECT uid FROM samples WHERE url LIKE ? AND duplicate_row_of IS NULL"
        [(uid,)] = con.execute(query, [f"%/{number}.png"]).fetchall()
    return str(uid)


def removal(root: Root, **fields: Any) -> Selection:
    reason = {} if fields.get("compact") and len(fields) == 1 else {"reason": "takedown 17"}
    return Selection.model_validate({"root": root.url, **reason, **fields})


def take_down(root: Root, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    file = tmp_path / "uids.csv"
    file.write_text("uid\n" + "".join(f'"{uid_of(root, number)}"\n' for number in GONE), encoding="utf-8")
    return remove.run(removal(root, uid_file=str(file), asked_by="a rights holder", **fields))


def needles(root: Root) -> list[bytes]:
    """What the removed samples are known by: captions, addresses, and the middle of their pictures."""
    found = [text.encode() for n in GONE for text in (f"picture of number {n}", f"pictures.test/{n}.png")]
    for shard in root.shards("shards"):
        for row in root.read_table("shards", shard.source, f"{shard.number}.parquet").to_pylist():
            if row["size"] and row["caption"][-1] in map(str, GONE):
                place = (row["offset"] + row["size"] // 2, 24)
                found += root.read_ranges([place], "shards", shard.source, f"{shard.number}.tar")
    return found


def texts(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what those that are compressed say."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
    elif path.suffix == ".duckdb" and path.parent.name == "catalog":
        with duckdb.connect(str(path), read_only=True) as con:
            for (name,) in con.execute("SHOW TABLES").fetchall():
                yield str(con.execute(f"FROM {name}").fetchall()).encode()


def traces(root: Root, wanted: list[bytes]) -> set[str]:
    files = [path for path in root.local().rglob("*") if path.is_file()]
    return {str(path) for path in files for text in texts(path) if any(needle in text for needle in wanted)}


def test_removed_samples_are_found_nowhere(root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = needles(root)
    assert len(wanted) == 6
    assert traces(root, wanted)
    others = {row["uid"]: row for row in manifest_rows(root, "all")}
    before = pictures(root, others)
    found = take_down(root, tmp_path)
    assert (found["counts"], found["invalid_mixtures"]) == ({"removed": 2}, {"all": 2})
    with pytest.raises(InputError, match="older than the last removal; run `headwater index"):
        build_mix.run(mixture(root, "all", 7))
    assert "2 of its uids were removed" in " ".join(verify(root, "all")["problems"])
    assert not any("removed" in problem for problem in verify(root, "few")["problems"])
    index.run(index.IndexConfig(root=root.url))
    with connect(root) as con:
        gone = con.execute("SELECT caption, url, captions, size FROM samples WHERE reason = 'removed'").fetchall()
        assert gone == [(None,) * 4] * 3  # the record that repeats number 2 too
        assert con.execute("SELECT count(*) FROM samples").fetchall() == [(ROWS + 1,)]
        assert con.execute("SELECT DISTINCT reason, asked_by FROM removals").fetchall() == [
            ("takedown 17", "a rights holder")
        ]
        assert con.execute("SELECT count(*) FROM mixture_samples WHERE mixture = 'all'").fetchall() == [(7,)]
    build_mix.run(mixture(root, "all", 7))
    assert verify(root, "all")["verified"]
    compacted = remove.run(removal(root, compact=True))
    assert (compacted["tars_written"], compacted["files_written"], compacted["invalid_mixtures"]) == (2, 0, {})
    assert traces(root, wanted) == set()
    kept = {uid for uid in others if uid in before and uid not in removals.uids(root).to_pylist()}
    assert {uid: data for uid, data in pictures(root, others).items() if uid in kept} == {
        uid: before[uid] for uid in kept
    }
    assert len(kept) == 7
    assert main(["remove", "--root", root.url, "--compact"]) == 0
    assert json.loads(capsys.readouterr().out)["tars_written"] == 0


def manifest_rows(root: Root, name: str) -> list[dict[str, Any]]:
    return list(root.read_table("mixes", name, "manifest.parquet").to_pylist())


def pictures(root: Root, rows: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """The bytes at the places that a manifest of before names."""
    return {
        uid: root.read_ranges([(row["offset"], row["size"])], "shards", row["source"], f"{row['shard']}.tar")[0]
        for uid, row in rows.items()
    }


def test_tars_without_the_samples_are_whole_for_other_readers(root: Root, tmp_path: Path) -> None:
    sizes = {path: path.stat().st_size for path in root.local("shards").rglob("*.tar")}
    take_down(root, tmp_path, compact=True)
    keys: set[str] = set()
    for path, size in sizes.items():
        assert path.stat().st_size == size
        with tarfile.open(path) as tar:
            names = tar.getnames()
        fillers = [name for name in names if name == "__removed__"]
        keys |= {name.split(".")[0] for name in names if name not in fillers}
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert stats["status_dict"].get("removed", 0) >= len(fillers) / 3
    assert len(keys) == ROWS - 1 - len(GONE)


def test_later_stages_have_nothing_to_do_but_dedupe(root: Root, tmp_path: Path) -> None:
    take_down(root, tmp_path)
    assert signals.run(signals.SignalsConfig(root=root.url, local=True))["shards_done"] == 0
    found = dedupe.run(dedupe.DedupeConfig(root=root.url, local=True))
    assert found["rows_in"] == ROWS - 1 - len(GONE)


@pytest.mark.parametrize("per_shard", [PER_SHARD, 3])
def test_a_removed_sample_does_not_come_back(root: Root, tmp_path: Path, per_shard: int) -> None:
    take_down(root, tmp_path, compact=True)
    dump = tmp_path / "copy/cc12m"
    if per_shard != PER_SHARD:  # another ingest of the same dump, and all shards anew
        shutil.rmtree(root.local("shards"))
    ingest.run(ingestion(root, dump, samples_per_shard=per_shard))
    with picture_server() as server:
        download.run(settings(root, server))
        if per_shard == PER_SHARD:
            download.run(settings(root, server).model_copy(update={"retry": ["http_5xx"]}))
        asked = {path for path in server.seen if path.endswith(".png")}
    assert asked == ({"/9.png"} if per_shard == PER_SHARD else {f"/{n}.png" for n in range(ROWS) if n not in GONE})
    reasons = [
        reason
        for shard in root.shards("shards")
        for reason in root.read_table("shards", shard.source, f"{shard.number}.parquet")["reason"].to_pylist()
    ]
    assert reasons.count("removed") == 3


def test_by_address_and_by_age(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    plan = remove.plan(removal(root, url_pattern=r"/[78]\.png$"))
    assert (plan["counts"], plan["invalid_mixtures"]) == ({"removed": 2}, {"all": 2, "few": 2})
    assert not root.exists(removals.FOLDER)
    assert remove.run(removal(root, url_pattern=r"/[78]\.png$"))["counts"] == {"removed": 2}
    assert remove.run(removal(root, older_than=1, source="cc12m"))["counts"] == {}
    found = remove.run(removal(root, older_than=0, source="cc12m"))
    assert found["counts"] == {"removed": ROWS - 1 - 2}
    assert manifest_rows(root, "all") == []


def test_wrong_input_is_one_line(root: Root, tmp_path: Path) -> None:
    file, uid = tmp_path / "uids", uid_of(root, 1)
    for text, says in (("", "holds no uids"), ("x\n", "line 1 is 'x', not a uid"), ("0" * 32, "none of its 1 uids")):
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            remove.run(removal(root, uid_file=str(file)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"url_pattern": "(x"}, "is no regular expression"),
        ({"url_pattern": ".*"}, "found in every address"),
        ({"url_pattern": "x", "older_than": 1}, "--url-pattern, --older-than: give one"),
        ({"older_than": 1}, "give --source too"),
        ({"url_pattern": "x", "reason": " "}, "say why"),
        ({}, "nothing to remove"),
    ]
    for fields, says in wrong:
        with pytest.raises(ConfigError, match=says):
            remove.run(removal(root, **fields))
    with pytest.raises(InputError, match="no rows of nobody; there is cc12m"):
        remove.run(removal(root, older_than=1, source="nobody"))
    file.write_text(f"{uid}\n{'0' * 32}\n")
    assert remove.run(removal(root, uid_file=str(file)))["counts"] == {"removed": 1, "unknown": 1}
    assert remove.run(removal(root, uid_file=str(file)))["counts"] == {"removed_before": 1, "unknown": 1}


class Killed(BaseException):
    """Stands for the end of the process."""


def files(root: Root) -> dict[str, bytes]:
    """All files but those that hold times."""
    found = {str(p.relative_to(root.local())): p.read_bytes() for p in root.local().rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("catalog", "runs"))}


@pytest.mark.slow
def test_a_run_that_was_cut_short_at_any_write_is_ended_by_the_next(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"url_pattern": "/[25][.]png$", "compact": True}
    wanted, stop, writes = needles(root), 0, 0
    shutil.rmtree(root.local("catalog"))
    root.remove("catalog.duckdb")
    whole = Root(str(shutil.copytree(root.url, tmp_path / "whole")))
    remove.run(removal(whole, **arguments))
    assert traces(whole, wanted) == set()
    expected = files(whole)

    @contextmanager
    def cut(path: Path, folder: Path | None = None) -> Iterator[Path]:
        nonlocal writes
        writes += 1
        if writes == stop:
            raise Killed
        with published(path, folder) as temporary:
            yield temporary

    monkeypatch.setattr(roots, "published", cut)
    while True:
        stop, writes = stop + 1, 0
        copy = Root(str(shutil.copytree(root.url, tmp_path / f"cut{stop}")))
        try:
            remove.run(removal(copy, **arguments))
            break
        except Killed:
            writes = -(10**6)
            if stop > 1 and removals.state(copy).get("applied") is None:
                with pytest.raises(InputError, match="has not come to its end"):
                    index.run(index.IndexConfig(root=copy.url))
            # Nothing was recorded before the first write.
            remove.run(removal(copy, **(arguments if stop == 1 else {"compact": True})))
        assert files(copy) == expected, stop
        shutil.rmtree(copy.local())
    assert stop > 15


KILL = """
import os, signal, sys
from pipelines.store import root
publish, left = root.published, [int(sys.argv[1])]
def cut(path, folder=None):
    left[0] -= 1
    if left[0] < 0:
        os.makedirs(f"{path.parent}/.writing", exist_ok=True)
        open(f"{path.parent}/.writing/{path.name}.half", "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return publish(path, folder)
root.published = cut
from pipelines.cli import main
main(["remove", "--root", sys.argv[2], "--url-pattern", "/[25][.]png$", "--reason", "r", "--compact"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 16])
def test_a_killed_run_is_ended_by_the_next(root: Root, after: int) -> None:
    wanted = needles(root)
    command = [sys.executable, "-c", KILL, str(after), root.url]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert main(["remove", "--root", root.url, "--compact"]) == 0
    assert traces(root, wanted) == set()
    with connect(root) as con:
        assert con.execute("SELECT count(*) FROM samples WHERE reason = 'removed'").fetchall() == [(3,)]


def test_an_adopted_tar_is_named_and_its_row_stays_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, folder = Root(str(tmp_path / "root")), study(tmp_path / "study")
    adopt.run(adoption(root, folder))
    uid, tar = rows_of(root)[3]["uid"], folder / "shard_000000.tar"
    before = tar.read_bytes()
    (tmp_path / "uids").write_text(uid)
    found = remove.run(removal(root, uid_file=str(tmp_path / "uids"), compact=True))
    assert (found["adopted_tars"], found["tars_written"], tar.read_bytes()) == ([str(tar)], 0, before)
    assert "is yours and was left as it is" in capsys.readouterr().err
    for touch in (False, True):  # as it is, and read once more
        if touch:
            os.utime(tar)
        adopt.run(adoption(root, folder))
        assert [row["reason"] for row in rows_of(root)].index("removed") == 3
    row = rows_of(root)[3]
    assert {name: row[name] for name in ("uid", "caption", "offset", "sha256")} == {
        "uid": uid, "caption": None, "offset": None, "sha256": None,
    }  # fmt: skip
