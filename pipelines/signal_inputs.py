"""What a signals run takes beside the shards and their features: clusters, a reference set, weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from filters.clusters import train_centroids
from filters.errors import InputError
from filters.heads import Head, Output, head_of, load_head
from filters.vectors import Floats, vectors
from pipelines.job import say
from pipelines.store.embeddings import sample_embeddings
from pipelines.store.root import Root

# Embeddings a cluster that k-means looks at; faiss warns below 39, and more hardly move the centroids.
_PER_CLUSTER = 64


def digest(data: bytes | npt.NDArray[np.generic]) -> str:
    """SHA-256 of a file's bytes, or of an array's numbers, type and shape."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    head = f"{data.dtype.str} {data.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(data).tobytes()).hexdigest()


def read_file(path: str) -> bytes:
    """The bytes of a file that the user names; InputError in one line."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_centroids(path: str, width: int) -> Floats:
    """Centroids, float32 [K, `width`], from a .npy file; InputError where it does not hold such."""
    centroids = _array(read_file(path), path)
    if centroids.shape[1] != width:
        raise InputError(
            f"{path}: centroids have {centroids.shape[1]} numbers, the embeddings {width}; choose other --features"
        )
    return centroids


def npy(array: npt.NDArray[np.generic]) -> bytes:
    """An array as the bytes of a .npy file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _array(data: bytes, path: str) -> Floats:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: is no .npy array ({' '.join(str(error).split())})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise InputError(f"{path}: expected an array of floating-point numbers [clusters, numbers a row]")
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds NaN or infinity")
    return array.astype(np.float32)


def find_centroids(root: Root, features: str, clusters: int, seed: int) -> Floats:
    """Centroids, float32 [K, D], of the image embeddings `features`: those found before, else new ones.

    They are kept, so that a sample's cluster does not change when shards are added.
    """
    place = ("centroids", features, f"k{clusters}-seed{seed}.npy")
    if root.exists(*place):
        return _array(root.read_bytes(*place), root.path(*place))
    sample = sample_embeddings(root, features, clusters * _PER_CLUSTER, seed)
    if len(sample) < clusters:
        raise InputError(f"features/{features}: {len(sample)} embeddings are too few for {clusters} clusters")
    say(f"signals: looking for {clusters} clusters in {len(sample)} embeddings")
    centroids = train_centroids(sample, clusters, seed=seed)
    root.write_bytes(npy(centroids), *place)
    return centroids


def read_reference(root: Root, features: str, names: Sequence[str], width: int) -> Floats:
    """The image embeddings, float32 [n, `width`], of the evaluation sets `names`."""
    found = []
    for name in names:
        place = ("eval_features", features, f"{name}.parquet")
        if not root.exists(*place):
            there = ", ".join(n.removesuffix(".parquet") for n in root.names("eval_features", features))
            raise InputError(
                f"{root.path(*place)}: not there (embedded are: {there or 'none'}); run `headwater score --tasks` "
                "with its model first"
            )
        try:
            found.append(vectors(root.read_table(*place, columns=["image_embedding"]), width)[0])
        except InputError as error:
            raise InputError(
                f"{root.path(*place)}: {error}; delete it and run `headwater score --tasks` again"
            ) from error
    return np.concatenate(found)


def read_head(path: str, output: Output, width: int) -> Head:
    """The classifier head of embeddings of `width` numbers in a .safetensors, .npz or .pt file."""
    head = _torch_head(path, output) if path.endswith((".pt", ".pth")) else load_head(Path(path), output)
    if head.width != width:
        raise InputError(f"{path}: takes {head.width} numbers, the embeddings have {width}; choose other --features")
    return head


def _torch_head(path: str, output: Output) -> Head:
    """The same from a state dict that torch saved; nothing in the file but tensors is ever loaded."""
    # Here, since torch takes seconds and hundreds of megabytes in each worker, and most runs need none.
    import torch

    try:
        state = torch.load(io.BytesIO(read_file(path)), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: cannot be read as weights ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a state dict, a mapping of names to tensors")
    tensors = {str(name): value.detach() for name, value in state.items()}
    weights = {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}
    return head_of(weights, path, output)
