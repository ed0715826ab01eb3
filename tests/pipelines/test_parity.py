"""img2dataset and Headwater download the same rows from one server: what each says about them is compared by URL."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from pipelines import download, ingest
from pipelines.store.root import Root
from pipelines.store.schema import SHARD
from pipelines.store.shards import read_images
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import picture, picture_server

PER_SHARD, SIZE, HOST = 10, 256, "http://pictures.test"
Answers = dict[str, list[tuple[int, dict[str, str], bytes]]]
NOAI = {"X-Robots-Tag": "noai, noimageai, noindex, noimageindex, nofollow"}


def image(width: int, height: int, form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A smooth picture of the given size, different for each size."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [x, y, x * y] if mode == "RGB" else [x]
    pixels = (255 * np.stack(planes, axis=-1)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(out, form, **options)
    return out.getvalue()


# What both tools are to say the same about. The sizes of img2dataset's own tests are among them.
PICTURES = {
    "/123_456.jpg": image(123, 456, "JPEG"),
    "/208_495.jpg": image(208, 495, "JPEG"),
    "/321_421.jpg": image(321, 421, "JPEG"),
    "/389_535.jpg": image(389, 535, "JPEG"),
    "/416_264.jpg": image(416, 264, "JPEG"),
    "/456_123.jpg": image(456, 123, "JPEG"),
    "/524_316.jpg": image(524, 316, "JPEG"),
    "/1999_1501.jpg": image(1999, 1501, "JPEG"),
    "/257_3.jpg": image(257, 3, "JPEG"),
    "/640_480.png": image(640, 480, "PNG"),
    "/300_700.webp": image(300, 700, "WEBP"),
    "/grey.jpg": image(500, 400, "JPEG", mode="L"),
    "/grey.png": image(500, 400, "PNG", mode="L"),
}
COMMON: Answers = {
    **{path: [(200, {}, body)] for path, body in PICTURES.items()},
    "/gone.png": [(404, {}, b"")],
    "/removed.png": [(410, {}, b"")],
    "/refused.png": [(403, {}, b"")],
    "/broken.png": [(500, {}, b"")],
    "/busy.png": [(429, {}, b"")],
    "/noai.png": [(200, NOAI, picture(1))],
    "/noimageindex.png": [(200, {"X-Robots-Tag": "noimageindex"}, picture(1))],
    "/nofollow.png": [(200, {"X-Robots-Tag": "nofollow"}, picture(2))],
    "/otherbot.png": [(200, {"X-Robots-Tag": "otherbot: nofollow"}, picture(3))],
    "/cut.jpg": [(200, {}, PICTURES["/1999_1501.jpg"][:20_000])],
    "/page.png": [(200, {}, b"<html>not a picture</html>")],
    "/moved.png": [(302, {"Location": "/7.png"}, b"")],
    "/lost.png": [(302, {"Location": "/gone.png"}, b"")],
}
CAPTION = 'caption of {}, with ümlauts and "quotes"'
# What img2dataset takes, and we do not: skipped before any request, or refused by what the server says.
SKIPPED = {"ftp://pictures.test/2.png", "http://name:secret@pictures.test/1.png"}
# The same end in other words: img2dataset has those of the library that failed.
REWORDED: Answers = {
    "/empty.png": [(200, {}, b"")],
    "/short.png": [(200, {"Content-Length": "100000"}, picture(4))],
}
SIDEWAYS = Image.Exif()
SIDEWAYS[ExifTags.Base.Orientation] = 6
UNLIKE: Answers = {
    # The agent-like prefix of a date hides the directive from img2dataset.
    "/dated.png": [(200, {"X-Robots-Tag": "unavailable_after: 25 Jun 2010 15:00:00 PST, noai"}, picture(1))],
    "/noml.png": [(200, {"X-Robots-Tag": "noml"}, picture(2))],
    "/reserved.png": [(200, {"TDM-Reservation": "1"}, picture(3))],
    # Taken on its side: img2dataset stores it so.
    "/turned.jpg": [(200, {}, image(400, 300, "JPEG", exif=SIDEWAYS))],
}  # fmt: skip

IMG2DATASET = """
import json, sys, warnings
warnings.simplefilter("ignore")
import img2dataset
if __name__ == "__main__":
    img2dataset.download(url_list=sys.argv[1], output_folder=sys.argv[2], **json.loads(sys.argv[3]))
"""


@dataclass
class Both:
    """What the two made of the same rows: their folders of shards."""

    ours: Path
    theirs: Path

    def rows(self, folder: Path) -> dict[str, dict[str, Any]]:
        tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
        return {row["url"]: row for table in tables for row in table.to_pylist()}

    def members(self, folder: Path) -> dict[str, bytes]:
        found = {}
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                found.update({m.name: tar.extractfile(m).read() for m in tar.getmembers()})  # type: ignore[union-attr]
        return found


def both(folder: Path, answers: Answers, urls: list[str]) -> Both:
    """The rows of a CC12M dump through our ingest and download, then img2dataset over the same slices."""
    dump = folder / "dump"
    dump.mkdir()
    (dump / "cc12m.tsv").write_text("".join(f"{url}\t{CAPTION.format(url)}\n" for url in urls), encoding="utf-8")
    root = Root(str(folder / "root"))
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump), samples_per_shard=PER_SHARD))
    slices = [root.read_table("metadata", "cc12m", name) for name in root.names("metadata", "cc12m")]
    pq.write_table(pa.concat_tables(slices).select(["url", "caption"]), folder / "urls.parquet")
    with picture_server(answers) as server:
        fetch = FetchConfig(resolve=server.resolve, retries=0, limit=HostLimit(rate=None))
        download.run(
            download.DownloadConfig(root=root.url, local=True, image_size=SIZE, max_failed_fraction=1, fetch=fetch)
        )
        run_img2dataset(folder, server.server_address[1])
    return Both(root.local("shards", "cc12m"), folder / "theirs")


def run_img2dataset(folder: Path, port: int) -> None:
    options = {
        "input_format": "parquet", "url_col": "url", "caption_col": "caption", "output_format": "webdataset",
        "number_sample_per_shard": PER_SHARD, "image_size": SIZE, "resize_mode": "keep_ratio_largest",
        "resize_only_if_bigger": True, "processes_count": 1, "thread_count": 4, "retries": 0, "timeout": 10,
        "enable_wandb": False,
    }  # fmt: skip
    (folder / "run.py").write_text(IMG2DATASET)
    proxy = f"http://127.0.0.1:{port}"
    environment = {k: v for k, v in os.environ.items() if k.lower() not in ("no_proxy", "https_proxy")}
    done = subprocess.run(
        [sys.executable, str(folder / "run.py"), str(folder / "urls.parquet"), str(folder / "theirs"),
         json.dumps(options)],
        env={**environment, "http_proxy": proxy, "ftp_proxy": proxy, "NO_ALBUMENTATIONS_UPDATE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Both:
    urls = [HOST + path for path in COMMON] + [f"{HOST}/{n}.png" for n in range(20, 40)]
    return both(tmp_path_factory.mktemp("common"), COMMON, urls)


COMPARED = (
    "status",
    "error_message",
    "caption",
    "key",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
)


def test_rows_say_the_same(common: Both) -> None:
    ours, theirs = common.rows(common.ours), common.rows(common.theirs)
    assert len(theirs) == len(COMMON) + 20
    assert {url: [row[name] for name in COMPARED] for url, row in ours.items()} == {
        url: [row[name] for name in COMPARED] for url, row in theirs.items()
    }
    assert {row["status"] for row in ours.values()} == {"success", "failed_to_download", "failed_to_resize"}


def test_columns_are_theirs_then_ours(common: Both) -> None:
    theirs = pq.read_schema(next(common.theirs.glob("*.parquet")))
    assert SHARD.arrow.names[: len(theirs)] == theirs.names
    assert [SHARD.arrow.field(name).type for name in theirs.names] == theirs.types


def test_tars_hold_the_same_samples(common: Both) -> None:
    ours, theirs = common.members(common.ours), common.members(common.theirs)
    assert set(ours) == set(theirs)
    for name, body in theirs.items():
        if name.endswith(".txt"):
            assert ours[name] == body
        elif name.endswith(".json"):
            mine, its = json.loads(ours[name]), json.loads(body)
            assert set(mine) == {*its, "uid"}
            # EXIF tags have the names that each one's library gives them.
            assert {k: v for k, v in mine.items() if k in its and k != "exif"} == {
                k: v for k, v in its.items() if k != "exif"
            }
        else:
            assert Image.open(io.BytesIO(ours[name])).size == Image.open(io.BytesIO(body)).size


def test_counts_are_the_same(common: Both) -> None:
    names = sorted(path.name for path in common.theirs.glob("*_stats.json"))
    assert names == sorted(path.name for path in common.ours.glob("*_stats.json"))
    for name in names:
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (common.ours, common.theirs))
        assert set(ours) == {*theirs, "skipped"}
        for key in ("count", "successes", "failed_to_download", "failed_to_resize", "status_dict"):
            assert ours[key] == theirs[key]


def test_where_the_two_differ_and_why(tmp_path: Path) -> None:
    answers = {**UNLIKE, **REWORDED}
    found = both(tmp_path, answers, [HOST + path for path in answers] + sorted(SKIPPED))
    ours, theirs = found.rows(found.ours), found.rows(found.theirs)
    # Every row has its place in both, also the ones that only one of the two asked for.
    assert set(ours) == set(theirs) == {HOST + path for path in answers} | SKIPPED
    assert {url for url, row in ours.items() if row["status"] == "skipped"} == SKIPPED
    assert {path: ours[HOST + path]["reason"] for path in answers} == {
        "/dated.png": "opt_out", "/noml.png": "opt_out", "/reserved.png": "tdm_reserved", "/turned.jpg": "ok",
        "/empty.png": "decode", "/short.png": "connection",
    }  # fmt: skip
    assert {path: theirs[HOST + path]["status"] for path in UNLIKE} == dict.fromkeys(UNLIKE, "success")
    assert all(theirs[HOST + path]["status"] == ours[HOST + path]["status"] for path in REWORDED)
    turned = HOST + "/turned.jpg"
    assert (theirs[turned]["width"], theirs[turned]["height"]) == (ours[turned]["height"], ours[turned]["width"])
    assert theirs[turned]["sha256"] == ours[turned]["sha256"]


def test_shards_that_img2dataset_finished_are_taken_as_they_are(common: Both, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    folder = root.local("shards", "cc12m")
    shutil.copytree(common.theirs, folder)
    shutil.copytree(common.ours.parents[1] / "metadata", root.local("metadata"))
    before = {path.name: path.read_bytes() for path in folder.glob("0*") if path.suffix != ".parquet"}
    # Nothing listens on port 9: whatever is there was there before.
    fetch = FetchConfig(resolve={"*.test": "127.0.0.1:9"})
    config = download.DownloadConfig(root=root.url, local=True, fetch=fetch)
    summary = download.run(config)
    assert summary["shards_failed"] == {}
    assert summary["taken_from_img2dataset"] == len(root.shards("shards"))
    assert {path.name: path.read_bytes() for path in folder.glob("0*") if path.suffix != ".parquet"} == before
    found, theirs = common.rows(folder), common.rows(common.theirs)
    assert {url: [row[name] for name in COMPARED] for url, row in found.items()} == {
        url: [row[name] for name in COMPARED] for url, row in theirs.items()
    }
    members = common.members(folder)
    for shard in root.shards("shards"):
        table = root.read_table("shards", shard.source, f"{shard.number}.parquet")
        assert table.schema.equals(SHARD.arrow)
        rows = table.filter(pa.compute.equal(table["reason"], "ok"))
        images = read_images(root, rows)
        assert images == [members[f"{key}.jpg"] for key in rows["key"].to_pylist()]
    # Under other settings they are left alone too: their pictures may be gone from the web.
    assert download.plan(config.model_copy(update={"image_size": 32}))["shards"] == []
    assert download.run(config)["shards_skipped"] == len(root.shards("shards"))
