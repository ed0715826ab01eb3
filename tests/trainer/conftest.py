"""A tiny mixture of coloured shapes and a tiny architecture, both made once."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from trainer.batch import Pixels
from trainer.config import AugmentConfig
from trainer.dataset import Fit, MixtureDataset, View

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = ("square", "circle")
BROKEN_ROW = 5
AUGMENT = AugmentConfig(
    zoom=0.2, shift=0.1, rotate=20, stretch=0.2, flip=0.5, tint=0.3, contrast=0.3, permute=0.2, erase=0.3
)


@dataclass(frozen=True)
class TinyMix:
    """Where the manifest and the shards lie, and the pictures' bytes and captions in the manifest's order."""

    manifest: Path
    shards_root: Path
    images: list[bytes]
    captions: list[str]


def draw(number: int) -> tuple[bytes, str]:
    """Picture and caption `number`: one of twelve kinds, at a place and size of its own."""
    rng = np.random.default_rng(number)
    colour, shape = COLOURS[number % 6], SHAPES[number // 6 % 2]
    image = Image.new("RGB", (60, 40), "white")
    x, y, side = (int(v) for v in (*rng.integers(0, 12, 2), rng.integers(20, 28)))
    pen = ImageDraw.Draw(image)
    (pen.rectangle if shape == "square" else pen.ellipse)((x, y, x + side, y + side), fill=colour)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), f"a {colour} {shape}"


def write_mix(folder: Path, images: list[bytes], captions: list[str]) -> TinyMix:
    """Two sources' shards with `images` and a manifest over them."""
    rows, half = [], len(images) // 2
    for source, first, last in (("a", 0, half), ("b", half, len(images))):
        (folder / "shards" / source).mkdir(parents=True)
        path = folder / "shards" / source / "00000.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(first, last):
                info = tarfile.TarInfo(f"{i:09d}.png")
                info.size = len(images[i])
                tar.addfile(info, io.BytesIO(images[i]))
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        rows += [
            {
                "uid": f"{first + i:032x}",
                "source": source,
                "shard": "00000",
                "offset": member.offset_data,
                "size": member.size,
                "caption": captions[first + i],
                "repeat": 0,
            }
            for i, member in enumerate(members)
        ]
    manifest = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    return TinyMix(manifest, folder / "shards", images, captions)


def letters(captions: list[str]) -> torch.Tensor:
    """A tokenizer for tests: the letters of each caption, int64 [N, 24]; `text_of` reads them again."""
    return torch.tensor([list(caption.encode().ljust(24, b"\0")[:24]) for caption in captions])


def text_of(tokens: torch.Tensor) -> list[str]:
    """The captions that `letters` made tokens of."""
    return [bytes(row).rstrip(b"\0").decode() for row in tokens.tolist()]


class Shifted:
    """A view with chance: the fitted picture, rolled by a random number of columns."""

    def __init__(self, side: int) -> None:
        self.fit = Fit(side)

    def __call__(self, data: bytes, generator: np.random.Generator) -> Pixels:
        return np.roll(self.fit(data, generator), int(generator.integers(self.fit.side)), axis=1)


def dataset_of(
    mix: TinyMix,
    *,
    view: View | None = None,
    seed: int = 0,
    augmentation: AugmentConfig | None = None,
    cache_bytes: int = 0,
) -> MixtureDataset:
    """The mixture as 32 px samples, its files beside the manifest."""
    return MixtureDataset(
        mix.manifest,
        mix.shards_root,
        view=view or Fit(32),
        tokenize=letters,
        size=32,
        seed=seed,
        augmentation=augmentation,
        cache_bytes=cache_bytes,
        scratch=mix.manifest.parent / "scratch",
    )


@pytest.fixture(scope="session")
def mix(tmp_path_factory: pytest.TempPathFactory) -> TinyMix:
    """48 sound pairs."""
    drawn = [draw(i) for i in range(48)]
    return write_mix(tmp_path_factory.mktemp("mix"), [d for d, _ in drawn], [c for _, c in drawn])


@pytest.fixture(scope="session")
def broken_mix(tmp_path_factory: pytest.TempPathFactory) -> TinyMix:
    """The same with one picture whose bytes are cut."""
    drawn = [draw(i) for i in range(48)]
    images = [data[:60] if i == BROKEN_ROW else data for i, (data, _) in enumerate(drawn)]
    return write_mix(tmp_path_factory.mktemp("broken"), images, [c for _, c in drawn])


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model's configuration, without weights."""
    folder = tmp_path_factory.mktemp("architecture")
    config = {
        "model_cfg": {
            "embed_dim": 32,
            "text_cfg": {"context_length": 12, "heads": 1, "layers": 1, "vocab_size": 49408, "width": 32},
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        },
        "preprocess_cfg": {
            "fill_color": 255,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "mode": "RGB",
            "resize_mode": "longest",
            "size": 32,
            "std": [0.25, 0.25, 0.25],
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
