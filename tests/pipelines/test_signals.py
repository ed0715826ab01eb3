"""The signals job: its columns, what makes it anew, and what it leaves for the catalog."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import save_file

from pipelines import signals
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD, SIGNALS
from pipelines.store.shards import write_parquet
from tests.pipelines.signal_roots import (
    BASE,
    DIM,
    MODEL,
    ROWS,
    SHARDS,
    config,
    files,
    make_root,
    table_of,
    uid,
    vectors_of,
    write_features,
    write_reference,
    write_shard,
)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return make_root(tmp_path)


def test_every_column_of_every_successful_row(root: Root, tmp_path: Path) -> None:
    write_reference(root, "icons", np.eye(DIM, dtype=np.float16)[[1, 1, 2]])
    summary = signals.run(config(root, **files(tmp_path), reference=["icons"]))
    assert summary["counts"] == {"done": 3 * ROWS}
    assert summary["asked"] == [name for name in SIGNALS.names if name != "uid"]
    for shard in SHARDS:
        table = table_of(root, summary["signals"], shard)
        assert table.schema.equals(SIGNALS.arrow)
        found = table.to_pydict()
        assert found["uid"] == [uid(shard, row) for row in range(ROWS)]
        assert found["caption_words"] == [9, 10, 1, None, 4, 4]
        assert found["language"][:2] == ["en", "de"]
        assert found["caption_blocked"] == [False, False, False, None, False, True]
        assert found["entries"] == [[0, 1], [], [], None, [1], [1]]
        assert found["text_based"] == [True, False, False, None, True, True]
        assert found["cluster"] == [0, 1, 2, 3, 0, 1]
        assert found["image_based"] == [False, True, True, False, False, True]
        low, high = 0.5, 1 / (1 + np.exp(-2))
        assert found["nsfw_score"] == pytest.approx([high, low, low, low, high, low], abs=1e-6)


def test_what_is_not_asked_for_is_null(root: Root) -> None:
    summary = signals.run(config(root))
    assert summary["asked"] == BASE
    table = table_of(root, summary["signals"])
    assert table.schema.equals(SIGNALS.arrow)
    empty = {name for name in table.column_names if table[name].null_count == ROWS}
    assert empty == {*SIGNALS.names} - {*BASE, "uid"}


def test_the_catalog_finds_what_signals_were_made_with(root: Root, tmp_path: Path) -> None:
    entries = tmp_path / "entries.json"
    entries.write_text(json.dumps(["two words", "a, comma", "", "dog"]))
    name = signals.run(config(root, **{**files(tmp_path), "entries": str(entries)}))["signals"]
    about = root.read_json("signals", name, "signals.json")
    assert (about["features"], about["entries"], about["clusters"], about["reference"]) == (MODEL, 3, DIM, [])
    assert "image_based" not in about["asked"]
    assert root.read_bytes("signals", name, "entries.txt") == b"two words\na, comma\ndog\n"
    assert np.array_equal(np.load(root.local("signals", name, "centroids.npy")), np.eye(DIM))
    assert root.shards("signals", name) == SHARDS
    assert {row[-1] for row in table_of(root, name)["entries"].to_pylist() if row} == {2}


def change(path: str) -> None:
    """Other contents of the same kind under the same name."""
    file = Path(path)
    if file.suffix == ".npy":
        np.save(file, 2 * np.load(file))
    elif file.suffix == ".safetensors":
        save_file({"0.weight": np.array([[3, 0, 0, 0]], np.float32)}, file)
    else:
        file.write_text(file.read_text() + "cow\n")


def test_contents_and_settings_name_the_run_and_paths_do_not(root: Root, tmp_path: Path) -> None:
    write_reference(root, "icons", np.eye(DIM, dtype=np.float16)[[1]])
    fields = {**files(tmp_path), "reference": ["icons"]}
    names = [signals.run(config(root, **fields))["signals"]]
    assert signals.run(config(root, **fields, cpus=0.5))["signals"] == names[0]
    for field in ("blocklist", "entries", "classes", "centroids", "nsfw_head"):
        change(fields[field])
        names.append(signals.run(config(root, **fields))["signals"])
    names.append(signals.run(config(root, **fields, nsfw_output="linear"))["signals"])
    write_reference(root, "icons", np.eye(DIM, dtype=np.float16)[[2]])
    names.append(signals.run(config(root, **fields))["signals"])
    assert len(set(names)) == len(names)
    for field in ("blocklist", "entries", "classes", "centroids", "nsfw_head"):
        path = Path(fields[field])
        fields[field] = str(path.rename(path.with_name("moved-" + path.name)))
    again = signals.run(config(root, **fields))
    assert (again["signals"], again["shards_skipped"]) == (names[-1], 3)


def test_only_what_changed_is_made_again(root: Root, tmp_path: Path) -> None:
    fields = files(tmp_path)
    assert signals.run(config(root, **fields))["shards_done"] == 3
    assert signals.run(config(root, **fields))["shards_skipped"] == 3
    write_shard(root, SHARDS[0], mark="downloaded anew")
    assert signals.run(config(root, **fields))["shards_done"] == 1
    # As after a model of the same name was adopted with other features: they have another mark.
    table = root.read_table("features", MODEL, "wit", "00000.parquet").replace_schema_metadata()
    root.write_table(table, "features", MODEL, "wit", "00000.parquet", metadata={KEY: "other"})
    assert signals.run(config(root, **fields))["shards_done"] == 1
    assert signals.run(config(root))["shards_done"] == 3, "without embeddings these are other signals"
    write_shard(root, ShardId("wit", "00001"))
    write_features(root, ShardId("wit", "00001"), vectors_of(SHARDS[0]))
    assert signals.run(config(root, **fields))["shards_done"] == 1


def test_what_changes_while_a_shard_is_done_makes_it_once_more(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = signals.load_rows

    def load_and_replace(there: Root, shard: ShardId, features: str | None) -> pa.Table:
        table = load(there, shard, features)
        if shard == SHARDS[0]:
            write_shard(root, shard, mark="downloaded anew")
        return table

    monkeypatch.setattr(signals, "load_rows", load_and_replace)
    assert signals.run(config(root, **files(tmp_path)))["shards_done"] == 3
    monkeypatch.undo()
    assert signals.run(config(root, **files(tmp_path)))["shards_done"] == 1


def test_features_in_another_order_are_matched_by_uid(root: Root, tmp_path: Path) -> None:
    order = [3, 1, 5, 0, 2, 4]
    shard = SHARDS[0]
    write_features(root, shard, vectors_of(shard)[order], [uid(shard, row) for row in order])
    name = signals.run(config(root, **files(tmp_path)))["signals"]
    assert table_of(root, name)["cluster"].to_pylist() == [0, 1, 2, 3, 0, 1]


def test_embeddings_that_came_with_the_metadata_serve_retries(root: Root, tmp_path: Path) -> None:
    retry = ShardId("wit", "00009")
    write_shard(root, retry, attempt=1, first=SHARDS[2])
    name = signals.run(config(root, **files(tmp_path)))["signals"]
    assert table_of(root, name, retry)["cluster"].to_pylist() == [0, 1, 2, 3, 0, 1]


def test_a_shard_without_pictures_has_signals_of_none(root: Root, tmp_path: Path) -> None:
    shard = ShardId("wit", "00001")
    columns = {name: pa.nulls(0, SHARD.arrow.field(name).type) for name in SHARD.names}
    write_parquet(root, shard, pa.table(columns), {KEY: "m"})
    name = signals.run(config(root, **files(tmp_path)))["signals"]
    table = table_of(root, name, shard)
    assert table.num_rows == 0
    assert table.schema.equals(SIGNALS.arrow)


def test_clusters_are_found_once_and_kept(root: Root, tmp_path: Path) -> None:
    first = signals.run(config(root, clusters=2))
    clusters = table_of(root, first["signals"])["cluster"].to_pylist()
    assert clusters[:2] == clusters[4:]
    assert set(clusters) == {0, 1}
    kept = root.local("centroids", MODEL, "k2-seed0.npy")
    before = kept.read_bytes()
    kept.unlink()
    assert signals.run(config(root, clusters=2))["signals"] == first["signals"], "the same shards, the same clusters"
    new = ShardId("wit", "00001")
    write_shard(root, new)
    write_features(root, new, -vectors_of(new))
    second = signals.run(config(root, clusters=2))
    assert (second["signals"], second["shards_done"], second["shards_skipped"]) == (first["signals"], 1, 3)
    assert kept.read_bytes() == before
    assert signals.run(config(root, centroids=str(kept)))["signals"] == first["signals"]
    kept.unlink()
    assert signals.run(config(root, clusters=2))["signals"] != first["signals"]


def test_a_torch_head_is_that_of_its_numbers(root: Root, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.tensor([[2.0, 0, 0, 0]]).bfloat16()}, tmp_path / "head.pt")
    fields = files(tmp_path)
    del fields["centroids"]
    one = signals.run(config(root, **fields))
    two = signals.run(config(root, **{**fields, "nsfw_head": str(tmp_path / "head.pt")}))
    assert table_of(root, two["signals"]).equals(table_of(root, one["signals"]))


def test_a_dry_run_says_what_would_be_done(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert signals.main(["--root", root.url, "--clusters", "2", "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shards"] == [str(shard) for shard in SHARDS]
    assert (said["asked"], said["features"]) == ([*BASE, "cluster"], MODEL)
    assert not root.exists("signals")
    assert not root.exists("centroids")


def test_what_workers_get_travels_and_gives_the_same(root: Root, tmp_path: Path) -> None:
    write_reference(root, "icons", np.eye(DIM, dtype=np.float16)[[1]])
    asked = config(root, **files(tmp_path), reference=["icons"])
    name = signals.run(asked)["signals"]
    make = partial(signals.make_signal, signals.open_inputs(root, asked))
    load = partial(signals.load_rows, features=MODEL)
    make, load, there = pickle.loads(pickle.dumps((make, load, root)))
    assert make()(load(there, SHARDS[1])).equals(table_of(root, name, SHARDS[1]))
