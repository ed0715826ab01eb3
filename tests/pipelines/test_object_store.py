"""What Ray's object store has to hold: names of shards and counts, whatever the pictures' bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import download
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import picture_server
from tests.pipelines.test_download import prepare

SHARDS, PER_SHARD = 8, 25
OF_A_SHARD = 8192  # bytes


def created() -> int:
    """Bytes that the store has been given since Ray was started, those that are gone included."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)  # type: ignore[no-untyped-call]
    return int(internal_api.get_memory_info_reply(state).store_stats.cumulative_created_bytes)  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("ray_session")
def test_pictures_stay_out_of_rays_object_store(tmp_path: Path) -> None:
    root = prepare(tmp_path, rows=SHARDS * PER_SHARD, per_shard=PER_SHARD)
    before = created()
    with picture_server() as server:
        fetch = FetchConfig(resolve=server.resolve, concurrency=4, limit=HostLimit(concurrency=1000, rate=None))
        config = download.DownloadConfig(root=root.url, encode_format="png", resize_mode="no", fetch=fetch)
        assert download.run(config)["counts"] == {"success": SHARDS * PER_SHARD}
    held = created() - before
    assert 0 < held < SHARDS * OF_A_SHARD < bytes_of(root) / 4


def bytes_of(root: Root) -> int:
    return sum(size for size, _, _ in root.stats("shards", "cc12m", suffix=".tar").values())
