"""The mixture loader: a map-style dataset over a manifest, and batches that depend on a seed and nothing else."""

from __future__ import annotations

import functools
import os
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from filters.errors import InputError, SchemaError, ShardError
from trainer.augment import augment, draws
from trainer.config import AugmentConfig
from trainer.images import decode_rgb

COLUMNS = ("uid", "source", "shard", "offset", "size", "caption", "repeat")
Pixels = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]
_OPEN_SHARDS = 128  # of one dataset at a time; a process may often open no more than 1,024 files


@dataclass(frozen=True)
class Batch:
    """Training pairs: `images` float32 [N, 3, S, S] in 0..1, N `captions`, and their rows in the manifest."""

    images: torch.Tensor
    captions: list[str]
    rows: Index


class MixtureDataset:
    """Pictures and captions of a manifest, read by offset from `<shards_root>/<source>/<shard>.tar`.

    `order(epoch)` is a permutation of all rows, a function of (seed, epoch); rank r of R takes every R-th place from
    r, so that the ranks' batches together are the batch of one process. A picture's augmentation is a function of
    (seed, epoch, place in the order). A picture that cannot be decoded is counted by uid in `decode_errors` and
    replaced by the next row that can. The last rows of an epoch that fill no batch are left out of that epoch.

    Raises SchemaError for a manifest without its columns or with nulls in them, InputError for an empty one.
    """

    def __init__(
        self,
        manifest: Path,
        shards_root: Path,
        *,
        image_size: int,
        seed: int = 0,
        cache_bytes: int = 0,
        threads: int = 1,
    ) -> None:
        self.table = _read_manifest(manifest)
        self.shards_root = shards_root
        self.image_size = image_size
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self.decode_errors: Counter[str] = Counter()
        self._threads = threads
        self._cache: dict[int, Pixels] = {}
        self._cache_rows = cache_bytes // (3 * image_size * image_size)
        self._open = functools.lru_cache(maxsize=_OPEN_SHARDS)(_Shard)
        self._epoch_order = functools.lru_cache(maxsize=1)(self._permutation)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: int) -> tuple[Pixels, str]:
        """Row `row` as uint8 [S, S, 3] (longest side fitted, padded with white) and its caption.

        Raises ShardError when the shard cannot be read, InputError when no row of the manifest can be decoded.
        """
        for step in range(len(self)):
            candidate = (row + step) % len(self)
            pixels = self._cache.get(candidate)
            if pixels is None:
                pixels = self._decode(candidate)
            if pixels is not None:
                return pixels, self.table["caption"][candidate].as_py()
        raise InputError(f"none of the {len(self)} pictures of the manifest can be decoded")

    def order(self, epoch: int, rank: int = 0, ranks: int = 1) -> Index:
        """Rows in the order of `epoch` for `rank` of `ranks`, int64."""
        return self._epoch_order(self.seed, epoch)[rank::ranks]

    def batches(
        self, batch: int, augmentation: AugmentConfig | None = None, rank: int = 0, ranks: int = 1
    ) -> Iterator[Batch]:
        """Endless batches from the present state on; `batch` counts the pairs of all ranks together.

        Raises InputError when the manifest holds less than one batch or `ranks` does not divide it.
        """
        if len(self) < batch or batch % ranks:
            raise InputError(
                f"a batch of {batch} needs as many pairs (there are {len(self)}) and {ranks} equal parts"
            )
        config = augmentation or AugmentConfig()
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                if self.position + batch > len(self):
                    self.epoch, self.position = self.epoch + 1, 0
                places = np.arange(self.position + rank, self.position + batch, ranks)
                rows = self.order(self.epoch)[places]
                pairs = list(pool.map(self.__getitem__, rows.tolist()))
                pixels = torch.from_numpy(np.stack([pixels for pixels, _ in pairs]))
                images = pixels.permute(0, 3, 1, 2).float().div_(255)
                images = augment(images, draws(self.seed, self.epoch, places), config)
                self.position += batch
                yield Batch(images, [caption for _, caption in pairs], rows)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts, and what was counted; JSON types only."""
        counts = dict(sorted(self.decode_errors.items()))
        return {
            "rows": len(self),
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "decode_errors": counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; InputError for the state of a mixture of another size."""
        if state["rows"] != len(self):
            raise InputError(f"the state is of a mixture of {state['rows']} pairs, this one has {len(self)}")
        self.seed, self.epoch, self.position = state["seed"], state["epoch"], state["position"]
        self.decode_errors = Counter(state["decode_errors"])

    def close(self) -> None:
        """Close the shards' files; the next read opens them again."""
        self._open.cache_clear()

    def _permutation(self, seed: int, epoch: int) -> Index:
        whole: Index = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(self))
        whole.flags.writeable = False  # every batch of the epoch looks at this one array
        return whole

    def _decode(self, row: int) -> Pixels | None:
        try:
            image = decode_rgb(self._read(row), self.image_size)
        except InputError:
            self.decode_errors[self.table["uid"][row].as_py()] += 1
            return None
        pixels = fit(image, self.image_size)
        if len(self._cache) < self._cache_rows:
            self._cache[row] = pixels
        return pixels

    def _read(self, row: int) -> bytes:
        source, shard, offset, size = (
            self.table[name][row].as_py() for name in ("source", "shard", "offset", "size")
        )
        path = self.shards_root / source / f"{shard}.tar"
        try:
            data = self._open(path).read(offset, size)
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}; download the shard again") from error
        if len(data) != size:
            raise ShardError(
                f"{path} ends before byte {offset + size}, which the manifest names; rebuild the mixture"
            )
        return data


class _Shard:
    """An open shard; its file is closed once nobody holds the shard, so that no thread reads a closed file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


def fit(image: Image.Image, side: int) -> Pixels:
    """The whole picture with its longest side scaled to `side`, centred on white: uint8 [side, side, 3]."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    resized = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)


def _read_manifest(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a manifest: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SchemaError(f"{path} is no manifest: it has no column {', '.join(missing)}")
    if table.num_rows == 0:
        raise InputError(f"{path} holds no samples; build the mixture again with wider selections")
    table = table.select(COLUMNS).combine_chunks()
    if nulls := [name for name in COLUMNS if table[name].null_count]:
        raise SchemaError(f"{path} has nulls in {', '.join(nulls)}; build the mixture again")
    return table
