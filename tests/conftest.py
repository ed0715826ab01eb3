"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch: two pools of two threads on two cores slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


TINY = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained open_clip model of one block a tower, its weights a function of a seed."""
    from trainer.model import new_model, save_model

    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "open_clip_config.json").write_text(json.dumps(TINY))
    save_model(new_model(folder, seed=0), TINY, folder)
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that need it, ended with the session."""
    from pipelines.ray_session import start_ray, stop_ray

    start_ray()
    yield
    stop_ray(patience=3.0)
