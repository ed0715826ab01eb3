"""One side of the comparison of loaders, in a process of its own: delivers batches for some seconds, prints JSON.

    python -m benchmarks.loader_sides SIDE FOLDER --side 256 --format jpg [--tenth] [--bytes] [--workers N]

All sides see the same pictures and captions. Decoded, each gives normalised floats of 224 pixels and tokens
(ImageFolder: class numbers), batches of 128 from N processes; as bytes, encoded pictures and captions from one
process. open_clip's loader is open_clip_train's own; webdataset has the same transform and tokenizer, and passes over
members of other samples by `select_files`, which is the fastest that it can do. Both shuffle 1,000 samples at a time,
and get tars for ever; ours and ImageFolder shuffle the whole.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import psutil
import torch
import webdataset as wds
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from open_clip_train import data as open_clip_data
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from benchmarks.loader_data import Corpus
from filters.fast import decode_part, decode_webp, jpeg_header
from trainer import captions
from trainer.allocator import keep_freed_memory
from trainer.config import AugmentConfig
from trainer.dataset import MixtureDataset
from trainer.floats import normalised
from trainer.loader import Loader
from trainer.order import epoch_order
from trainer.reader import open_reader
from trainer.rows import open_rows
from trainer.views import TrainView

VIEW, BATCH, SHUFFLE = 224, 128, 1000
OPEN_CLIPS = AugmentConfig(crop=(0.9, 1.0))
_WARM_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """What was delivered in `seconds` by the clock and `cpu` seconds of all processes of the side."""

    samples: int
    seconds: float
    cpu: float


def first(tokenizer: Any, text: str) -> torch.Tensor:
    """Tokens of one text, as open_clip_train takes them."""
    return torch.as_tensor(tokenizer(text)[0])


def read(path: str) -> bytes:
    """A file's bytes."""
    return Path(path).read_bytes()


def ours(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """The mixture loader, its bytes made floats where they are used, with the trainer's way with freed memory."""
    keep_freed_memory()
    with Loader(mixture(corpus, part), BATCH, workers=workers) as loader:
        for batch in loader:
            normalised(batch.images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
            yield len(batch)


def mixture(corpus: Corpus, part: bool) -> MixtureDataset:
    """All pairs or the tenth, with open_clip's changes and tokenizer."""
    # Every caption is to be a new one, as in a mixture that is larger than what is remembered.
    with mock.patch.object(captions, "_CAPTIONS", 1):
        return MixtureDataset(
            corpus.manifest(part),
            corpus.shards_root,
            view=TrainView(VIEW, OPEN_CLIPS),
            tokenize=open_clip.get_tokenizer("ViT-B-32"),
            size=VIEW,
            scratch=corpus.folder / "scratch",
        )


def ours_bytes(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """Bytes and captions in the order of an epoch."""
    rows = open_rows(corpus.manifest(part), corpus.folder / "scratch")
    reader, epoch = open_reader(corpus.shards_root, rows.files), 0
    while True:
        order = epoch_order(rows, 0, epoch)
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH].astype(np.int64)
            data = reader.read(rows.take(numbers))
            rows.captions(numbers, np.zeros(len(numbers), np.uint64))
            yield len(data)
        epoch += 1


def open_clips(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """open_clip_train's loader with its own transform and tokenizer; it has no selection."""
    assert not part
    open_clip_data._SAMPLE_SHUFFLE_SIZE = open_clip_data._SAMPLE_SHUFFLE_INITIAL = SHUFFLE
    arguments = SimpleNamespace(
        train_data="::".join(corpus.tars),
        train_data_upsampling_factors=None,
        train_num_samples=10**8,
        dataset_resampled=True,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
        seed=0,
    )
    info = open_clip_data.get_wds_dataset(
        arguments, image_transform(VIEW, is_train=True), is_train=True, tokenizer=open_clip.get_tokenizer("ViT-B-32")
    )
    for images, _ in info.dataloader:
        yield len(images)


def tar_samples(corpus: Corpus, part: bool) -> list[Any]:
    """webdataset's stages from tars to encoded samples."""
    chosen = corpus.chosen()
    keep = (lambda name: name.partition(".")[0] in chosen) if part else None
    return [wds.ResampledShards(corpus.tars), wds.tarfile_to_samples(select_files=keep), wds.shuffle(SHUFFLE)]


def webdatasets(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """webdataset with open_clip's transform and tokenizer."""
    tokenize = partial(first, open_clip.get_tokenizer("ViT-B-32"))
    stages = [
        *tar_samples(corpus, part),
        wds.decode("pilrgb"),
        wds.to_tuple(corpus.format, "txt"),
        wds.map_tuple(image_transform(VIEW, is_train=True), tokenize),
        wds.batched(BATCH, partial=False),
    ]
    for images, _ in wds.WebLoader(wds.DataPipeline(*stages), batch_size=None, num_workers=workers):
        yield len(images)


def webdatasets_bytes(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """webdataset without decoding."""
    stages = [*tar_samples(corpus, part), wds.to_tuple(corpus.format, "txt"), wds.batched(BATCH, partial=False)]
    for images, _ in wds.DataPipeline(*stages):
        yield len(images)


def folders(corpus: Corpus, part: bool, workers: int, bytes_only: bool = False) -> Iterator[int]:
    """torchvision's ImageFolder in a DataLoader."""
    how: dict[str, Any] = {"loader": read} if bytes_only else {"transform": image_transform(VIEW, is_train=True)}
    files: Any = ImageFolder(str(corpus.files), **how)
    if part:
        chosen = corpus.chosen()
        files = Subset(files, [i for i, (path, _) in enumerate(files.samples) if Path(path).stem in chosen])
    loader = DataLoader(
        files, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for images, _ in loader:
            yield len(images)


def decoder(corpus: Corpus, part: bool, workers: int) -> Iterator[int]:
    """Nothing but decoding, at the scale that the view needs, in one process."""
    data = [path.read_bytes() for path in sorted(corpus.files.glob(f"*/*.{corpus.format}"))[:256]]
    scale = max(scale for scale in (8, 4, 2, 1) if scale == 1 or corpus.side * 0.94 >= scale * VIEW)
    while True:
        for picture in data:
            header = jpeg_header(picture)
            found = decode_webp(picture) if header is None else decode_part(picture, header.size, scale)
            assert found is not None
        yield len(data)


Side = Callable[[Corpus, bool, int], Iterator[int]]
DECODED: dict[str, Side] = {
    "ours": ours,
    "open_clip": open_clips,
    "webdataset": webdatasets,
    "ImageFolder": folders,
    "decoder": decoder,
}
BYTES: dict[str, Side] = {
    "ours": ours_bytes,
    "webdataset": webdatasets_bytes,
    "ImageFolder": partial(folders, bytes_only=True),
}


def measure(batches: Iterable[int], seconds: float) -> Rate:
    """Samples delivered in at least `seconds`, after a few batches."""
    counts = iter(batches)
    for _ in range(_WARM_BATCHES):
        next(counts)
    start, used, samples = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - start < seconds:
        samples += next(counts)
    return Rate(samples, time.perf_counter() - start, cpu_seconds() - used)


def cpu_seconds() -> float:
    """CPU seconds of this process and its workers until now."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(time.process_time() + sum(one.user + one.system for one in times))


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line of JSON: samples, seconds and CPU seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader_sides")
    parser.add_argument("name", choices=DECODED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--tenth", action="store_true", help="a selection of a tenth of all pairs")
    parser.add_argument("--bytes", action="store_true", help="do not decode; one process")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    chosen = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    corpus = Corpus(chosen.folder, chosen.side, chosen.format, 0, 0)
    sides = BYTES if chosen.bytes else DECODED
    counts = sides[chosen.name](corpus, chosen.tenth, 0 if chosen.bytes else chosen.workers)
    print(json.dumps(asdict(measure(counts, chosen.seconds))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
