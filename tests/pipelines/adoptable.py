"""Folders of tars as others make them: img2dataset, DataComp's resharder, the study's downloader, by hand."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from filters.stored import Stored, facts
from pipelines import adopt
from pipelines.store.root import Root

Files = Sequence[tuple[str, bytes]]


def image(number: int, format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of random blocks, different for each number."""
    blocks = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(out, format)
    return out.getvalue()


FATAL = b"a picture that kills whoever decodes it"


def fragile_facts(data: bytes, max_pixels: int) -> Stored:
    """`facts` in a decoder with a bug."""
    if data == FATAL:
        os.abort()
    return facts(data, max_pixels)


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of these files in this order, with one of tarfile's header formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def study(folder: Path, tars: int = 2, per_tar: int = 6) -> Path:
    """The study's shards: `<uuid4 hex>.jpeg`, then `.txt`; counts in text files and in sizes.json."""
    draw = np.random.default_rng(7)
    sizes = {}
    for number in range(tars):
        files = []
        for place in range(per_tar):
            key = uuid.UUID(bytes=draw.bytes(16), version=4).hex
            picture = number * per_tar + place
            files += [(f"{key}.jpeg", image(picture)), (f"{key}.txt", f"a picture of number {picture}".encode())]
        name = f"shard_{number:06d}"
        write_tar(folder / f"{name}.tar", files, tarfile.GNU_FORMAT)
        (folder / f"{name}_size.txt").write_text(str(per_tar))
        sizes[f"{name}.tar"] = per_tar
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return folder


def uid(number: int) -> str:
    """A DataComp uid."""
    return uuid.UUID(bytes=np.random.default_rng(number).bytes(16)).hex


def resharded(folder: Path, tars: Sequence[Sequence[int]]) -> Path:
    """DataComp's resharder: each tar holds these samples by number, again and again, as `<uid>-<repetition>`.

    Odd numbers had a face, so that their pictures were blurred into WebP.
    """
    for number, samples in enumerate(tars):
        files: list[tuple[str, bytes]] = []
        for place, sample in enumerate(samples):
            key = f"{uid(sample)}-{list(samples[:place]).count(sample)}"
            blurred = sample % 2 == 1
            record = {
                "uid": uid(sample), "face_bboxes": [[0.1, 0.2, 0.3, 0.4]] if blurred else [],
                "caption": f"number {sample}", "url": f"http://pictures.test/{sample}", "key": f"{sample:012d}",
                "status": "success", "error_message": None, "width": 40, "height": 30, "original_width": 400,
                "original_height": 300, "exif": "{}", "sha256": f"{sample:064x}",
                "clip_l14_similarity_score": sample / 64,
            }  # fmt: skip
            picture = image(sample, "WEBP") if blurred else image(sample)
            files += [
                (f"{key}.{'webp' if blurred else 'jpg'}", picture),
                (f"{key}.json", as_json(**record)),
                (f"{key}.txt", f"number {sample}".encode()),
            ]
        # webdataset's writer makes PAX headers where a name needs them, USTAR ones elsewhere
        write_tar(folder / f"{number:08d}.tar", files, tarfile.PAX_FORMAT)
        (folder / f"{number:08d}_stats.json").write_text(json.dumps({"successes": len(samples)}))
    (folder / "meta.json").write_text(json.dumps({"output_shard_count": len(tars)}))
    return folder


IMG2DATASET = """
import sys, warnings
warnings.simplefilter("ignore")
import img2dataset
if __name__ == "__main__":
    img2dataset.download(
        url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", url_col="url", caption_col="caption",
        output_format="webdataset", number_sample_per_shard=10, processes_count=1, thread_count=4, image_size=32,
        resize_mode="keep_ratio", resize_only_if_bigger=True, enable_wandb=False, retries=0, timeout=5,
        save_additional_columns=["similarity", "NSFW"], min_image_size=20,
    )
"""


def img2dataset(metadata: Path, folder: Path) -> Path:
    """The real img2dataset's output for a parquet with the columns url, caption, similarity and NSFW."""
    script = metadata.with_name("img2dataset_run.py")
    script.write_text(IMG2DATASET)
    done = subprocess.run(
        [sys.executable, str(script), str(metadata), str(folder)],
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def settings(root: Root, tars: Path | str, source: str = "mine", **fields: Any) -> adopt.AdoptConfig:
    """A run that adopts these tars in this process."""
    values = {"root": root.url, "local": True, "tars": str(tars), "source": source, **fields}
    return adopt.AdoptConfig.model_validate(values)


def rows_of(root: Root, source: str = "mine") -> list[dict[str, Any]]:
    """The rows of a source's shards, in their order."""
    names = root.names("shards", source, suffix=".parquet")
    return [row for name in names for row in root.read_table("shards", source, name).to_pylist()]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of each file below a folder, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
