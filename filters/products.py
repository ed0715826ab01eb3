"""Products of unit vectors, a block of rows at a time: with numpy and faiss on a CPU, with torch on a GPU.

Both offer the same operations over one set of vectors, so that a search is written once. Vectors stay as they are
stored (fp16 or fp32, a memory map too); a block becomes fp32 only while it is multiplied.
"""

from __future__ import annotations

from ctypes.util import find_library
from importlib.util import find_spec
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from filters.errors import InputError

Vectors = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Found = tuple[Rows, Rows, Floats]

SPAN = 1 << 14  # rows read together

_CHUNK = 1 << 11  # pairs multiplied together, in the cache
_CHUNK_GPU = 1 << 20


class Products(Protocol):
    """What a search needs of one set of vectors [N, D]. A block is what `take` returns: rows ready for products."""

    tile: int  # rows of a block that keep a product of two blocks small

    def take(self, rows: Rows | slice) -> Any: ...

    def norms(self, block: Any) -> Floats:
        """Length of each row of a block: float32 [n]."""
        ...

    def over(self, a: Any, b: Any, threshold: float, ahead: int | None = None) -> Found:
        """All (row of a, row of b) with a product of at least `threshold`, and these fp32 products.

        With `ahead` only those where the row of b exceeds that of a plus `ahead`.

        They depend on the two rows alone, not on the blocks or the number of threads.
        """
        ...

    def top(self, block: Any, centroids: Floats, count: int) -> Ints:
        """For each row of a block its `count` nearest centroids, nearest first: int32 [n, count]."""
        ...


def products(vectors: Vectors) -> Products:
    """Products of `vectors` on the GPU where torch sees one, else on the CPU."""
    # To import torch takes seconds, and without NVIDIA's driver it sees no GPU.
    if find_library("cuda") is not None and find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            # Room is left for the products.
            return _Torch(vectors, "cuda", int(0.6 * torch.cuda.mem_get_info()[0]))
    return _Host(vectors)


def check_form(vectors: Vectors, width: int | None = None) -> None:
    """InputError unless these are float16 or float32 [N, D], of the given width."""
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        raise InputError(f"embeddings: expected float16 or float32 [N, D], got {vectors.dtype} {list(vectors.shape)}")
    if width is not None and vectors.shape[1] != width:
        raise InputError(
            f"embeddings have {vectors.shape[1]} numbers each where {width} are expected: another model's?"
        )


def check_lengths(work: Products, size: int) -> None:
    """InputError that names the first of `size` vectors which is not finite or not of length 1."""
    for start in range(0, size, SPAN):
        norms = work.norms(work.take(slice(start, start + SPAN)))
        bad = np.flatnonzero(~(np.abs(norms - 1) < 0.01))
        if len(bad):
            fault = f"has the length {norms[bad[0]]:.3g}, not 1" if np.isfinite(norms[bad[0]]) else "is not finite"
            raise InputError(f"embedding {start + bad[0]} {fault}; score its shard again or leave it out")


def distinct(vectors: Vectors) -> tuple[Rows, Rows]:
    """The first of each set of equal rows, ascending, and for every row the first that equals it: int64 [N]."""
    size, width = vectors.shape[0], vectors.shape[1] * vectors.itemsize
    factors = np.random.default_rng(0).integers(0, 2**64, -(-width // 8), dtype=np.uint64) | np.uint64(1)
    keys = np.empty(size, np.uint64)
    for start in range(0, size, SPAN):
        raw = np.ascontiguousarray(vectors[start : start + SPAN]).view(np.uint8)
        keys[start : start + SPAN] = np.pad(raw, ((0, 0), (0, -width % 8))).view(np.uint64) @ factors
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    first_of = first[place].astype(np.int64)
    repeats = np.flatnonzero(first_of != np.arange(size))
    for few in np.split(repeats, range(SPAN, len(repeats), SPAN)):
        # Unequal rows of equal keys, very rare, are left apart: that loses nothing.
        unequal = few[(vectors[few] != vectors[first_of[few]]).any(axis=1)]
        first_of[unequal] = unequal
    return np.flatnonzero(first_of == np.arange(size)), first_of


class _Host:
    tile = 2048

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def take(self, rows: Rows | slice) -> Floats:
        return np.ascontiguousarray(self.vectors[rows], np.float32)

    def norms(self, block: Floats) -> Floats:
        return np.asarray(np.sqrt(np.einsum("nd,nd->n", block, block)), np.float32)

    def over(self, a: Floats, b: Floats, threshold: float, ahead: int | None = None) -> Found:
        # The last bits of a matrix product depend on its shape: it only chooses whom to look at.
        flat = np.flatnonzero(a @ b.T >= np.float32(threshold - 1e-5))
        rows, columns = np.divmod(flat, len(b))
        if ahead is not None:
            rows, columns = rows[columns > rows + ahead], columns[columns > rows + ahead]
        exact = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            exact[part] = np.einsum("nd,nd->n", a[rows[part]], b[columns[part]])
        keep = exact >= np.float32(threshold)
        return rows[keep], columns[keep], exact[keep]

    def top(self, block: Floats, centroids: Floats, count: int) -> Ints:
        _, found = faiss.knn(block, centroids, count, metric=faiss.METRIC_INNER_PRODUCT)
        return np.asarray(found, np.int32)


class _Torch:
    tile = 1 << 14

    def __init__(self, vectors: Vectors, device: str, room: int) -> None:
        """Vectors of up to `room` bytes are kept on the device; of more, each block is copied when it is taken."""
        import torch

        self.torch, self.vectors, self.device = torch, vectors, device
        self.resident: Any = None
        if vectors.nbytes <= room:
            self.resident = torch.empty(vectors.shape, dtype=self._moved(vectors[:0]).dtype, device=device)
            for start in range(0, len(vectors), SPAN):
                self.resident[start : start + SPAN] = self._moved(vectors[start : start + SPAN])

    def _moved(self, rows: npt.NDArray[Any]) -> Any:
        # A copy: torch warns about arrays that it may not write to.
        return self.torch.from_numpy(np.array(rows)).to(self.device)

    def take(self, rows: Rows | slice) -> Any:
        if self.resident is None:
            return self._moved(self.vectors[rows])
        return self.resident[rows if isinstance(rows, slice) else self._moved(rows)]

    def norms(self, block: Any) -> Floats:
        return np.asarray(block.float().norm(dim=1).cpu().numpy(), np.float32)

    def over(self, a: Any, b: Any, threshold: float, ahead: int | None = None) -> Found:
        # Matrix units in half precision choose whom to look at: rounding a product adds 2**-11, sums inside the rest.
        close = (a.half() @ b.half().T >= threshold - 4e-3).nonzero()
        if ahead is not None:
            close = close[close[:, 1] > close[:, 0] + ahead]
        parts = []
        for some in close.split(_CHUNK_GPU):
            exact = (a[some[:, 0]].float() * b[some[:, 1]].float()).sum(dim=1)
            keep = exact >= threshold
            parts.append((some[keep].cpu().numpy(), exact[keep].cpu().numpy()))
        pairs = np.concatenate([p for p, _ in parts])
        return pairs[:, 0], pairs[:, 1], np.concatenate([e for _, e in parts])

    def top(self, block: Any, centroids: Floats, count: int) -> Ints:
        scores = block.float() @ self._moved(centroids).T
        return np.asarray(scores.topk(count, dim=1).indices.int().cpu().numpy(), np.int32)
