"""A classifier of pictures on top of their CLIP embeddings: a small network whose weights the user gives.

Read are the state dicts of such heads as they are published: fully connected layers (`NAME.weight` [out, in] and
`NAME.bias`) with ReLU between them and one output, with or without a normalisation of the input before them
(batch normalisation: `running_mean`, `running_var`; LAION's: `mean`, `variance`), which is taken without epsilon, as
DataComp's head has it. Layers are in the natural order of their names. Two layers that follow each other directly in
a torch Sequential (`layers.15`, `layers.16`) have no ReLU between them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file

from filters.captions import with_columns
from filters.errors import InputError
from filters.vectors import Floats, spread, vectors

Output = Literal["sigmoid", "linear"]
_VARIANCE = {"running_mean": "running_var", "mean": "variance"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One fully connected layer: `weight` float32 [out, in], `bias` float32 [out], and whether a ReLU follows."""

    weight: Floats
    bias: Floats
    relu: bool


@dataclass(frozen=True, slots=True)
class Head:
    """A network from an embedding to one number: `scale` and `shift`, float32 [D], then `layers`, then `output`."""

    scale: Floats
    shift: Floats
    layers: tuple[Layer, ...]
    output: Output

    @property
    def width(self) -> int:
        """Numbers of an embedding that the head takes."""
        return int(self.layers[0].weight.shape[1])

    def __call__(self, embeddings: Floats) -> Floats:
        """Scores, float32 [N], 0 to 1, of embeddings, float32 [N, D]."""
        values = embeddings * self.scale + self.shift
        for layer in self.layers:
            values = values @ layer.weight.T + layer.bias
            if layer.relu:
                values = np.maximum(values, 0)
        values = values[:, 0]
        if self.output == "sigmoid":
            # By its identity with tanh, which does not overflow.
            values = 0.5 + 0.5 * np.tanh(0.5 * values)
        return np.asarray(np.clip(values, 0, 1), np.float32)


def head_signals(table: pa.Table, head: Head) -> pa.Table:
    """`table` with `nsfw_score` (float32), what `head` says of `image_embedding`; null where there is none.

    InputError for embeddings of another width than the head's, or that hold NaN or infinity.
    """
    found, present = vectors(table, head.width)
    return with_columns(table, nsfw_score=spread(head(found), present, pa.float32()))


def load_head(path: Path, output: Output = "sigmoid") -> Head:
    """The head in a `.safetensors` or `.npz` file; InputError in one line where it cannot be read or is none.

    `output` says what the weights do not: whether the last layer gives a logit (`sigmoid`, as LAION's and DataComp's
    heads for ViT-L/14) or the score itself (`linear`, cut to 0 to 1, as LAION's for ViT-H/14).
    """
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                # What is no array in it comes as bytes.
                weights = {name: np.asarray(value) for name, value in archive.items()}
        else:
            raise InputError(f"{path}: a head is a .safetensors, .npz or .pt file of weights")
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as weights ({' '.join(str(error).split())})") from error
    return head_of(weights, str(path), output)


def head_of(weights: Mapping[str, npt.NDArray[np.generic]], where: str, output: Output = "sigmoid") -> Head:
    """The head that a state dict holds; InputError, naming `where`, for one that is not as described above."""
    left = {name: _floats(value, name, where) for name, value in weights.items() if "num_batches_tracked" not in name}
    normalisation = _normalisation(left, where)
    layers = _layers(left, where)
    if left:
        raise InputError(f"{where}: is not a head as they are read, it also holds {', '.join(sorted(left))}")
    width = layers[0].weight.shape[1]
    scale, shift = normalisation or (np.ones(width, np.float32), np.zeros(width, np.float32))
    if len(scale) != width:
        raise InputError(f"{where}: normalises {len(scale)} numbers, its first layer takes {width}")
    return Head(scale, shift, layers, output)


def _floats(value: npt.NDArray[np.generic], name: str, where: str) -> Floats:
    with np.errstate(over="ignore"):
        numbers = value.astype(np.float32) if value.dtype.kind == "f" else None
    if numbers is None or not np.isfinite(numbers).all():
        raise InputError(f"{where}: {name} is {value.dtype} or holds NaN, expected finite floating-point numbers")
    return numbers


def _normalisation(left: dict[str, Floats], where: str) -> tuple[Floats, Floats] | None:
    """Take the normalisation out of `left`, as a factor and what is added then."""
    found = [name for name in left if name.rpartition(".")[2] in _VARIANCE]
    if not found:
        return None
    before, dot, mean_name = found[0].rpartition(".")
    prefix = before + dot
    variance = left.pop(prefix + _VARIANCE[mean_name], None)
    mean = left.pop(found[0]).ravel()
    if variance is None or variance.size != mean.size or not (variance > 0).all():
        raise InputError(f"{where}: {found[0]} has no positive variance {prefix}{_VARIANCE[mean_name]} of its length")
    scale: Floats = (left.pop(f"{prefix}weight", np.ones_like(mean)) / np.sqrt(variance.ravel())).astype(np.float32)
    return scale, left.pop(f"{prefix}bias", np.zeros_like(mean)) - mean * scale


def _layers(left: dict[str, Floats], where: str) -> tuple[Layer, ...]:
    """Take the layers out of `left`, in order, with their shapes checked."""
    names = sorted((name for name in left if name.rpartition(".")[2] == "weight"), key=_natural)
    if not names:
        raise InputError(f"{where}: holds no layers; expected NAME.weight [out, in] and NAME.bias for each")
    relus = [_has_relu(a, b) for a, b in pairwise(names)] + [False]
    layers = []
    width = None
    for name, relu in zip(names, relus, strict=True):
        weight = left.pop(name)
        bias = left.pop(name.removesuffix("weight") + "bias", np.zeros(weight.shape[:1], np.float32))
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or width not in (None, weight.shape[1]):
            takes = "" if width is None else f", and the layer before it gives {width}"
            raise InputError(f"{where}: {name} is {list(weight.shape)} with bias {list(bias.shape)}{takes}")
        width = weight.shape[0]
        layers.append(Layer(weight, bias, relu))
    if width != 1:
        raise InputError(f"{where}: its last layer {names[-1]} gives {width} numbers, expected one score")
    return tuple(layers)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which `layers.9` comes before `layers.15`, and `dense` before `dense1`."""
    parts = re.split(r"(\d+)", name.removesuffix("weight").removesuffix("."))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _has_relu(name: str, after: str) -> bool:
    """Whether there is a ReLU between two layers: not where their places in a Sequential follow each other."""
    places = [re.fullmatch(r"(?:.*\.)?(\d+)\.weight", each) for each in (name, after)]
    first, second = (int(place[1]) if place else None for place in places)
    return first is None or second is None or second - first != 1
