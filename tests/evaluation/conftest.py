"""A tiny untrained open_clip model, and picture sets made on the spot."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.tasks import Task
from trainer.model import LoadedModel, load_model, new_model, save_model

CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
MakeTask = Callable[..., Task]


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """`pixels` [H, W, 3] uint8 as an encoded picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of one block a tower with seeded random weights, loaded as any local folder is."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_model(new_model(folder, seed=0), CONFIG, folder)
    return load_model(str(folder))


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
