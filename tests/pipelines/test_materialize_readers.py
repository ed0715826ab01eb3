"""Exports in the hands of the programs that they are for: open_clip's loader, webdataset, Hugging Face `datasets`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines import materialize
from pipelines.store.root import Root
from tests.pipelines.adoptable import image
from tests.pipelines.mixtures import format_of, json_of, mixture

# Uneven sources, one of them repeated, and last tars that are not full.
SOURCES = {"cc12m": (45, 45), "wit": (12, 60), "yfcc": (95, 90)}
ROWS = sum(uses for _, uses in SOURCES.values())
PER_FILE = 10
DRAWN = 6_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """All four exports of one mixture."""
    made, _ = mixture(tmp_path_factory.mktemp("readers"), SOURCES)
    for layout in ("mixed", "by_source"):
        for form in ("tars", "hf"):
            settings: dict[str, Any] = {"layout": layout, "form": form, "samples_per_shard": PER_FILE, "local": True}
            materialize.run(materialize.MaterializeConfig(root=made.url, mixture="even", **settings))
    return made


def run_script(script: str, *arguments: str, **env: str) -> Any:
    """What a script prints, as JSON; the other programs warn of much, so they have a process of their own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def captions(root: Root) -> list[str]:
    found: list[str] = root.read_table("mixes", "even", "manifest.parquet")["caption"].to_pylist()
    return found


OPEN_CLIP = """
import json, sys
from types import SimpleNamespace
from open_clip_train import data
from open_clip_train.params import parse_args

call, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
# The buffer in which samples are shuffled has a seed from the clock, and holds some back at the end.
data._SAMPLE_SHUFFLE_SIZE = data._SAMPLE_SHUFFLE_INITIAL = 1
# open_clip 3.3 is made for webdataset up to 0.2.86; later ones pass on a mark after each tar, which is no file.
files = data.tar_file_expander
data.tar_file_expander = lambda *given, **named: (file for file in files(*given, **named) if "fname" in file)
arguments = ["--train-data", call["train_data"], "--dataset-type", "webdataset", "--batch-size", "1"]
arguments += ["--workers", "0"]
if call["dataset_resampled"]:
    factors = call["train_data_upsampling_factors"]
    arguments += ["--dataset-resampled", "--train-data-upsampling-factors", factors]
args = parse_args(arguments)
args.world_size, args.train_num_samples = 1, options["samples"]
found = data.get_wds_dataset(
    args, lambda picture: list(picture.size), True, epoch=options["epoch"], tokenizer=lambda text: [text]
)
samples = [(text[0], image[0]) for image, text in found.dataloader]
size = data.get_dataset_size(args.train_data)
print(json.dumps({"samples": samples, "size": size, "told": found.dataloader.num_samples}))
"""


def open_clip(call: dict[str, Any], samples: int | None, epoch: int = 0) -> dict[str, Any]:
    """What open_clip's loader gives for the arguments in an export's open_clip.json."""
    found: dict[str, Any] = run_script(OPEN_CLIP, json.dumps(call), json.dumps({"samples": samples, "epoch": epoch}))
    return found


def test_open_clip_sees_every_caption_of_the_mixture_as_often_as_it_is_there(root: Root) -> None:
    call = json_of(root, "mixes", "even", "tars", "open_clip.json")
    found = open_clip(call, None)
    assert found["size"] == [ROWS, math.ceil(ROWS / PER_FILE)]
    assert found["told"] == ROWS
    assert Counter(text for text, _ in found["samples"]) == Counter(captions(root))
    assert all(size == [16, 12] for _, size in found["samples"])


def test_open_clips_command_is_understood_by_open_clip(root: Root) -> None:
    script = """
import json, shlex, sys
from open_clip_train.params import parse_args
args = parse_args(shlex.split(sys.argv[1])[3:])
print(json.dumps([getattr(args, name) for name in sys.argv[2:]]))
"""
    for layout in ("tars", "by_source"):
        call = json_of(root, "mixes", "even", layout, "open_clip.json")
        names = ("train_data", "train_num_samples", "dataset_resampled", "train_data_upsampling_factors")
        assert run_script(script, call["command"], *names) == [call.get(name) for name in names]


def test_open_clips_resampled_loader_meets_the_shares(root: Root) -> None:
    """Within four standard errors, over 6,000 samples.

    The samples of a tar come together, so the independent unit is the draw of a tar: of these there are about
    6,000 / 8.8. For draws k of n_k samples each, the share's error is Σ n_k (1[source] − p) over the samples, and
    each draw's part has the variance that follows from the tars and their weights.
    """
    call = json_of(root, "mixes", "even", "by_source", "open_clip.json")
    sizes = json_of(root, "mixes", "even", "by_source", "sizes.json")
    asked = {source: uses / ROWS for source, (_, uses) in SOURCES.items()}
    assert {s["source"]: s["share"] for s in call["sources"]} == asked
    factors = {s["source"]: s["factor"] for s in call["sources"]}
    tars = [(name.split("+")[1].rsplit("-", 1)[0], size) for name, size in sizes.items()]
    whole = sum(factors[source] for source, _ in tars)
    draws = [(source, size, factors[source] / whole) for source, size in tars]
    mean = sum(chance * size for _, size, chance in draws)

    found = open_clip(call, DRAWN)["samples"]
    got = Counter(text.split()[0] for text, _ in found)
    assert sum(got.values()) == DRAWN
    assert {text for text, _ in found} == set(captions(root))
    count = DRAWN / mean
    for source, share in asked.items():
        variance = sum(chance * (size * ((name == source) - share)) ** 2 for name, size, chance in draws)
        sigma = math.sqrt(count * variance) / (count * mean)
        assert abs(got[source] / DRAWN - share) < 4 * sigma, (source, got[source] / DRAWN, share, sigma)
        # The bound means something: without the factors the shares would be far outside of it.
        without = sum(size for name, size in tars if name == source) / sum(size for _, size in tars)
        assert source == "cc12m" or abs(without - share) > 6 * sigma


WEBDATASET = """
import io, json, sys
import webdataset
from PIL import Image
rows = [
    (key, text, record["uid"], record["repeat"], list(picture.size))
    for key, picture, text, record in webdataset.WebDataset(sys.argv[1:], shardshuffle=False)
    .decode("pil").to_tuple("__key__", "jpg;png;jpeg;webp", "txt", "json")
]
print(json.dumps(rows))
"""


def test_webdataset_reads_every_sample_in_order(root: Root) -> None:
    tars = [str(path) for path in sorted(root.local("mixes", "even", "tars").glob("*.tar"))]
    manifest = root.read_table("mixes", "even", "manifest.parquet").to_pylist()
    assert run_script(WEBDATASET, *tars) == [
        [f"{row['uid']}-{row['repeat']}", row["caption"], row["uid"], row["repeat"], [16, 12]] for row in manifest
    ]


def test_the_card_counts_licences_by_source(root: Root) -> None:
    card = root.read_bytes("mixes", "even", "hf", "README.md").decode()
    manifest = root.read_table("mixes", "even", "manifest.parquet").to_pylist()
    counts: Counter[tuple[str, str]] = Counter()
    firsts: Counter[tuple[str, str]] = Counter()
    for row in manifest:
        number = int(row["caption"].split()[-1])
        key = (row["source"], "not declared" if number % 5 == 0 else f"CC-{number % 2}")
        counts[key] += 1
        firsts[key] += row["repeat"] == 0
    lines = [f"| {source} | {licence} | {n} | {firsts[source, licence]} |" for (source, licence), n in counts.items()]
    assert [line for line in card.splitlines() if line.startswith("| ")][1:] == sorted(lines)
    assert f"A mixture of {ROWS} image–text pairs" in card


HUGGING_FACE = """
import hashlib, json, sys
from datasets import get_dataset_config_names, load_dataset
def rows(found):
    raw = found.cast_column("image", type(found.features["image"])(decode=False))
    return [
        [row["uid"], row["source"], row["caption"], row["image"]["path"],
         hashlib.sha256(row["image"]["bytes"]).hexdigest(), list(picture.size)]
        for row, picture in zip(raw, found["image"])
    ]
folder, by_source = sys.argv[1:]
whole = load_dataset(folder, split="train")
files = load_dataset("parquet", data_dir=folder + "/data", split="train")
print(json.dumps({
    "rows": rows(whole), "features": str(whole.features), "same": rows(files) == rows(whole),
    "configs": sorted(get_dataset_config_names(by_source)),
    "wit": rows(load_dataset(by_source, "wit", split="train")),
    "all": len(load_dataset(by_source, split="train")),
}))
"""


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs `pip install -e .[dev]`")
def test_hugging_face_datasets_loads_the_folder_offline(root: Root, tmp_path: Path) -> None:
    folders = [str(root.local("mixes", "even", name)) for name in ("hf", "hf_by_source")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = run_script(HUGGING_FACE, *folders, **offline)
    expected = []
    for row in root.read_table("mixes", "even", "manifest.parquet").to_pylist():
        number = int(row["caption"].split()[-1])
        expected.append([row["uid"], row["source"], row["caption"], f"{row['uid']}-{row['repeat']}", number])
    got = [[*row[:3], row[3].split(".")[0], int(row[2].split()[-1])] for row in found["rows"]]
    assert got == expected
    assert all(row[4] == digest(int(row[2].split()[-1])) and row[5] == [16, 12] for row in found["rows"])
    assert found["features"].startswith("{'image': Image(")
    assert found["same"]
    assert found["configs"] == ["cc12m", "default", "wit", "yfcc"]
    assert len(found["wit"]) == 12
    assert found["all"] == 45 + 12 + 90


def digest(number: int) -> str:
    return hashlib.sha256(image(number, format_of(number), (16, 12))).hexdigest()
