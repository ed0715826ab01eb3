"""Scoring: sidecars equal to open_clip's own scores, several models, evaluation sets, faults and resuming."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from evaluation.pictures import eval_pictures
from evaluation.tasks import Task, write_task
from filters.errors import BudgetExceeded, InputError
from filters.vectors import vectors
from pipelines import score
from pipelines.cli import main
from pipelines.store.embeddings import read_embeddings
from pipelines.store.fingerprint import KEY
from pipelines.store.models import score_column, score_columns, write_model
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import eval_features, features
from pipelines.store.shards import load_successes, read_images, write_parquet
from tests.conftest import TINY
from tests.pipelines.chain import picture
from tests.pipelines.pictured import Given, add_shard, uid_of
from trainer.images import decode_rgb
from trainer.model import load_model, new_model, save_model

CAPTIONS = ["a square", "two blue circles beside a very long green triangle that ends nowhere at all", "red", "a b c"]


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    folder = tmp_path / "architecture"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return folder


def given(numbers: range) -> list[Given]:
    return [Given(f"p{n}", picture(n), CAPTIONS[n % 4]) for n in numbers]


def filled(folder: Path, *shards: range) -> Root:
    """A root with a shard of pairs for each range of numbers."""
    root = Root(str(folder))
    for number, numbers in enumerate(shards):
        add_shard(root, "cc12m", number, given(numbers))
    return root


def run(root: Root, model: Path, **fields: Any) -> dict[str, Any]:
    return score.run(score.ScoreConfig(root=root.url, local=True, model=str(model), **fields))


def scored(root: Root, name: str) -> dict[str, dict[str, Any]]:
    """The rows of all sidecars of a model, by uid."""
    tables = [
        root.read_table("features", name, s.source, f"{s.number}.parquet") for s in root.shards("features", name)
    ]
    return {row["uid"]: row for table in tables for row in table.to_pylist()}


def files(root: Root, *folder: str) -> dict[str, bytes]:
    base = root.local(*folder)
    return {str(p.relative_to(base)): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}


def test_scores_are_those_of_plain_open_clip(tmp_path: Path, tiny_model: Path) -> None:
    root = filled(tmp_path, range(5), range(5, 8))
    summary = run(root, tiny_model)
    assert (summary["rows_in"], summary["counts"], summary["shards_done"]) == (8, {"done": 8}, 2)
    name, loaded = summary["model_fingerprint"], load_model(str(tiny_model))
    rows = scored(root, name)
    table = pa.concat_tables(
        load_successes(root, shard, ["uid", "caption", "source", "shard", "offset", "size"])
        for shard in root.shards("shards")
    )
    for pair, data in zip(table.to_pylist(), read_images(root, table), strict=True):
        with torch.inference_mode():
            image = loaded.model.encode_image(loaded.preprocess(decode_rgb(data))[None], normalize=True)[0].numpy()
            text = loaded.model.encode_text(loaded.tokenizer([pair["caption"]]), normalize=True)[0].numpy()
        row = rows[pair["uid"]]
        assert row["clip_score"] == pytest.approx(float(image @ text), abs=1e-5)
        # Embeddings are stored in half precision.
        np.testing.assert_allclose(np.array(row["image_embedding"], np.float32), image, atol=5e-4)
        np.testing.assert_allclose(np.array(row["text_embedding"], np.float32), text, atol=5e-4)
    found = root.read_table("features", name, "cc12m", "00000.parquet").schema
    assert found.remove_metadata() == features(32).arrow.remove_metadata()


def test_a_score_depends_on_no_batch_and_no_shard(tmp_path: Path, tiny_model: Path) -> None:
    together = filled(tmp_path / "a", range(24))
    apart = filled(tmp_path / "b", range(20, 24), range(3), range(19, 2, -1))
    first = scored(together, run(together, tiny_model)["model_fingerprint"])
    second = scored(apart, run(apart, tiny_model, batch=3)["model_fingerprint"])
    assert set(first) == set(second)
    for uid, row in first.items():
        # Products of matrices of another shape round differently: 1e-5 in float32.
        assert second[uid]["clip_score"] == pytest.approx(row["clip_score"], abs=1e-5)


def test_in_bf16_a_score_depends_little_on_batch_shard_and_order(tmp_path: Path, tiny_model: Path) -> None:
    together = filled(tmp_path / "a", range(24))
    apart = filled(tmp_path / "b", range(20, 24), range(3), range(19, 2, -1))
    first = scored(together, run(together, tiny_model, precision="bf16")["model_fingerprint"])
    second = scored(apart, run(apart, tiny_model, precision="bf16", batch=1)["model_fingerprint"])
    exact = scored(together, run(together, tiny_model)["model_fingerprint"])
    assert set(first) == set(second) == set(exact)
    for uid, row in first.items():
        # bfloat16 has eight bits of mantissa: 5e-3, as docs/score.md states; so much from fp32 too.
        assert second[uid]["clip_score"] == pytest.approx(row["clip_score"], abs=5e-3)
        assert exact[uid]["clip_score"] == pytest.approx(row["clip_score"], abs=5e-3)


def test_a_second_run_does_only_what_is_missing_broken_or_outdated(tmp_path: Path, tiny_model: Path) -> None:
    root = filled(tmp_path, range(3), range(3, 6), range(6, 9), range(9, 12))
    name = run(root, tiny_model)["model_fingerprint"]
    before = files(root, "features")
    assert run(root, tiny_model)["shards_skipped"] == 4
    root.remove("features", name, "cc12m", "00000.parquet")
    root.write_bytes(b"PAR1 and nothing else", "features", name, "cc12m", "00001.parquet")
    summary = run(root, tiny_model)
    assert (summary["shards_done"], summary["shards_skipped"]) == (2, 2)
    assert files(root, "features") == before
    table = root.read_table("shards", "cc12m", "00002.parquet")
    write_parquet(root, ShardId("cc12m", "00002"), table, {KEY: "downloaded anew"})
    assert run(root, tiny_model)["shards_done"] == 1


def test_the_next_shard_is_read_while_the_model_works_and_changes_no_byte(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = [range(n, n + 4) for n in range(0, 16, 4)]
    ahead, alone = filled(tmp_path / "ahead", *ranges), filled(tmp_path / "alone", *ranges)
    for shard in alone.shards("shards"):
        monkeypatch.setattr(Root, "shards", lambda self, *folder, only=shard: [only])
        run(alone, tiny_model)
    monkeypatch.undo()
    events: list[str] = []
    read, write = score.load_pairs, score.scored_pairs

    def reading(root: Root, shard: ShardId) -> pa.Table:
        events.append(f"read {shard.number}")
        return read(root, shard)

    def scoring(pairs: pa.Table, *others: Any) -> pa.Table:
        # The model is done with a shard: by then the next was read, and none after it.
        while sum(event != "scored" for event in events) < min(4, 2 + events.count("scored")):
            time.sleep(0.01)
        events.append("scored")
        return write(pairs, *others)

    monkeypatch.setattr(score, "load_pairs", reading)
    monkeypatch.setattr(score, "scored_pairs", scoring)
    run(ahead, tiny_model)
    assert events.index("read 00001") < events.index("scored") < events.index("read 00002")
    assert files(ahead, "features") == files(alone, "features")


def test_a_killed_job_goes_on_where_it_was(tmp_path: Path, tiny_model: Path) -> None:
    ranges = [range(n, n + 4) for n in range(0, 32, 4)]
    root, quiet = filled(tmp_path / "killed", *ranges), filled(tmp_path / "quiet", *ranges)
    command = [sys.executable, "-m", "pipelines.score", "--root", root.url, "--local", "--model", str(tiny_model)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "features"
    while process.poll() is None and not list(folder.glob("*/cc12m/*.parquet")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(folder.glob("*/cc12m/*.parquet")))
    assert done > 0
    summary = run(root, tiny_model)
    assert summary["shards_skipped"] == done
    run(quiet, tiny_model)
    assert files(root, "features") == files(quiet, "features")


def damage(root: Root, shard: ShardId, *positions: int) -> None:
    """Put zeros in place of some of a shard's pictures."""
    path = root.local("shards", shard.source, f"{shard.number}.tar")
    data = bytearray(path.read_bytes())
    rows = load_successes(root, shard, ["offset", "size"]).to_pylist()
    for row in (rows[position] for position in positions):
        data[row["offset"] : row["offset"] + row["size"]] = bytes(row["size"])
    path.write_bytes(data)


def test_a_damaged_picture_is_left_null_counted_and_named(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, whole = (filled(tmp_path / name, range(4), range(4, 8)) for name in ("damaged", "whole"))
    shard = ShardId("cc12m", "00001")
    damage(root, shard, 2)
    summary = run(root, tiny_model)
    assert (summary["counts"], summary["shards_failed"]) == ({"done": 7, "unusable": 1}, {})
    said = capsys.readouterr().err
    assert f"score: cc12m/00001: 1 of 4 rows unusable, left null: uid {uid_of('p6')}: picture: " in said
    name = summary["model_fingerprint"]
    found, expected = scored(root, name), scored(whole, run(whole, tiny_model)["model_fingerprint"])
    row = found.pop(uid_of("p6"))
    assert (row["clip_score"], row["image_embedding"]) == (None, None)
    assert row["text_embedding"] == expected.pop(uid_of("p6"))["text_embedding"]
    assert found == expected
    metadata = root.parquet_metadata("features", name, "cc12m", "00001.parquet")
    assert "not a whole picture" in json.loads(metadata["headwater.unusable"])[uid_of("p6")]
    table = root.read_table("features", name, "cc12m", "00001.parquet")
    assert vectors(table, 32)[1].tolist() == [True, True, False, True]
    rows = load_successes(root, shard, ["uid", "attempt"])
    assert read_embeddings(root, name, shard, rows).is_valid().to_pylist() == [True, True, False, True]
    assert run(root, tiny_model)["shards_skipped"] == 2


def test_a_shard_of_mostly_damaged_pictures_fails(tmp_path: Path, tiny_model: Path) -> None:
    root = filled(tmp_path, range(4), range(4, 8))
    damage(root, ShardId("cc12m", "00000"), 0, 3)
    damage(root, ShardId("cc12m", "00001"), 0, 2, 3)
    summary = run(root, tiny_model)
    assert summary["counts"] == {"done": 2, "unusable": 2}
    text = summary["shards_failed"]["cc12m/00001"]
    assert text.startswith(f"ShardError: 3 of 4 rows cannot be embedded; the first is uid {uid_of('p4')}: picture: ")


def test_a_pair_without_caption_has_an_image_embedding_alone(tmp_path: Path, tiny_model: Path) -> None:
    root = Root(str(tmp_path))
    add_shard(root, "cc12m", 0, [Given("p0", picture(0), None), Given("p1", picture(1), "a square")])
    add_shard(root, "cc12m", 1, [Given("p2", picture(2), None)])
    summary = run(root, tiny_model)
    assert summary["counts"] == {"done": 3}
    rows = scored(root, summary["model_fingerprint"])
    without = [rows[uid_of(name)] for name in ("p0", "p2")]
    assert [(row["clip_score"], row["text_embedding"]) for row in without] == [(None, None)] * 2
    assert all(len(row["image_embedding"]) == 32 for row in rows.values())
    assert rows[uid_of("p1")]["clip_score"] is not None


def test_embeddings_that_are_not_finite_fail_their_shard(tmp_path: Path, architecture: Path) -> None:
    root = filled(tmp_path / "root", range(4))
    model = new_model(architecture, seed=0)
    model.visual.ln_post.weight.data[0] = float("nan")
    save_model(model, TINY, tmp_path / "model")
    with pytest.raises(BudgetExceeded, match=f"4 of 4 rows .* uid {uid_of('p0')}: picture: its embedding is not"):
        run(root, tmp_path / "model")
    assert not root.shards("features")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "ViT-B-33"], "closest: ViT-B-32"),
        (["--model", "/no/such/folder"], "is not a model folder"),
        (["--model", "ViT-B-32", "--tasks", "evals"], "evals: no evaluation sets here"),
        (["--model", "ViT-B-32", "--precision", "int4"], "'fp32', 'bf16' or 'fp16'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    root = filled(tmp_path, range(2))
    assert main(["score", "--root", root.url, "--local", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def eval_set(root: Root, name: str, numbers: range) -> None:
    names = [f"class {n}" for n in numbers]
    task = Task(name, [picture(n) for n in numbers], np.arange(len(numbers)), names, ["{c}"], names)
    write_task(root.local("eval", name), task, tars=2)


def test_evaluation_sets_are_embedded_under_their_items(tmp_path: Path, tiny_model: Path) -> None:
    root = filled(tmp_path, range(4))
    eval_set(root, "first", range(2, 8))
    root.local("eval", "second", "sub").mkdir(parents=True)
    for n in (3, 50):
        root.local("eval", "second", "sub", f"{n}.png").write_bytes(picture(n))
    summary = run(root, tiny_model, tasks="eval")
    name = summary["model_fingerprint"]
    assert summary["eval_pictures"] == {"first": 6, "second": 2}
    loaded = load_model(str(tiny_model))
    for task in ("first", "second"):
        table = root.read_table("eval_features", name, f"{task}.parquet")
        assert table.schema.remove_metadata() == eval_features(32).arrow.remove_metadata()
        pairs = list(eval_pictures(root.local("eval", task)))
        assert table["item"].to_pylist() == [item for item, _ in pairs]
        for found, (_, data) in zip(table["image_embedding"].to_pylist(), pairs, strict=True):
            with torch.inference_mode():
                image = loaded.model.encode_image(loaded.preprocess(decode_rgb(data))[None], normalize=True)
            np.testing.assert_allclose(np.array(found, np.float32), image[0].numpy(), atol=5e-4)


def test_evaluation_sets_are_embedded_once_and_again_when_they_change(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = filled(tmp_path, range(2))
    root.local("eval", "loose").mkdir(parents=True)
    eval_set(root, "steady", range(4))
    for n in range(2):
        root.local("eval", "loose", f"{n}.png").write_bytes(picture(n))
    run(root, tiny_model, tasks="eval")
    before = files(root, "eval_features")
    capsys.readouterr()
    assert run(root, tiny_model, tasks="eval")["eval_pictures"] == {"loose": 2, "steady": 4}
    assert "evaluation pictures" not in capsys.readouterr().err
    assert files(root, "eval_features") == before
    root.local("eval", "loose", "2.png").write_bytes(picture(2)[:50])
    summary = run(root, tiny_model, tasks="eval", max_failed_fraction=1)
    assert summary["eval_pictures"] == {"steady": 4}
    assert "loose: 2.png: picture 2: " in summary["shards_failed"]["eval/loose"]
    root.local("eval", "loose", "2.png").write_bytes(picture(2))
    assert run(root, tiny_model, tasks="eval")["eval_pictures"] == {"loose": 3, "steady": 4}


def test_several_models_stand_side_by_side(tmp_path: Path, tiny_model: Path, architecture: Path) -> None:
    root = filled(tmp_path / "root", range(4))
    save_model(new_model(architecture, seed=1), TINY, tmp_path / "Other (v2)")
    names = [run(root, model)["model_fingerprint"] for model in (tiny_model, tmp_path / "Other (v2)")]
    tiny = score_column(str(tiny_model), None)
    assert score_columns(root) == {names[0]: tiny, names[1]: "clip_other_v2_score"}
    # The folder's weights count, not those that open_clip is asked to put in their place and does not.
    names.append(run(root, tiny_model, precision="bf16", pretrained="openai")["model_fingerprint"])
    assert sorted(set(names)) == root.names("features")
    columns = score_columns(root)
    assert [columns[name] for name in names] == [f"{tiny}_{names[0]}", "clip_other_v2_score", f"{tiny}_{names[2]}"]
    assert root.read_json("features", names[2], "model.json") == {
        "model": str(tiny_model), "pretrained": None, "precision": "bf16", "dim": 32,
    }  # fmt: skip
    for name in names:
        assert {shard.source for shard in root.shards("features", name)} == {"cc12m"}


@pytest.mark.parametrize(
    ("model", "pretrained", "column"),
    [
        ("ViT-B-32", "openai", "clip_b32_similarity_score"),
        ("ViT-B/32", "openai", "clip_b32_similarity_score"),
        ("ViT-B-32-quickgelu", "openai", "clip_b32_similarity_score"),
        ("ViT-L-14", "openai", "clip_l14_similarity_score"),
        ("ViT-L-14-quickgelu", "openai", "clip_l14_similarity_score"),
        ("ViT-L-14-336", "openai", "clip_vit_l_14_336_openai_score"),
        ("ViT-L-14-336-quickgelu", "openai", "clip_vit_l_14_336_quickgelu_openai_score"),
        ("ViT-B-16", "openai", "clip_vit_b_16_openai_score"),
        ("ViT-B-32", "laion2b_s34b_b79k", "clip_vit_b_32_laion2b_s34b_b79k_score"),
        ("ViT-B-32-256", "datacomp_s34b_b86k", "clip_vit_b_32_256_datacomp_s34b_b86k_score"),
        ("ViT-B-32-SigLIP2-256", "webli", "clip_vit_b_32_siglip2_256_webli_score"),
        ("ViT-L-14-CLIPA", "datacomp1b", "clip_vit_l_14_clipa_datacomp1b_score"),
        ("ViT-B-32", "runs/7/epoch_32.pt", "clip_vit_b_32_epoch_32_pt_score"),
        ("ViT-B-32", "weights/openai", "clip_vit_b_32_openai_score"),
        ("hf-hub:someone/CLIP-ViT-g-14.v2", None, "clip_vit_g_14_v2_score"),
        ("hf-hub:someone/ViT-B-32", None, "clip_vit_b_32_score"),
        ("models/ViT-L-14", None, "clip_vit_l_14_score"),
        ("models/ViT-B-32-xyz", None, "clip_vit_b_32_xyz_score"),
        ("local-dir:some/folder/my model/", None, "clip_my_model_score"),
        ("models/CLIP_b32_similarity", None, "clip_model_b32_similarity_score"),
    ],
)
def test_a_model_names_its_column(model: str, pretrained: str | None, column: str) -> None:
    assert score_column(model, pretrained) == column


def test_models_of_open_clip_have_columns_of_their_own() -> None:
    """Every model with known weights: only OpenAI's two, under their two names, share a column."""
    by_column: dict[str, set[tuple[str, str]]] = {}
    for model, tag in open_clip.list_pretrained():
        by_column.setdefault(score_column(model, tag), set()).add((model, tag))
    shared = {column: models for column, models in by_column.items() if len(models) > 1}
    assert shared == {
        f"clip_{short}_similarity_score": {(name, "openai"), (f"{name}-quickgelu", "openai")}
        for short, name in (("b32", "ViT-B-32"), ("l14", "ViT-L-14"))
    }


def put_model(root: Root, name: str, model: str, pretrained: str | None) -> None:
    """A model that has scored something."""
    write_model(root, name, {"model": model, "pretrained": pretrained, "precision": "fp32", "dim": 512})
    root.write_bytes(b"", "features", name, "datacomp", "00000.parquet")


def test_only_openais_weights_have_datacomps_names(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    put_model(root, "aaaaaaaaaaaa", "ViT-B-32", "laion2b_s34b_b79k")
    assert score_columns(root) == {"aaaaaaaaaaaa": "clip_vit_b_32_laion2b_s34b_b79k_score"}
    put_model(root, "bbbbbbbbbbbb", "ViT-B-32", "openai")
    put_model(root, "cccccccccccc", "ViT-L-14", "openai")
    # Ingest makes features of DataComp's metadata without saying more of their models; they are OpenAI's.
    root.write_bytes(b"", "features", "datacomp-l14", "datacomp", "00000.parquet")
    # Earlier versions wrote a column too, and DataComp's for any weights.
    info = {"model": "ViT-L-14", "pretrained": "datacomp_xl_s13b_b90k", "column": "clip_l14_similarity_score"}
    root.write_json(info, "features", "bcbcbcbcbcbc", "model.json")
    root.write_bytes(b"", "features", "bcbcbcbcbcbc", "datacomp", "00000.parquet")
    assert score_columns(root) == {
        "aaaaaaaaaaaa": "clip_vit_b_32_laion2b_s34b_b79k_score",
        "bbbbbbbbbbbb": "clip_b32_similarity_score",
        "bcbcbcbcbcbc": "clip_vit_l_14_datacomp_xl_s13b_b90k_score",
        "cccccccccccc": "clip_l14_similarity_score",
        "datacomp-l14": "clip_l14_similarity_score_datacomp_l14",
    }


def test_a_name_that_two_models_want_comes_to_mean_neither(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    put_model(root, "bbbbbbbbbbbb", "one/epoch 3", None)
    assert score_columns(root) == {"bbbbbbbbbbbb": "clip_epoch_3_score"}
    put_model(root, "aaaaaaaaaaaa", "other/epoch_3", None)
    assert score_columns(root) == {name: f"clip_epoch_3_score_{name}" for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb")}


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"model": 3}', b'{"model": "x", "pretrained": 3}'])
def test_a_broken_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    root = Root(str(tmp_path))
    root.write_bytes(content, "features", "aaaaaaaaaaaa", "model.json")
    root.write_bytes(b"", "features", "aaaaaaaaaaaa", "datacomp", "00000.parquet")
    with pytest.raises(InputError, match=r"aaaaaaaaaaaa/model\.json: .*delete it"):
        score_columns(root)


def test_no_features_have_no_columns(tmp_path: Path) -> None:
    assert score_columns(Root(str(tmp_path))) == {}
