"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before anything imports torch: two pools of two threads on two cores slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that need it, ended with the session."""
    from pipelines.engine import start_ray

    start_ray()
    yield
    import ray

    ray.shutdown()
