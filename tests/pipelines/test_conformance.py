"""Our shards in the hands of the tools they are made for: img2dataset and webdataset."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import download, ingest
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig
from tests.pipelines.chain import cc12m_dump, picture_server

ROWS, PER_SHARD = 20, 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of ten rows, one of them gone."""
    folder = tmp_path_factory.mktemp("conformance")
    root = Root(str(folder / "root"))
    dump = cc12m_dump(folder, ROWS)
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump), samples_per_shard=PER_SHARD))
    with picture_server({"/0.png": [(404, {}, b"")]}) as server:
        download.run(download.DownloadConfig(root=root.url, local=True, fetch=FetchConfig(resolve=server.resolve)))
    return root.local("shards", "cc12m")


IMG2DATASET = """
import sys, warnings
warnings.simplefilter("ignore")
import img2dataset
if __name__ == "__main__":
    img2dataset.download(
        url_list=sys.argv[1], output_folder=sys.argv[2], input_format="csv", url_col="url", caption_col="caption",
        output_format="webdataset", number_sample_per_shard=10, processes_count=1, thread_count=1,
        incremental_mode="incremental", enable_wandb=False, retries=0, timeout=1,
    )
"""


def test_img2dataset_takes_our_shards_for_its_own_and_skips_them(shards: Path, tmp_path: Path) -> None:
    urls = tmp_path / "urls.csv"
    # Nothing listens on port 9: a shard that img2dataset did not skip would be written anew without pictures.
    urls.write_text("url,caption\n" + "".join(f"http://127.0.0.1:9/{i}.png,x\n" for i in range(ROWS)))
    script = tmp_path / "run.py"
    script.write_text(IMG2DATASET)
    before = {path.name: path.read_bytes() for path in shards.iterdir() if path.is_file()}
    done = subprocess.run(
        [sys.executable, str(script), str(urls), str(shards)],
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name: path.read_bytes() for path in shards.iterdir() if path.is_file()} == before


READ = """
import io, json, sys, warnings
warnings.simplefilter("ignore")
import webdataset
rows = [
    (sample["__key__"], sample["txt"].decode(), json.loads(sample["json"])["uid"], len(sample["jpg"]))
    for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False)
]
print(json.dumps(rows))
"""


def test_webdataset_reads_every_sample(shards: Path) -> None:
    tars = [str(path) for path in sorted(shards.glob("*.tar"))]
    done = subprocess.run([sys.executable, "-c", READ, *tars], capture_output=True, text=True, check=True)
    found = [tuple(row) for row in json.loads(done.stdout)]
    rows = [row for tar in tars for row in pq.read_table(tar.replace(".tar", ".parquet")).to_pylist()]
    wanted = [(r["key"], r["caption"], r["uid"], r["size"]) for r in rows if r["status"] == "success"]
    assert found == wanted
    assert len(found) == ROWS - 1


def test_stored_pictures_are_pictures(shards: Path) -> None:
    with tarfile.open(next(iter(sorted(shards.glob("*.tar"))))) as tar:
        data = [tar.extractfile(m) for m in tar.getmembers() if m.name.endswith(".jpg")]
        sizes = {Image.open(io.BytesIO(file.read())).size for file in data if file is not None}
    assert sizes == {(48, 48)}
