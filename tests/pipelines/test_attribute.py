"""`headwater attribute`: pairs by uid, by condition and of a folder; what is written, done before, and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.attribution_metrics import content, cosines
from evaluation.m2ib import attribute
from evaluation.overlays import rescaled
from filters.errors import BudgetExceeded, InputError
from pipelines import index
from pipelines.attribute import FOLDER, AttributeConfig, run
from pipelines.cli import main
from pipelines.report_attributions import attributions
from pipelines.store.root import Root
from tests.pipelines.chain import picture
from tests.pipelines.pictured import Given, add_shard, uid_of
from trainer.images import split_preprocess
from trainer.model import load_model

NAMES = [f"p{number}" for number in range(5)]
CAPTIONS: list[str | None] = ["a red square", "two blue circles beside a triangle", "green", None, "a $5 note's edge"]
QUICK: dict[str, Any] = {"steps": 2, "samples": 2, "local": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Five pictures, one without a caption, and a sixth that failed."""
    found = Root(str(tmp_path_factory.mktemp("attribute")))
    pairs = zip(NAMES, CAPTIONS, strict=True)
    add_shard(found, "cc12m", 0, [Given(name, picture(i), caption) for i, (name, caption) in enumerate(pairs)])
    add_shard(found, "wit", 0, [Given("gone", picture(9))], reason="http_404")
    index.run(index.IndexConfig(root=found.url))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures with captions."""
    found = tmp_path / "pictures"
    found.mkdir()
    for number, name in enumerate(("cat.png", "dog.JPG", "fox.webp")):
        with Image.open(io.BytesIO(picture(number))) as image:
            image.save(found / name, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[-4:].strip(".").lower()])
        (found / name).with_suffix(".txt").write_text(f"a {name[:3]}\nindeed\n")
    return found


def written(root: Root, *parts: str) -> dict[str, Any]:
    """The facts of each pair by name; each has its picture."""
    names = [name.removesuffix(".json") for name in root.names(*parts, suffix=".json")]
    for name in names:
        with Image.open(io.BytesIO(root.read_bytes(*parts, f"{name}.png"))) as image:
            assert image.size[0] > 500
    return {name: root.read_json(*parts, f"{name}.json") for name in names}


def test_pairs_of_a_condition(root: Root, tiny_model: Path) -> None:
    """All that have a picture and a caption; the values shown are those of `attribute`."""
    summary = run(AttributeConfig(root=root.url, model=str(tiny_model), where="true -- all of them", **QUICK))
    [name] = root.names(FOLDER)
    found = written(root, FOLDER, name)
    with_caption = [n for n, caption in zip(NAMES, CAPTIONS, strict=True) if caption]
    assert sorted(found) == sorted(map(uid_of, with_caption))
    assert summary["counts"] == {"attributed": 4}
    assert summary["out"] == root.path(FOLDER, name)
    assert summary["layers"] == {"image": -1, "text": -1}  # its towers have one block each
    loaded = load_model(str(tiny_model))
    preprocess = split_preprocess(loaded.preprocess)
    number = 1
    images = preprocess.normalised(preprocess.pixels(picture(number))[None], torch.float32)
    tokens = loaded.tokenizer([str(CAPTIONS[number])])
    facts = found[uid_of(NAMES[number])]
    assert facts["caption"] == CAPTIONS[number]
    assert [text for text, _ in facts["tokens"]] == str(CAPTIONS[number]).split()
    maps = {}
    for side in ("image", "text"):
        generator = torch.Generator().manual_seed(0)
        options = {"side": side, "layer": -1, "steps": 2, "samples": 2, "generator": generator}
        maps[side] = attribute(loaded.model, images, tokens, **options).map[0].numpy()  # type: ignore[arg-type]
    words = rescaled(maps["text"][content(loaded.model, tokens)[0].numpy()])
    # The stored picture is a JPEG of the one that it was, so that its numbers are near only.
    np.testing.assert_allclose([value for _, value in facts["tokens"]], words, atol=0.15)
    assert facts["cosine"] == pytest.approx(float(cosines(loaded.model, images, tokens)[0]), abs=0.02)
    assert maps["image"][facts["peak"][1], facts["peak"][0]] > 0.8


def test_what_is_there_is_left_alone(root: Root, tiny_model: Path, tmp_path: Path) -> None:
    config = AttributeConfig(root=root.url, model=str(tiny_model), where="true", out=str(tmp_path), limit=2, **QUICK)
    assert run(config)["counts"] == {"attributed": 2}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    more = run(config.model_copy(update={"limit": 3}))
    assert (more["rows_in"], more["counts"], more["done_before"]) == (1, {"attributed": 1}, 2)
    assert run(config)["rows_in"] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    other = run(config.model_copy(update={"beta": 1.0}))
    assert other["counts"] == {"attributed": 2}


def test_the_report_takes_them_from_the_best_match_to_the_worst(root: Root, tiny_model: Path) -> None:
    config = AttributeConfig(root=root.url, model=str(tiny_model), where="true", **QUICK)
    out = run(config)["out"]
    name = Path(out).name
    shown = attributions(root, name)
    best = sorted(written(root, FOLDER, name).values(), key=lambda facts: -facts["cosine"])
    assert [picture.caption for picture in shown] == [facts["caption"] for facts in best]
    with pytest.raises(InputError, match="attributions nowhere: nothing there"):
        attributions(root, "nowhere")


def test_uids_by_their_first_characters(root: Root, tiny_model: Path, tmp_path: Path) -> None:
    """The same as in a batch of all, up to rounding."""
    whole = AttributeConfig(root=root.url, model=str(tiny_model), where="true", out=str(tmp_path / "a"), **QUICK)
    run(whole)
    chosen = [uid_of(NAMES[0])[:8], uid_of(NAMES[2])]
    config = {"uids": chosen, "out": str(tmp_path / "b"), "batch": 1, **QUICK}
    assert run(AttributeConfig(root=root.url, model=str(tiny_model), **config))["shards_done"] == 2
    together, alone = (written(Root(str(tmp_path / part))) for part in "ab")
    assert sorted(alone) == sorted(uid_of(name) for name in (NAMES[0], NAMES[2]))
    for uid, facts in alone.items():
        values, others = ([value for _, value in of["tokens"]] for of in (facts, together[uid]))
        np.testing.assert_allclose(values, others, atol=2e-3)
        assert {**facts, "tokens": 0, "cosine": 0} == {**together[uid], "tokens": 0, "cosine": 0}


def test_pictures_of_a_folder(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    """No data root is needed, and the ledger lies with the results."""
    out = Root(str(tmp_path / "out"))
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "bad.txt").write_text("nothing to see")
    config = {"folder": str(folder), "out": out.url, "side": "text", **QUICK}
    summary = run(AttributeConfig(model=str(tiny_model), **config))
    assert AttributeConfig(model=str(tiny_model), **config).root == out.url
    assert summary["counts"] == {"attributed": 3, "failed_to_decode": 1}
    assert "no picture" in summary["unusable"]["bad"] or "not a whole picture" in summary["unusable"]["bad"]
    found = written(out)
    assert {name: facts["caption"] for name, facts in found.items()} == {
        n: f"a {n} indeed" for n in ("cat", "dog", "fox")
    }
    assert found["cat"]["layers"] == {"text": -1}
    with pytest.raises(BudgetExceeded, match="1 of 4 pictures cannot be read"):
        run(AttributeConfig(model=str(tiny_model), max_failed_fraction=0.2, **config))


def test_the_command(root: Root, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON line; the dry run writes nothing."""
    command = ["attribute", "--root", root.url, "--model", str(tiny_model), "--uids", uid_of(NAMES[2])]
    command += ["--out", str(tmp_path / "out"), "--steps", "2", "--samples", "2", "--set", "image_layer=0"]
    assert main([*command, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == [uid_of(NAMES[2])]
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) | {"rows_in": 1, "counts": {"attributed": 1}} == json.loads(line)
    assert json.loads(line)["layers"] == {"image": 0, "text": -1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which pairs? give --uids, --where"),
        (["--where", "clip_scor > 0.3"], "where: "),
        (["--where", "caption = 'nothing'"], "no downloaded pair with a caption"),
        (["--where", "(SELECT true)"], "a query inside the expression"),
        (["--uids", "ffffffff"], "no sample begins with uid 'ffffffff'"),
        (["--uids", "ff"], "is too short"),
        (["--uids", uid_of("gone")], "is no pair of picture and caption: failed_to_download (http_404)"),
        (["--uids", uid_of("p3")], "no caption"),
        (["--where", "true", "--image-layer", "4"], "layer 4: the image tower has layers 0 to 0"),
        (["--where", "true", "--steps", "0"], "field 'steps'"),
        (["--where", "true", "--side", "left"], "field 'side'"),
        (["--folder", "nowhere"], "nowhere: no such folder"),
        (["--folder", ".", "--where", "true"], "leave out --uids and --where"),
        (["--where", "true", "--model", "ViT-B-23"], "model 'ViT-B-23' is neither"),
    ],
)
def test_wrong_input_is_one_line(
    root: Root, tiny_model: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["attribute", "--root", root.url, "--model", str(tiny_model), "--local", *arguments])
    printed = capsys.readouterr()
    assert code == 2
    assert says in printed.err
    assert printed.err.strip().count("\n") == 0
    assert printed.out == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "dog.txt").unlink(), "dog.txt: no such file"),
        (lambda folder: (folder / "dog.txt").write_text(" \n"), "dog.txt: is empty"),
        (lambda folder: (folder / "dog.txt").write_bytes(b"\xff\xfe"), "dog.txt is not UTF-8"),
        (lambda folder: (folder / "cat.gif").write_bytes(b""), "cat.png: another picture of this folder"),
        (lambda folder: [p.unlink() for p in folder.iterdir() if p.suffix != ".txt"], "holds no pictures"),
    ],
)
def test_folders_that_cannot_be_used(
    folder: Path, tiny_model: Path, change: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    assert main(["attribute", "--folder", str(folder), "--out", str(folder / "out"), "--model", str(tiny_model)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.strip().count("\n") == 0
    assert not (folder / "out").exists()
