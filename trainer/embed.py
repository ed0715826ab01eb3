"""Pictures and texts to normalised embeddings, as fast as the machine allows and the same for any batch.

On a CPU each core takes small batches of its own from bytes to embeddings, with one thread: no core waits for
another between two layers, and activations stay in its cache. On a GPU the cores decode ahead of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import get_input_dtype

from filters.errors import InputError, ModelError
from trainer.images import Preprocess, split_preprocess
from trainer.model import LoadedModel
from trainer.texts import encode_cut, length_chunks, text_lengths

Embeddings = npt.NDArray[np.float32]
Kind: TypeAlias = Literal["picture", "text"]
Faults: TypeAlias = dict[int, str]  # why an item cannot be embedded, by its position
Item = TypeVar("Item")
Result = TypeVar("Result")

# Pictures that one thread handles at a time, and on a CPU also the most that make one batch.
_PART = 16


class UnusableItem(InputError):
    """A picture or text that cannot be embedded, and its `position` among those given."""

    def __init__(self, kind: Kind, position: int, reason: str) -> None:
        super().__init__(f"{kind} {position}: {reason}")
        self.position = position


def embed_images(
    loaded: LoadedModel, images: Sequence[bytes], batch: int = 256, faults: Faults | None = None
) -> Embeddings:
    """L2-normalised image embeddings, float32 [len(images), embed_dim], of encoded pictures.

    `torch.get_num_threads()` threads decode and preprocess, just as open_clip does, ahead of the model; `batch` is
    the most pictures a forward pass. A picture's embedding does not depend on the pictures beside it, up to the
    rounding of matrix products of another shape (each number 1e-5 in fp32, 5e-3 in bf16; docs/score.md). A picture
    that cannot be decoded, or whose embedding is not finite, is put into `faults` and its row is NaN; without
    `faults` it raises UnusableItem.
    """
    return begin_images(loaded, images, batch, faults)()


def begin_images(
    loaded: LoadedModel, images: Sequence[bytes], batch: int = 256, faults: Faults | None = None
) -> Callable[[], Embeddings]:
    """What gives `embed_images`, once; for a GPU the first four batches of pictures are decoded before it is called.

    On a CPU the cores that decode are those that the model needs: there all is done when it is called.
    """
    if not _on_gpu(loaded):
        return partial(_images_on_cores, loaded, images, batch, faults)
    preprocess = split_preprocess(loaded.preprocess)
    size = min(batch, _PART)
    pixels = partial(_pixels, preprocess, images, size, faults)
    starts = range(0, len(images), size)
    ready = _ahead(lambda start: pixels(start).pin_memory(), starts, torch.get_num_threads(), 4 * batch // size)

    def finish() -> Embeddings:
        with without_tf32():
            parts = [_image_features(loaded, preprocess, group) for group in _groups(ready, batch // size)]
        return _finite(loaded, parts, "picture", np.arange(len(images)), faults)

    return finish


def _images_on_cores(loaded: LoadedModel, images: Sequence[bytes], batch: int, faults: Faults | None) -> Embeddings:
    preprocess = split_preprocess(loaded.preprocess)
    size = _part(loaded, len(images), min(batch, _PART))
    pixels = partial(_pixels, preprocess, images, size, faults)
    starts = range(0, len(images), size)
    parts = each_core(lambda start: _image_features(loaded, preprocess, [pixels(start)]), starts)
    return _finite(loaded, parts, "picture", np.arange(len(images)), faults)


def embed_texts(
    loaded: LoadedModel, texts: Sequence[str], batch: int = 256, faults: Faults | None = None
) -> Embeddings:
    """L2-normalised text embeddings, float32 [len(texts), embed_dim]; longer texts are cut at the context length.

    Texts of similar length share a forward pass that ends where they do, if the model allows it
    (`trainer.model.can_truncate`); a pass has at most as many tokens as `batch` full texts. A text's embedding does
    not depend on the others, up to rounding as for pictures. One that is not finite is put into `faults` and its row
    is NaN; without `faults` it raises UnusableItem.
    """
    if not texts:
        return np.zeros((0, loaded.embed_dim), np.float32)
    tokens = loaded.tokenizer(list(texts))
    lengths = text_lengths(loaded.model, tokens)
    most = tokens.shape[1] * (batch if _on_gpu(loaded) else min(batch, _PART))
    chunks = list(length_chunks(lengths, _part(loaded, int(lengths.sum()), most)))
    features = partial(_text_features, loaded, tokens, lengths)
    with without_tf32():
        parts = [features(chunk) for chunk in chunks] if _on_gpu(loaded) else each_core(features, chunks)
    order = np.concatenate(chunks)
    found = np.empty((len(texts), loaded.embed_dim), np.float32)
    found[order] = _finite(loaded, parts, "text", order, faults)
    return found


def embed_pairs(
    loaded: LoadedModel,
    images: Sequence[bytes],
    texts: Sequence[str],
    batch: int = 256,
    faults: tuple[Faults, Faults] | None = None,
) -> tuple[Embeddings, Embeddings]:
    """`embed_images` and `embed_texts` with a dict of `faults` each; a GPU does texts while it waits for pictures."""
    return begin_pairs(loaded, images, texts, batch, faults)()


def begin_pairs(
    loaded: LoadedModel,
    images: Sequence[bytes],
    texts: Sequence[str],
    batch: int = 256,
    faults: tuple[Faults, Faults] | None = None,
) -> Callable[[], tuple[Embeddings, Embeddings]]:
    """What gives `embed_pairs`, once, with pictures begun as by `begin_images`."""
    of_images, of_texts = faults or (None, None)
    pictures = begin_images(loaded, images, batch, of_images)

    def finish() -> tuple[Embeddings, Embeddings]:
        if not _on_gpu(loaded):
            return pictures(), embed_texts(loaded, texts, batch, of_texts)
        # Around both: the one that ends first must not give TF32 back to the other.
        with without_tf32(), ThreadPoolExecutor(1) as beside:
            embedded = beside.submit(embed_texts, loaded, texts, batch, of_texts)
            return pictures(), embedded.result()

    return finish


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products of float32 without TF32, whose ten bits of mantissa CUDA has for convolutions unless told otherwise.

    The settings are the whole process's; they are afterwards what they were before.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _on_gpu(loaded: LoadedModel) -> bool:
    return torch.device(loaded.device).type == "cuda"


def _part(loaded: LoadedModel, whole: int, most: int) -> int:
    """How much of `whole` makes a part: at most `most`, and on a CPU so little that each core has some."""
    return most if _on_gpu(loaded) else max(1, min(most, math.ceil(whole / torch.get_num_threads())))


def _pixels(
    preprocess: Preprocess, images: Sequence[bytes], size: int, faults: Faults | None, start: int
) -> torch.Tensor:
    """uint8 [<= size, H, W, 3] of the pictures from `start` on; something in place of those put into `faults`."""
    found = []
    for position, data in enumerate(images[start : start + size], start):
        try:
            found.append(preprocess.pixels(data))
        except InputError as error:
            if faults is None:
                raise UnusableItem("picture", position, str(error)) from error
            faults[position] = str(error)
            found.append(preprocess.stand_in())
    return torch.stack(found)


@torch.inference_mode()
def _image_features(loaded: LoadedModel, preprocess: Preprocess, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Unit features [N, embed_dim] on the model's device, of uint8 parts [n, H, W, 3]."""
    inputs = torch.cat([part.to(loaded.device, non_blocking=True) for part in pixels])
    floats = preprocess.normalised(inputs, get_input_dtype(loaded.precision))
    return _unit(loaded, loaded.model.encode_image(floats))


@torch.inference_mode()
def _text_features(
    loaded: LoadedModel, tokens: torch.Tensor, lengths: npt.NDArray[np.int64], chunk: npt.NDArray[np.int64]
) -> torch.Tensor:
    """Unit features [len(chunk), embed_dim] on the model's device; `chunk` holds positions, the longest text last."""
    return _unit(loaded, encode_cut(loaded.model, tokens[chunk].to(loaded.device), int(lengths[chunk[-1]])))


def each_core(function: Callable[[Item], torch.Tensor], items: Iterable[Item]) -> list[torch.Tensor]:
    """`function` of each item, on as many threads as torch uses, none of which uses others in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return list(_ahead(function, items, threads))
    finally:
        torch.set_num_threads(threads)


def _ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int = 0
) -> Iterator[Result]:
    """Results in the order of `items`; at most `ahead` of them, or two a thread, are under way or waiting.

    So many are begun at once, before the first result is asked for.
    """
    pool, left = ThreadPoolExecutor(threads), iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(left, max(2 * threads, ahead)))
    return _results(pool, function, waiting, left)


def _results(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], waiting: deque[Future[Result]], left: Iterator[Item]
) -> Iterator[Result]:
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while group := list(islice(items, size)):
        yield group


def _unit(loaded: LoadedModel, features: torch.Tensor) -> torch.Tensor:
    """Rows of length 1 in float32, still on the device; ModelError for features of another width."""
    if features.shape[1] != loaded.embed_dim:
        raise ModelError(f"{loaded.name} gives {features.shape[1]} numbers; its config says {loaded.embed_dim}")
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _finite(
    loaded: LoadedModel,
    parts: list[torch.Tensor],
    kind: Kind,
    positions: npt.NDArray[np.int64],
    faults: Faults | None,
) -> Embeddings:
    """All parts as one array, whose rows are of the items at `positions`; those in `faults` are NaN.

    A row with NaN or infinity is one of them; UnusableItem for the first if `faults` is None.
    """
    if not parts:
        return np.zeros((0, loaded.embed_dim), np.float32)
    rows: Embeddings = torch.cat(parts).cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    reason = f"its embedding is not finite ({len(bad)} of {len(rows)}); try precision fp32, or check the weights"
    if faults is None:
        if len(bad):
            raise UnusableItem(kind, int(positions[bad[0]]), reason)
        return rows
    for position in positions[bad].tolist():
        faults.setdefault(position, reason)
    rows[np.isin(positions, list(faults))] = np.nan
    return rows
