"""The arrays of sets of embeddings, in the forms that `evaluation.saved` describes: npz, folders, parquet."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evaluation.wds import read_lines
from filters.errors import InputError

Features = NDArray[np.float32]
Ints = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]
_TEXTS = ("classnames", "keys", "ids", "templates", "names", "protocol", "family", "domain")
_CLASSES, _CAPTIONS = ".classes.parquet", ".captions.parquet"


def set_files(path: Path) -> list[Path]:
    """The sets that `path` is or holds, each by its file (the one of pictures) or folder, in order of their names.

    InputError where there is none, or one twice.
    """
    if path.is_file() or (path / "images.npy").is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder of embeddings")
    found = [
        place
        for place in sorted(path.iterdir())
        if place.suffix == ".npz"
        or (place.suffix == ".parquet" and not place.name.endswith((_CLASSES, _CAPTIONS)))
        or (place / "images.npy").is_file()
    ]
    if not found:
        raise InputError(f"{path} holds no embeddings; a set is NAME.npz, NAME.parquet, or a folder with images.npy")
    names = [place.name if place.is_dir() else place.stem for place in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: set {twice[0]} is there in two forms; take one away")
    return found


def read_arrays(place: Path) -> Arrays:
    """The arrays of one set: rows of length 1 in float32, numbers in int64.

    InputError naming file and array for what cannot be read, does not fit together, or has rows that are zero or no
    numbers.
    """
    return _checked(str(place), _read(place))


def _read(place: Path) -> Arrays:
    try:
        if place.is_dir():
            arrays = {file.stem: np.load(file, allow_pickle=False) for file in sorted(place.glob("*.npy"))}
            texts = [place / f"{key}.txt" for key in _TEXTS]
            return arrays | {file.stem: np.array(read_lines(file)) for file in texts if file.is_file()}
        if place.suffix == ".parquet":
            return _from_parquet(place)
        with zipfile.ZipFile(place):  # np.load leaves a file open that is none
            pass
        with np.load(place, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise InputError(f"{place} cannot be read as embeddings: {' '.join(str(error).split())}") from error


def _from_parquet(place: Path) -> Arrays:
    """Pictures with `embedding`, `class` or `label`, and `key`; text embeddings in the files beside them."""
    pictures = pq.read_table(place)
    arrays: Arrays = {"images": _rows(pictures, place)}
    if "key" in pictures.column_names:
        arrays["keys"] = np.array(_texts(pictures, "key"))
    captions, classes = (place.with_name(place.stem + ending) for ending in (_CAPTIONS, _CLASSES))
    if captions.is_file():
        table = pq.read_table(captions)
        arrays |= {"captions": _rows(table, captions), "owner": _owners(table, arrays.get("keys"), captions)}
        return arrays
    known = pq.read_table(classes) if classes.is_file() else None
    if known is not None:
        arrays["classes"] = _rows(known, classes)
    if "class" not in pictures.column_names:
        _needs(pictures, "label", place)
        arrays["labels"] = pictures["label"].to_numpy()
        if known is not None and "class" in known.column_names:
            arrays["classnames"] = np.array(_texts(known, "class"))
        return arrays
    if known is not None:
        _needs(known, "class", classes)
    each = _texts(pictures if known is None else known, "class")
    names = sorted(set(each)) if known is None else list(dict.fromkeys(each))
    number = {name: place for place, name in enumerate(names)}
    if unknown := [name for name in _texts(pictures, "class") if name not in number]:
        raise InputError(f"{place}: class {unknown[0]!r} has no row in {classes.name}")
    arrays["labels"] = np.array([number[name] for name in _texts(pictures, "class")])
    arrays["classnames"] = np.array(names)
    if known is not None:
        arrays["class_of"] = np.array([number[name] for name in each])
    return arrays


def _owners(table: pa.Table, keys: NDArray[Any] | None, place: Path) -> Ints:
    """The picture of each caption, by its number `owner` or by its `key`."""
    if "owner" in table.column_names:
        return np.asarray(table["owner"].to_numpy())
    _needs(table, "key", place)
    number = {key: position for position, key in enumerate([] if keys is None else keys.tolist())}
    if unknown := [key for key in _texts(table, "key") if key not in number]:
        raise InputError(f"{place}: key {unknown[0]!r} is none of the pictures'")
    return np.array([number[key] for key in _texts(table, "key")], dtype=np.int64)


def _rows(table: pa.Table, place: Path) -> NDArray[Any]:
    _needs(table, "embedding", place)
    column = table["embedding"].combine_chunks()
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or column.null_count:
        raise InputError(f"{place}: `embedding` must have the same number of values in each row")
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def _texts(table: pa.Table, column: str) -> list[str]:
    return [str(value) for value in table[column].to_pylist()]


def _needs(table: pa.Table, column: str, place: Path) -> None:
    if column not in table.column_names:
        raise InputError(f"{place} has no column `{column}`; there are {', '.join(table.column_names)}")


def _checked(where: str, arrays: Arrays) -> Arrays:
    """The arrays with rows of length 1 in float32 and numbers in int64, if they fit together."""
    kind = ("captions", "owner") if "owner" in arrays or "captions" in arrays else ("labels",)
    if absent := [key for key in ("images", *kind) if key not in arrays]:
        raise InputError(f"{where} has no array `{absent[0]}`; there are {', '.join(sorted(arrays)) or 'none'}")
    found = dict(arrays)
    for key in ("images", "classes", "captions"):
        if key in arrays:
            found[key] = _unit(f"{where}: `{key}`", arrays[key])
            if found[key].shape[1] != found["images"].shape[1]:
                raise InputError(f"{where}: `images` are {found['images'].shape}, `{key}` {found[key].shape}")
    classes = class_count(found)
    sizes = {"labels": len(found["images"]), "keys": len(found["images"]), "classnames": classes, "ids": classes}
    sizes |= {key: len(found["classes"]) for key in ("class_of", "names") if "classes" in found}
    sizes |= {"owner": len(found.get("captions", ()))}
    for key, size in sizes.items():
        if key in found and found[key].shape != (size,):
            raise InputError(f"{where}: `{key}` has shape {list(found[key].shape)}, expected [{size}]")
    for key, limit in (("labels", classes), ("class_of", classes), ("owner", len(found["images"]))):
        if key in found:
            found[key] = _integers(f"{where}: `{key}`", found[key], limit)
    if "class_of" in found:
        order = np.argsort(found["class_of"], kind="stable")  # a class's rows together, as `by_class` wants them
        for key in ("class_of", "classes", "names"):
            if key in found:
                found[key] = found[key][order]
        if len(np.unique(found["class_of"])) != classes:
            raise InputError(f"{where}: `class_of` must name each of the {classes} classes")
    return found


def class_count(arrays: Arrays) -> int:
    """The number of classes that a set's arrays tell of; 0 where there are none."""
    if "classnames" in arrays:
        return len(arrays["classnames"])
    source = "class_of" if "class_of" in arrays else "labels" if "classes" not in arrays else ""
    if not source:
        return len(arrays["classes"])
    values = arrays.get(source, np.zeros(0, np.int64))
    return int(values.max()) + 1 if len(values) and np.issubdtype(values.dtype, np.integer) else 0


def _unit(where: str, rows: NDArray[Any]) -> Features:
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.floating):
        raise InputError(f"{where} is {rows.dtype} {list(rows.shape)}, expected rows of floats [N, E]")
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise InputError(f"{where}: row {bad[0]} is zero or holds NaN or infinity, as {len(bad)} rows do")
    other = np.abs(length - 1) > 1e-6  # what has length 1 stays as it is, to the last digit
    normalised: Features = np.where(other, rows / length, rows).astype(np.float32)
    return normalised


def _integers(where: str, values: NDArray[Any], limit: int) -> Ints:
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{where} is {values.dtype}, expected integers")
    if len(values) and not 0 <= values.min() <= values.max() < limit:
        raise InputError(f"{where} runs from {values.min()} to {values.max()}, expected 0 to {limit - 1}")
    return values.astype(np.int64)
