"""A loaded model, and picture sets made on the spot."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from evaluation.tasks import Task
from tests.evaluation.m2ib_models import clip
from trainer.model import LoadedModel, load_model

MakeTask = Callable[..., Task]


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """`pixels` [H, W, 3] uint8 as an encoded picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def nan_model(tiny_model: Path, folder: Path, weight: str) -> Path:
    """The tiny model with one weight made NaN."""
    shutil.copytree(tiny_model, folder)
    [file] = folder.glob("*.safetensors")
    weights = load_file(file)
    weights[weight].fill_(torch.nan)
    save_file(weights, file)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> LoadedModel:
    """The tiny model, loaded as any local folder is."""
    return load_model(str(tiny_model))


@pytest.fixture
def make_task() -> MakeTask:
    """Makes a task of noise pictures: `make_task("name", classes, per_class=2, seed=0, family="", kind="PNG")`."""

    def make(
        name: str, classes: list[str], *, per_class: int = 2, seed: int = 0, family: str = "", kind: str = "PNG"
    ) -> Task:
        generator = np.random.default_rng(seed)
        labels = np.repeat(np.arange(len(classes)), per_class)
        images = [encode(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8), kind) for _ in labels]
        keys = [f"s{i:07d}" for i in range(len(labels))]
        return Task(name, images, labels, classes, ["a photo of a {c}.", "a drawing of a {c}."], keys, family)

    return make


@pytest.fixture(scope="module")
def vit() -> Any:
    """A small ViT in float64, of three blocks a tower."""
    return clip()
