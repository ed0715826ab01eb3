"""A mixture as training samples, each a function of the manifest, the seed, the epoch and the position in that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from filters.errors import ConfigError, InputError
from filters.sampling import sample_order
from trainer.augment import augment, draws
from trainer.batch import Index, Pixels
from trainer.captions import Tokenize, Tokens
from trainer.chance import Chance
from trainer.config import AugmentConfig
from trainer.hashes import open_hashes
from trainer.images import decode_rgb
from trainer.order import BatchMix, epoch_order, epoch_salt, file_order, single_source_order
from trainer.reader import open_reader
from trainer.rooms import Rooms, Shape
from trainer.rows import Places, open_rows
from trainer.sorting import Numbers
from trainer.tars import open_tars

View = Callable[[bytes, np.random.Generator], Pixels]
_TRIES = 1000  # pictures in a row that cannot be decoded, after which a source is given up
_CHUNK = 16  # pictures that are augmented at a time: as floats they take 600 KB each


@dataclass(frozen=True, slots=True)
class Epoch:
    """What all draws of an epoch depend on."""

    seed: int
    number: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that cannot be decoded."""

    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """Room for N samples: `images` uint8 [N, S, S, 3], `tokens` int64 [N, L], `sources` and `rows` int64 [N]."""

    images: Pixels
    tokens: Index
    sources: Index
    rows: Index

    @classmethod
    def of(cls, tensors: Iterable[torch.Tensor]) -> Part:
        """The memory of four tensors as a part."""
        return cls(*(tensor.numpy() for tensor in tensors))

    def __getitem__(self, piece: slice) -> Part:
        return Part(self.images[piece], self.tokens[piece], self.sources[piece], self.rows[piece])

    def copy_(self, other: Part) -> None:
        """Take over the samples of a part of the same size."""
        for mine, theirs in zip(self._arrays(), other._arrays(), strict=True):
            np.copyto(mine, theirs)

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.images, self.tokens, self.sources, self.rows


class MixtureDataset:
    """Pictures and captions of a manifest, read by offset from `<shards_root>/<source>/<shard>.tar`.

    A sample is a function of (manifest, seed, epoch, position): the row that `order` has there, `view` of its bytes
    with the generator of the position (see Chance), then `augmentation`: the changes that are still to be made of a
    finished view, by draws of their own. Of several captions one is drawn by (seed, epoch, position).

    With `tars`, `shards_root` is the folder of the tars that `headwater materialize` made of the manifest. They are
    read one after the other in an order drawn for each epoch, each from its beginning; all else is the same.

    `check_hashes` compares the bytes with what is recorded of them (see Hashes). A picture that is not what it should
    be, or cannot be decoded, is replaced by the next row of its source in the manifest, where need be from its
    beginning on, and told of as a Failure. Up to `cache_bytes` of views that drew no random number are kept.
    """

    def __init__(
        self,
        manifest: Path,
        shards_root: str | Path,
        *,
        view: View,
        tokenize: Tokenize,
        size: int,
        seed: int = 0,
        augmentation: AugmentConfig | None = None,
        cache_bytes: int = 0,
        check_hashes: bool = False,
        tars: bool = False,
        scratch: Path | None = None,
    ) -> None:
        if tars and check_hashes:
            raise ConfigError("check_hashes: there are no hashes of materialised tars; check the shards instead")
        self.rows = open_tars(manifest, scratch) if tars else open_rows(manifest, scratch)
        self.hashes = open_hashes(self.rows, shards_root) if check_hashes else None
        self.is_sequential = tars
        self.size = size
        self.seed = seed
        self.tokens = Tokens(tokenize)
        self._root = shards_root
        self._view = view
        self._after = augmentation if augmentation != AugmentConfig() else None
        self._cache: dict[tuple[int, int], Pixels] = {}
        self._cache_rows = cache_bytes // (3 * size * size)
        self.reopen()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sources(self) -> list[str]:
        """Names of the sources, by the numbers that batches give."""
        return self.rows.sources

    @property
    def window(self) -> int:
        """How many samples are best filled in one go: what they read is sorted by shard."""
        return self._reader.window

    def order(self, epoch: Epoch, batch: int = 1, batch_mix: BatchMix = "mixed") -> Numbers:
        """The rows in the order of an epoch; their number is that of whole batches where those are of one source."""
        if self.is_sequential and batch_mix == "single_source":
            raise ConfigError("batch_mix: batches of one source cannot be read from tars one after the other")
        if self.is_sequential:
            return file_order(self.rows, epoch.seed, epoch.number)
        if batch_mix == "single_source":
            return single_source_order(self.rows, epoch.seed, epoch.number, batch)
        return epoch_order(self.rows, epoch.seed, epoch.number)

    def sample(self, position: int, epoch: int = 0) -> tuple[Pixels, Index, int, int]:
        """Pixels uint8 [S, S, 3], tokens int64 [L], source and row of one position of a mixed epoch.

        The row is another one than `order` says where that one had to be replaced.
        """
        when, place = Epoch(self.seed, epoch), np.array([position])
        part = Part.of(Rooms(self.shapes(1), pin=False).take())
        self.fill(when, place, self.order(when)[place].astype(np.int64), part)
        return part.images[0], part.tokens[0], int(part.sources[0]), int(part.rows[0])

    def shapes(self, count: int) -> list[Shape]:
        """Shapes and types of tensors for a Part of `count` samples."""
        images = (count, self.size, self.size, 3), torch.uint8
        return [images, *((shape, torch.int64) for shape in ((count, self.tokens.length), (count,), (count,)))]

    def fill(self, epoch: Epoch, positions: Index, rows: Index, part: Part) -> list[Failure]:
        """Put the samples at `positions` of an epoch, int64 [N], whose rows are `rows`, into `part`.

        Raises ShardError when a shard cannot be read, InputError when nothing of a source can be decoded.
        """
        failures: list[Failure] = []
        places = self.rows.take(rows)
        keys = list(zip(places["file"].tolist(), places["offset"].tolist(), strict=True))
        wanted = [index for index, key in enumerate(keys) if key not in self._cache]
        data = dict(zip(wanted, self._read(places[wanted]), strict=True))
        chance = Chance(epoch.seed, epoch.number)
        part.rows[:] = rows
        for index, position in enumerate(positions.tolist()):
            if index in data:
                row, pixels = self._picture(int(rows[index]), data.pop(index), chance, position, failures)
                part.rows[index] = row
            else:
                pixels = self._cache[keys[index]]
            part.images[index] = pixels
        part.sources[:] = self.rows.take(part.rows)["source"]
        choice = sample_order(positions.astype(np.uint64), epoch_salt("caption", epoch.seed, epoch.number))
        part.tokens[:] = self.tokens(self.rows.captions(part.rows, choice))
        if self._after is not None:
            _change(part.images, draws(epoch.seed, epoch.number, positions), self._after)
        return failures

    def reopen(self, processes: int = 1) -> None:
        """Forget open files and connections: in a process that was forked they are those of its parent.

        `processes` that read one mixture share what may be kept of views.
        """
        self._cache_rows //= processes
        self._reader = open_reader(self._root, self.rows.files, sequential=self.is_sequential)

    def close(self) -> None:
        """Close the shards' files; the next read opens them again."""
        self._reader.close()

    def _read(self, places: Places) -> list[bytes]:
        return self._reader.read(self.hashes.with_header(places) if self.hashes else places)

    def _picture(
        self, row: int, data: bytes, chance: Chance, position: int, failures: list[Failure]
    ) -> tuple[int, Pixels]:
        """The first row from `row` on, of its source, that can be decoded, and its pixels."""
        tried = 0
        for candidate in itertools.islice(itertools.chain([row], self.rows.following(row)), _TRIES):
            if candidate != row:
                (data,) = self._read(self.rows.take(np.array([candidate])))
            try:
                picture = self.hashes.check(candidate, data) if self.hashes else data
                pixels = self._view(picture, chance.at(position))
            except InputError as error:
                failures.append(Failure(self.rows.uid(candidate), str(error)))
                tried += 1
                continue
            if len(self._cache) < self._cache_rows and chance.is_untouched:  # the view is one of the bytes alone
                place = self.rows.places[candidate]
                self._cache[int(place["file"]), int(place["offset"])] = pixels
            return candidate, pixels
        source = self.sources[int(self.rows.places["source"][row])]
        raise InputError(
            f"source {source}: {tried} pictures in a row cannot be decoded; the last: {failures[-1].reason}"
        )


class Fit:
    """A view without chance: the whole picture, its longest side scaled to `side`, centred on white."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, data: bytes, generator: np.random.Generator) -> Pixels:
        """uint8 [side, side, 3]; InputError for bytes that are no whole picture."""
        return fit(decode_rgb(data, self.side), self.side)


def fit(image: Image.Image, side: int) -> Pixels:
    """The whole picture with its longest side scaled to `side`, centred on white: uint8 [side, side, 3]."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    resized = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)


def _change(images: Pixels, uniform: torch.Tensor, config: AugmentConfig) -> None:
    """Augment `images` uint8 [N, S, S, 3] in place by the draws `uniform` [N, 16]; values are rounded."""
    for start in range(0, len(images), _CHUNK):
        part = torch.from_numpy(images[start : start + _CHUNK])
        planes = part.permute(0, 3, 1, 2).float().div_(255).contiguous()
        changed = augment(planes, uniform[start : start + _CHUNK], config)
        part.copy_(changed.mul_(255).round_().permute(0, 2, 3, 1))
