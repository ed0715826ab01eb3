"""The demo's data on S3: the same mixtures as in a local folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import run as demo
from pipelines.store.root import Root
from tests.pipelines.s3 import BUCKET, s3_server


@pytest.mark.slow
def test_a_demo_on_s3_has_the_manifests_of_a_local_one(tmp_path: Path) -> None:
    roots = [Root(str(tmp_path / "local")), Root(f"s3://{BUCKET}/demo")]
    with s3_server(tmp_path):
        # Where the server is found is known only now.
        roots = [Root(root.url) for root in roots]
        for root in roots:
            demo.run(demo.DemoConfig(root=root.url, local=True, rows=600, until="mix"))
        names = roots[0].names("mixes")
        assert "even" in names
        for name in names:
            local, elsewhere = (root.read_bytes("mixes", name, "manifest.parquet") for root in roots)
            assert local == elsewhere, name
