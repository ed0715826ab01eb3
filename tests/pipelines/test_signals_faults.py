"""The signals job: what corrupt features, bad settings and a kill end in."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from filters.errors import BudgetExceeded, ConfigError, InputError, ModelError
from pipelines import signals
from pipelines.store.root import Root, ShardId
from tests.pipelines.signal_roots import (
    DIM,
    MODEL,
    ROWS,
    SHARDS,
    config,
    files,
    make_root,
    uid,
    vectors_of,
    write_features,
    write_reference,
    write_shard,
)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return make_root(tmp_path)


def holding(value: float) -> npt.NDArray[np.float16]:
    vectors = vectors_of(SHARDS[0])
    vectors[2, 1] = value
    return vectors


def corrupt(root: Root, kind: str) -> None:
    shard = SHARDS[0]
    if kind == "nan":
        write_features(root, shard, holding(np.nan))
    elif kind == "infinity":
        write_features(root, shard, holding(np.inf))
    elif kind == "width":
        write_features(root, shard, np.ones((ROWS, DIM + 1), np.float16))
    elif kind == "missing":
        root.remove("features", MODEL, shard.source, f"{shard.number}.parquet")
    elif kind == "rows":
        write_features(root, shard, vectors_of(shard)[:-2])
    elif kind == "strangers":
        write_features(root, shard, vectors_of(shard), [uid(SHARDS[1], row) for row in range(ROWS)])
    elif kind == "bytes":
        root.local("features", MODEL, shard.source, f"{shard.number}.parquet").write_bytes(b"PAR1 nothing")
    else:
        flat = pa.array([[1.0] * DIM] * ROWS, pa.list_(pa.float32()))
        table = pa.table({"uid": [uid(shard, row) for row in range(ROWS)], "image_embedding": flat})
        root.write_table(table, "features", MODEL, shard.source, f"{shard.number}.parquet")


CORRUPT = [
    ("nan", r"features/\w+: .* 1 rows hold NaN or infinity, the first is row 2 \(uid 0\w+2\); delete"),
    ("infinity", "1 rows hold NaN or infinity.*; delete the shard's file there and run `headwater score` again"),
    ("width", "has 5 numbers a row, 4 are needed.*; delete the shard's file there and run `headwater score` again"),
    ("missing", r"00000\.parquet: not there; run `headwater score`"),
    ("rows", "lacks 2 of the shard's 6 pictures, the first is uid 0"),
    ("strangers", "lacks 6 of the shard's 6 pictures"),
    ("bytes", "cannot be read.*; delete it and run its stage again"),
    ("list", "expected a fixed-size list.*; delete the shard's file there and run `headwater score` again"),
]


@pytest.mark.parametrize(("kind", "text"), CORRUPT)
def test_corrupt_features_fail_their_shard_alone(root: Root, tmp_path: Path, kind: str, text: str) -> None:
    corrupt(root, kind)
    fields = files(tmp_path)
    summary = signals.run(config(root, **fields))
    assert summary["shards_done"] == 2
    [(shard, message)] = summary["shards_failed"].items()
    assert shard == "cc12m/00000"
    assert re.search(text, message)
    assert "\n" not in message
    assert not root.exists("signals", summary["signals"], "cc12m", "00000.parquet")
    with pytest.raises(BudgetExceeded, match="cc12m/00000"):
        signals.run(config(root, **fields, max_failed_fraction=0.1))
    write_features(root, SHARDS[0], vectors_of(SHARDS[0]))
    mended = signals.run(config(root, **fields))
    assert (mended["shards_done"], mended["shards_skipped"], mended["signals"]) == (1, 2, summary["signals"])


def test_the_first_shard_may_be_corrupt_where_no_model_is_described(root: Root, tmp_path: Path) -> None:
    root.write_json(["no", "width"], "features", MODEL, "model.json")
    corrupt(root, "bytes")
    assert list(signals.run(config(root, **files(tmp_path)))["shards_failed"]) == ["cc12m/00000"]
    for shard in SHARDS[1:]:
        root.remove("features", MODEL, shard.source, f"{shard.number}.parquet")
    with pytest.raises(InputError, match="holds no embeddings; run `headwater score`"):
        signals.run(config(root, **files(tmp_path)))


@pytest.mark.parametrize("wrong", [{"reference": ["nowhere"]}, {"nsfw_head": "nowhere.npz"}, {"entries": "nowhere"}])
def test_what_is_wrong_is_said_before_clusters_are_looked_for(root: Root, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="nowhere"):
        signals.run(config(root, clusters=2, **wrong))
    assert not root.exists("centroids", MODEL, "k2-seed0.npy")


def test_a_corrupt_shard_does_not_take_part_in_clusters(root: Root) -> None:
    corrupt(root, "nan")
    summary = signals.run(config(root, clusters=2))
    assert list(summary["shards_failed"]) == ["cc12m/00000"]
    assert np.isfinite(np.load(root.local("centroids", MODEL, "k2-seed0.npy"))).all()


@pytest.mark.parametrize("content", ["text", "pickle", "list", "empty"])
def test_a_torch_file_of_anything_else_is_refused(root: Root, tmp_path: Path, content: str) -> None:
    path = tmp_path / "head.pt"
    if content in ("text", "empty"):
        path.write_text("not weights" if content == "text" else "")
    else:
        torch.save([1] if content == "list" else {"0.weight": Path("x")}, path)
    with pytest.raises(InputError, match=str(path)) as caught:
        signals.run(config(root, nsfw_head=str(path)))
    assert "\n" not in str(caught.value)


SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"centroids": "c.npy", "clusters": 3}, ConfigError, "give one of them"),
    ({"reference": ["icons"]}, ConfigError, "give --centroids or --clusters"),
    ({"features": MODEL}, ConfigError, "nothing reads them"),
    ({"features": "other", "clusters": 2}, ConfigError, f"'other'.*there is {MODEL}"),
    ({"clusters": 99}, InputError, "18 embeddings are too few for 99 clusters"),
    ({"centroids": "none.npy"}, InputError, r"none\.npy: cannot be read \(No such file"),
    ({"centroids": "wide.npy"}, InputError, r"wide\.npy: centroids have 5 numbers, the embeddings 4"),
    ({"centroids": "nan.npy"}, InputError, r"nan\.npy: holds NaN"),
    ({"centroids": "flat.npy"}, InputError, r"flat\.npy: expected an array"),
    ({"centroids": "pickled.npy"}, InputError, r"pickled\.npy: is no \.npy array"),
    ({"centroids": "text.npy"}, InputError, r"text\.npy: is no \.npy array"),
    ({"clusters": 2, "reference": ["icons"]}, InputError, r"icons\.parquet: not there \(embedded are: wide\)"),
    ({"clusters": 2, "reference": ["wide"]}, InputError, r"wide\.parquet: image_embedding: has 5 numbers"),
    ({"nsfw_head": "wide.npz"}, InputError, r"wide\.npz: takes 5 numbers, the embeddings have 4"),
    ({"nsfw_head": "none.npz"}, InputError, r"none\.npz: cannot be read"),
    ({"nsfw_head": "none.pt"}, InputError, r"none\.pt: cannot be read"),
    ({"blocklist": "none.txt"}, InputError, r"none\.txt: cannot be read"),
    ({"entries": "none.txt"}, InputError, r"none\.txt: cannot be read"),
    ({"classes": "none.txt"}, InputError, r"none\.txt: cannot be read"),
    ({"language_model": "none.bin"}, ModelError, r"none\.bin: no such file"),
]


@pytest.mark.parametrize(("fields", "kind", "text"), SETTINGS)
def test_bad_settings_end_before_any_shard(
    root: Root, tmp_path: Path, fields: dict[str, Any], kind: type[Exception], text: str
) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, DIM + 1), np.float32))
    np.save(tmp_path / "nan.npy", np.full((3, DIM), np.nan, np.float32))
    np.save(tmp_path / "flat.npy", np.ones(DIM, np.float32))
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "wide.npz", allow_pickle=False, **{"0.weight": np.ones((1, DIM + 1), np.float32)})
    write_reference(root, "wide", np.ones((2, DIM + 1), np.float16))
    placed = {k: str(tmp_path / v) if isinstance(v, str) and "." in v else v for k, v in fields.items()}
    with pytest.raises(kind, match=text) as caught:
        signals.run(config(root, **placed))
    assert "\n" not in str(caught.value)
    assert not root.exists("signals")


def test_nothing_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `headwater download` first"):
        signals.run(config(Root(str(tmp_path / "nothing"))))


def published(root: Root) -> dict[str, bytes]:
    """Every file that the job left, by path."""
    folder = root.local("signals")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_job_resumes_to_the_same_bytes(root: Root, tmp_path: Path) -> None:
    for number in range(2, 40):
        shard = ShardId("cc12m", f"{number:05d}")
        write_shard(root, shard)
        write_features(root, shard, vectors_of(shard))
    fields = files(tmp_path)
    flags = [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "pipelines.signals", "--root", root.url, "--local", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        for line in job.stderr:
            if line.startswith("signals: 5/"):
                job.send_signal(signal.SIGKILL)
    assert job.returncode == -signal.SIGKILL
    [name] = root.names("signals")
    done = len(root.shards("signals", name))
    assert 5 <= done < 41
    resumed = signals.run(config(root, **fields))
    assert (resumed["shards_skipped"], resumed["shards_done"]) == (done, 41 - done)
    found = published(root)
    assert len(found) == 41 + 3
    root.local("signals").rename(tmp_path / "resumed")
    signals.run(config(root, **fields))
    assert published(root) == found
