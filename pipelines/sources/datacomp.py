"""DataComp's metadata: parquet with uid, url, text, sizes, scores, face boxes and SHA-256, and embeddings beside it.

The embeddings of `<stem>.parquet` are in `<stem>.npz`: rows as in the parquet, float16, L2-normalised, for CLIP
ViT-B/32 and ViT-L/14. They and the scores become feature sidecars, so that nothing has to be computed again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.errors import InputError
from pipelines.identity import uid_text
from pipelines.sources import table
from pipelines.sources.captions import Recipe, only
from pipelines.sources.files import open_dump, wraps_errors
from pipelines.store.schema import RAW, features

COLUMNS = table.Columns(format="parquet", url="url", captions=["text"], uid="uid")


@dataclass(frozen=True, slots=True)
class Model:
    """A CLIP model whose embeddings and scores the metadata hold."""

    folder: str
    dim: int
    score: str
    image: str
    text: str


MODELS = (
    Model("datacomp-b32", 512, "clip_b32_similarity_score", "b32_img", "b32_txt"),
    Model("datacomp-l14", 768, "clip_l14_similarity_score", "l14_img", "l14_txt"),
)
DIMS = {name: model.dim for model in MODELS for name in (model.image, model.text)}
# Beside RAW's columns: one embedding a row as its float16 bytes, null where there is no side file.
SCHEMA = pa.schema([*RAW.arrow, *((name, pa.binary()) for name in DIMS)], RAW.arrow.metadata)


def read_file(file: str, name: str) -> Iterator[pa.Table]:
    """RAW tables of one file, with the embeddings' columns; a row whose uid is not 32 hex characters is `bad_row`."""
    with _side_file(file) as vectors:
        for raw in table.read_file(file, name, COLUMNS):
            is_bad = pc.is_null(raw["uid_declared"])
            reason = pc.if_else(is_bad, "bad_row", raw["reason"])
            raw = raw.set_column(raw.schema.get_field_index("reason"), "reason", reason)
            yield pa.table([*raw.columns, *(vectors.take(key, len(raw)) for key in DIMS)], schema=SCHEMA)


def sidecars(rows: pa.Table) -> dict[str, pa.Table]:
    """A feature sidecar for each model, by the name of its folder, from identified rows with this SCHEMA."""
    return {model.folder: _features(rows, model) for model in MODELS}


def _features(rows: pa.Table, model: Model) -> pa.Table:
    score = pc.map_lookup(rows["scores_declared"], pa.scalar(model.score), "first")
    columns = [
        uid_text(rows["uid_hi"], rows["uid_lo"]),
        score.cast(pa.float32()),
        _vectors(rows[model.image], model.dim),
        _vectors(rows[model.text], model.dim),
    ]
    return pa.Table.from_arrays(columns, schema=features(model.dim).arrow)


def _vectors(column: pa.ChunkedArray, dim: int) -> pa.Array:
    is_null = column.is_null().to_numpy()
    filled = np.zeros((len(column), dim), np.float16)
    filled[~is_null] = np.frombuffer(b"".join(column.drop_null().to_pylist()), np.float16).reshape(-1, dim)
    return pa.FixedSizeListArray.from_arrays(pa.array(filled.ravel()), dim, mask=pa.array(is_null))


class _Vectors:
    """The embeddings of one side file, read in step with the rows; all null where `members` is empty."""

    def __init__(self, members: Mapping[str, tuple[IO[bytes], npt.DTypeLike]]) -> None:
        self._members = members

    def take(self, key: str, rows: int) -> pa.Array:
        """The next `rows` embeddings of one kind, as bytes of float16."""
        if key not in self._members:
            return pa.nulls(rows, pa.binary())
        stream, dtype = self._members[key]
        width = DIMS[key]
        values = np.frombuffer(stream.read(rows * width * np.dtype(dtype).itemsize), dtype).astype(np.float16)
        offsets = np.arange(0, 2 * width * rows + 1, 2 * width, dtype=np.int32)
        return pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def side_file_bytes(file: str) -> int | None:
    """Size of the file of embeddings beside `file`; None where there is none."""
    filesystem, path = fsspec.core.url_to_fs(_side_path(file))
    return int(filesystem.size(path)) if filesystem.exists(path) else None


def _side_path(file: str) -> str:
    return file.removesuffix(".parquet") + ".npz"


@contextmanager
def _side_file(file: str) -> Iterator[_Vectors]:
    """The embeddings beside `file`; InputError where they are not of its rows."""
    if side_file_bytes(file) is None:
        yield _Vectors({})
        return
    path = _side_path(file)
    with open_dump(file) as stream:
        rows = pq.ParquetFile(stream).metadata.num_rows
    with wraps_errors(path), fsspec.open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        present = [key for key in DIMS if f"{key}.npy" in archive.namelist()]
        yield _Vectors({key: _member(archive, path, key, rows) for key in present})


def _member(archive: zipfile.ZipFile, path: str, key: str, rows: int) -> tuple[IO[bytes], Any]:
    """The stream of one array's numbers, and their type; InputError for another shape than the metadata's."""
    stream = archive.open(f"{key}.npy")
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if shape != (rows, DIMS[key]) or is_fortran or dtype.kind != "f":
        raise InputError(
            f"{path}: {key} is {dtype} {shape}, its parquet has {rows} rows of {DIMS[key]} numbers; fetch both again"
        )
    return stream, dtype


RECIPES: dict[str, Recipe] = {"text": only("text")}
