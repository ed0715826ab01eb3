"""Tars that were there already, through to a mixture: img2dataset's own, resharded, the study's."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from filters.pixels import decode, phash, pixel_hash
from pipelines import adopt, build_mix, dedupe, index, score
from pipelines.adopted.stage import Stager
from pipelines.identity import uid_of
from pipelines.sql import explain
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.store.schema import SHARD
from pipelines.store.shards import read_images
from tests.pipelines import adoptable
from tests.pipelines.adoptable import contents, image, resharded, rows_of, settings, study, uid
from tests.pipelines.chain import picture_server
from trainer.dataset import Fit, MixtureDataset

LISTED = 23
GONE, BROKEN, OPTED_OUT, SILENT = 3, 4, 5, 22  # SILENT has no caption
FAULTS: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
    f"/{GONE}.png": [(404, {}, b"")],
    f"/{BROKEN}.png": [(200, {}, b"no picture")],
    f"/{OPTED_OUT}.png": [(200, {"X-Robots-Tag": "noai"}, b"")],
}
RESHARDED = [[1, 2, 2, 3], [3, 4, 5]]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders: `img2dataset` (its real output), `resharded` and `study`."""
    folder = tmp_path_factory.mktemp("others")
    with picture_server(FAULTS) as server:
        here = f"http://127.0.0.1:{server.server_address[1]}"
        table = pa.table({
            "url": [f"{here}/{number}.png" for number in range(LISTED)],
            "caption": [f"number {number}" if number != SILENT else None for number in range(LISTED)],
            "similarity": pa.array(np.arange(LISTED) / 64, pa.float32()),
            "NSFW": ["UNLIKELY"] * LISTED,
        })  # fmt: skip
        pq.write_table(table, folder / "listed.parquet")
        adoptable.img2dataset(folder / "listed.parquet", folder / "img2dataset")
    resharded(folder / "resharded", RESHARDED)
    study(folder / "study")
    return folder


@pytest.fixture(scope="module")
def root(others: Path, tiny_model: Path) -> Iterator[Root]:
    """All three adopted into one root, scored, deduplicated and indexed."""
    root = Root(str(others / "root"))
    before = contents(others)
    for name in SOURCES:
        adopt.run(settings(root, others / name, name))
    assert {path: data for path, data in contents(others).items() if root.url not in path} == before
    score.run(score.ScoreConfig(root=root.url, local=True, model=str(tiny_model)))
    dedupe.run(dedupe.DedupeConfig(root=root.url))
    index.run(index.IndexConfig(root=root.url))
    yield root


SOURCES = ("img2dataset", "resharded", "study")


def number_of(row: dict[str, Any]) -> int:
    return int(row["url"].rsplit("/", 1)[1].removesuffix(".png"))


def test_img2datasets_rows_are_all_there_with_their_reasons(root: Root) -> None:
    rows = {number_of(row): row for row in rows_of(root, "img2dataset")}
    failed = {GONE: "http_404", BROKEN: "decode", OPTED_OUT: "opt_out", SILENT: "no_caption"}
    assert {number: row["reason"] for number, row in rows.items()} == {n: failed.get(n, "ok") for n in range(LISTED)}
    assert rows[GONE]["status"] == rows[OPTED_OUT]["status"] == "failed_to_download"
    assert rows[GONE]["error_message"] == "HTTP Error 404: Not Found"
    assert rows[BROKEN]["status"] == "failed_to_resize"
    for number, row in rows.items():
        assert row["uid"] == uid_of("img2dataset", "", row["url"], [row["caption"] or ""])
        assert row["scores_declared"] == [("similarity", number / 64)]
        assert row["nsfw_declared"] == "UNLIKELY"
        if row["reason"] == "ok":
            assert (row["width"], row["original_width"], row["caption"]) == (32, 48, f"number {number}")


def test_img2datasets_own_columns_agree_with_its_parquet(root: Root, others: Path) -> None:
    theirs = pa.concat_tables([pq.read_table(path) for path in sorted((others / "img2dataset").glob("*.parquet"))])
    listed = {row["key"]: row for row in theirs.to_pylist()}
    same = ("url", "caption", "width", "height", "original_width", "original_height", "exif", "sha256")
    for row in rows_of(root, "img2dataset"):
        for name in same:
            assert row[name] == listed[row["key"]][name], name
        if row["reason"] != "no_caption":
            assert (row["status"], row["error_message"]) == tuple(
                listed[row["key"]][name] for name in ("status", "error_message")
            )
    counts = [json.loads(path.read_text()) for path in sorted((others / "img2dataset").glob("*_stats.json"))]
    ours = [root.read_json("shards", "img2dataset", f"{number:05d}_stats.json") for number in range(3)]
    for name in ("count", "failed_to_download", "failed_to_resize"):
        assert [c[name] for c in ours] == [c[name] for c in counts]


def test_resharded_samples_keep_their_uids_and_repetitions_point_at_the_first(root: Root) -> None:
    rows = rows_of(root, "resharded")
    assert [row["reason"] for row in rows] == ["ok", "ok", "duplicate_row", "ok", "duplicate_row", "ok", "ok"]
    assert [row["uid"] for row in rows if row["reason"] == "ok"] == [uid(n) for n in (1, 2, 3, 4, 5)]
    again = [row for row in rows if row["reason"] == "duplicate_row"]
    assert [row["duplicate_row_of"] for row in again] == [uid(2), uid(3)]
    assert [row["uid"] for row in again] == [
        uid_of("resharded", "00000000.tar", "2", ()), uid_of("resharded", "00000001.tar", "0", ()),
    ]  # fmt: skip
    assert {row["status"] for row in again} == {"skipped"}
    assert rows[0]["mime"] == "image/webp"
    assert rows[0]["scores_declared"] == [("clip_l14_similarity_score", 1 / 64)]
    assert rows[0]["original_width"] == 400


def test_the_studys_samples_are_known_by_their_uuids(root: Root) -> None:
    rows = rows_of(root, "study")
    assert len(rows) == 12
    assert {row["shard"] for row in rows} == {"000000", "000001"}
    for number, row in enumerate(rows):
        assert row["uid"] == uid_of("study", row["key"], "", [f"a picture of number {number}"])
        assert row["sha256"] == hashlib.sha256(image(number)).hexdigest()


@pytest.mark.parametrize("source", SOURCES)
def test_offsets_lead_to_the_tars_own_bytes(root: Root, others: Path, source: str) -> None:
    for shard in [shard for shard in root.shards("shards") if shard.source == source]:
        table = root.read_table("shards", source, f"{shard.number}.parquet")
        assert table.schema.equals(SHARD.arrow)
        link = root.local("shards", source, f"{shard.number}.tar")
        assert link.is_symlink() and link.resolve().parent == others / source
        stored = [row for row in table.to_pylist() if row["offset"] is not None]
        with tarfile.open(link) as tar:
            files = {m.offset_data: (m.name, tar.extractfile(m)) for m in tar.getmembers()}
        with tarfile.open(link) as tar:
            wanted = {m.offset_data: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        found = read_images(root, pa.Table.from_pylist(stored, SHARD.arrow))
        for row, data in zip(stored, found, strict=True):
            assert data == wanted[row["offset"]]
            assert files[row["offset"]][0].rsplit(".", 1)[0] == row["key"]
            pixels = decode(data, max_pixels=10**6).rgb
            assert (row["phash"], row["pixel_hash"]) == (phash(pixels), pixel_hash(pixels))
            assert (row["height"], row["width"]) == pixels.shape[:2]


def test_every_later_stage_takes_them_through_to_a_mixture(root: Root, others: Path, tmp_path: Path) -> None:
    successes = {source: sum(r["status"] == "success" for r in rows_of(root, source)) for source in SOURCES}
    assert successes == {"img2dataset": LISTED - 4, "resharded": 5, "study": 12}
    with connect(root) as con:
        query = "SELECT source::VARCHAR, count(*) FILTER (clip_score IS NOT NULL) FROM samples GROUP BY 1 ORDER BY 1"
        assert dict(con.execute(query).fetchall()) == successes
        history = explain(con, uid(2))
        assert history["sample"]["status"] == "success"
    # number 1 is a picture of both of the others, stored in different formats; numbers 2 and 4 are the same bytes
    config = {"root": root.url, "name": "all", "total": 30, "sources": [{"source": s} for s in SOURCES]}
    mix = build_mix.MixJobConfig.model_validate({**config, "on_shortage": "truncate", "exclude_duplicates": False})
    build_mix.run(mix)
    dataset = MixtureDataset(
        root.local("mixes", "all", "manifest.parquet"),
        root.local("shards"),
        view=Fit(32),
        tokenize=lambda captions: torch.zeros(len(captions), 1, dtype=torch.int64),
        size=32,
        scratch=tmp_path,
    )
    rows = {row["uid"]: row for source in SOURCES for row in rows_of(root, source)}
    assert dict(zip(dataset.sources, dataset.rows.counts.tolist(), strict=True)) == {
        "img2dataset": 10,
        "resharded": 5,
        "study": 10,
    }
    seen = [dataset.sample(position)[-1] for position in range(len(dataset))]
    assert sorted(seen) == list(range(25))  # each can be decoded: none was replaced by another
    for row in seen:
        (caption,) = dataset.rows.captions(np.array([row]), np.zeros(1, np.uint64))
        assert caption == rows[dataset.rows.uid(row)]["caption"]
    dataset.close()


def test_our_own_shards_can_be_adopted_by_another_root(root: Root, tmp_path: Path) -> None:
    """Their rows say the same again, whatever they had failed of."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in root.names("shards", "img2dataset"):
        shutil.copyfile(root.local("shards", "img2dataset", name), copy / name)
    other = Root(str(tmp_path / "root"))
    adopt.run(settings(other, copy, "img2dataset"))
    before = {row["uid"]: row for row in rows_of(root, "img2dataset")}
    after = {row["uid"]: row for row in rows_of(other, "img2dataset")}
    assert {u: {**row, "line": None} for u, row in after.items()} == {
        u: {**row, "line": None} for u, row in before.items()
    }


def test_work_travels_to_other_processes(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    make = pickle.loads(pickle.dumps(partial(Stager, root, 10**6)))
    stager = make()
    tars = adopt._tars(root, settings(root, study(tmp_path / "study")))
    assert stager(pickle.loads(pickle.dumps(tars[0])))["rows"] == 6
    stager.close()


@pytest.mark.usefixtures("ray_session")
def test_on_ray_the_shards_are_the_same(tmp_path: Path) -> None:
    folder = study(tmp_path / "study")
    for name, local in (("here", True), ("ray", False)):
        adopt.run(settings(Root(str(tmp_path / name)), folder, local=local))
    here, ray = (contents(tmp_path / name / "shards") for name in ("here", "ray"))
    assert {n.replace("/here/", "/ray/"): data for n, (_, data) in here.items()} == {
        n: d for n, (_, d) in ray.items()
    }
