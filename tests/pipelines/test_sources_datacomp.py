"""The reader `datacomp`: its uids, its scores, and the embeddings that lie beside its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.errors import ConfigError, InputError
from pipelines import download, index
from pipelines.identity import identified
from pipelines.ingest import IngestConfig, run
from pipelines.sources import SOURCES
from pipelines.sources.datacomp import DIMS, MODELS, sidecars
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.store.schema import features
from tests.pipelines.chain import picture_server
from tests.pipelines.source_dumps import NOTHING, rows


def uid(number: int) -> str:
    return f"{number * 7919:032x}"


def datacomp_dump(
    folder: Path, count: int, name: str = "00000000", vectors: bool = True, host: str = "http://a/{name}"
) -> dict[str, Any]:
    """A metadata file of `count` rows and its side file; the embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    metadata = {
        "uid": [uid(n) for n in range(count)],
        "url": [f"{host.format(name=name)}/{n}.jpg" for n in range(count)],
        "text": [f"picture {n}" for n in range(count)],
        "original_width": pa.array([640] * count, pa.int64()),
        "original_height": pa.array([480] * count, pa.int64()),
        "clip_b32_similarity_score": pa.array(rng.random(count), pa.float32()),
        "clip_l14_similarity_score": pa.array(rng.random(count), pa.float32()),
        "face_bboxes": pa.array([[[0.1, 0.2, 0.3, 0.4]] if n % 3 == 0 else [] for n in range(count)]),
        "sha256": [f"{n:064x}" for n in range(count)],
    }
    pq.write_table(pa.table(metadata), folder / f"{name}.parquet")
    arrays: dict[str, Any] = {key: rng.standard_normal((count, dim)).astype(np.float16) for key, dim in DIMS.items()}
    if vectors:
        np.savez(folder / f"{name}.npz", **arrays)
    return arrays


def test_datacomp_golden_row(tmp_path: Path) -> None:
    datacomp_dump(tmp_path, 2, vectors=False)
    row = rows("datacomp", tmp_path / "00000000.parquet")[1]
    scores = dict(row.pop("scores_declared"))
    assert row == {
        **{name: None for name in NOTHING if name != "scores_declared"},
        "file": "00000000.parquet",
        "line": 1,
        "url": "http://a/00000000/1.jpg",
        "native_id": "",
        "caption_raw": {"text": "picture 1"},
        "hash_declared": f"sha256:{1:064x}",
        "face_bboxes": [],
        "uid_declared": uid(1),
        "reason": "ok",
    }
    assert list(scores) == [
        "original_width", "original_height", "clip_b32_similarity_score", "clip_l14_similarity_score"
    ]  # fmt: skip
    assert scores["original_width"] == 640.0


def test_datacomp_keeps_its_uids_and_refuses_others(tmp_path: Path) -> None:
    datacomp_dump(tmp_path, 4, vectors=False)
    file = tmp_path / "00000000.parquet"
    dump = pq.read_table(file)
    uids = [uid(0), uid(0).upper().replace("0", "A"), uid(2), uid(0)]
    pq.write_table(dump.set_column(0, "uid", pa.array(uids)), file)
    config = IngestConfig(root=str(tmp_path / "root"), source="datacomp", metadata=str(tmp_path))
    assert run(config)["counts"] == {"bad_row": 1, "duplicate_row": 1, "ok": 2}
    found = Root(config.root).read_table("metadata", "datacomp", "00000.parquet").to_pylist()
    by_line = {row["line"]: row for row in found}
    assert [by_line[line]["uid"] for line in (0, 2)] == [uid(0), uid(2)]
    assert by_line[3]["duplicate_row_of"] == uid(0)
    assert by_line[0]["uid_lo"] == int(uid(0)[16:], 16)


@pytest.mark.parametrize("packed", [False, True])
def test_embeddings_follow_their_rows_into_feature_sidecars(tmp_path: Path, packed: bool) -> None:
    arrays = datacomp_dump(tmp_path / "dump", 30)
    if packed:
        np.savez_compressed(tmp_path / "dump" / "00000000.npz", **arrays)
    datacomp_dump(tmp_path / "dump", 5, "00000001", vectors=False)
    config = IngestConfig(
        root=str(tmp_path / "root"), source="pool", reader="datacomp", metadata=str(tmp_path / "dump"),
        samples_per_shard=10,
    )  # fmt: skip
    assert run(config)["counts"] == {"duplicate_row": 5, "ok": 30}
    root = Root(config.root)
    for model in MODELS:
        names = root.names("features", model.folder, "pool")
        assert names == root.names("metadata", "pool") == [f"{n:05d}.parquet" for n in range(4)]
        for name in names:
            metadata = root.read_table("metadata", "pool", name).to_pylist()
            sidecar = root.read_table("features", model.folder, "pool", name)
            assert sidecar.schema.equals(features(model.dim).arrow)
            for row, made in zip(metadata, sidecar.to_pylist(), strict=True):
                assert made["uid"] == row["uid"]
                assert made["clip_score"] == pytest.approx(dict(row["scores_declared"])[model.score])
                kept = row["file"] == "00000000.parquet"
                expected = [arrays[key][row["line"]].tolist() if kept else None for key in (model.image, model.text)]
                assert [made["image_embedding"], made["text_embedding"]] == expected


def test_side_files_that_come_later_are_read_and_old_sidecars_go(tmp_path: Path) -> None:
    arrays = datacomp_dump(tmp_path / "dump", 30, vectors=False)
    config = IngestConfig(
        root=str(tmp_path / "root"), source="datacomp", metadata=str(tmp_path / "dump"), samples_per_shard=10
    )
    root = Root(config.root)
    run(config)
    np.savez(tmp_path / "dump" / "00000000.npz", **arrays)
    assert run(config)["shards_done"] == 3
    assert (
        root.read_table("features", MODELS[0].folder, "datacomp", "00000.parquet")["image_embedding"].null_count == 0
    )
    assert run(config)["shards_skipped"] == 3
    root.remove("features", MODELS[1].folder, "datacomp", "00001.parquet")
    assert run(config)["shards_done"] == 3
    assert run(config.model_copy(update={"samples_per_shard": 20}))["shards_done"] == 2
    for model in MODELS:
        assert root.names("features", model.folder, "datacomp") == ["00000.parquet", "00001.parquet"]


def test_scores_of_the_dump_are_those_of_retried_rows_too(tmp_path: Path) -> None:
    datacomp_dump(tmp_path, 12, host="http://pictures.test")
    root = Root(str(tmp_path / "root"))
    run(IngestConfig(root=root.url, source="datacomp", metadata=f"{tmp_path}/*.parquet", samples_per_shard=5))
    with picture_server({f"/{n}.jpg": [(503, {}, b"")] for n in range(4)}) as server:
        fetch = {"resolve": server.resolve, "retries": 0, "limit": {"rate": None}}
        fields = {"root": root.url, "local": True, "max_failed_fraction": 1.0, "verify_hash": False, "fetch": fetch}
        config = download.DownloadConfig.model_validate(fields)
        download.run(config)
        server.faults.clear()
        download.run(config.model_copy(update={"retry": ["http_5xx"]}))
    with pytest.raises(ConfigError, match="choose one, such as --features datacomp-b32"):
        index.run(index.IndexConfig(root=root.url))
    for model in MODELS:
        assert index.run(index.IndexConfig(root=root.url, features=model.folder))["counts"] == {"success": 12}
        with connect(root) as con:
            query = "SELECT uid, clip_score, scores_declared[?], attempt FROM samples ORDER BY uid"
            found = con.execute(query, [model.score]).fetchall()
        assert [row[0] for row in found] == [uid(n) for n in range(12)]
        assert [row[1] for row in found] == pytest.approx([row[2] for row in found])
        assert [row[3] for row in found] == [1] * 4 + [0] * 8


def test_side_files_of_other_rows_are_refused(tmp_path: Path) -> None:
    datacomp_dump(tmp_path, 4)
    np.savez(tmp_path / "00000000.npz", b32_img=np.zeros((5, 512), np.float16))
    with pytest.raises(InputError, match=r"00000000\.npz: b32_img is float16 \(5, 512\), its parquet has 4 rows"):
        rows("datacomp", tmp_path / "00000000.parquet")
    (tmp_path / "00000000.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"00000000\.npz: cannot be read"):
        rows("datacomp", tmp_path / "00000000.parquet")


def test_a_cut_side_file_is_named(tmp_path: Path) -> None:
    """As a copy that stopped leaves it: the directory at its end is gone."""
    datacomp_dump(tmp_path, 40)
    side = tmp_path / "00000000.npz"
    side.write_bytes(side.read_bytes()[:50_000])
    with pytest.raises(InputError, match=r"00000000\.npz: cannot be read"):
        rows("datacomp", tmp_path / "00000000.parquet")


def test_no_rows_make_empty_sidecars() -> None:
    empty = identified(SOURCES["datacomp"].schema.empty_table(), "datacomp")
    assert {name: made.num_rows for name, made in sidecars(empty).items()} == {m.folder: 0 for m in MODELS}
