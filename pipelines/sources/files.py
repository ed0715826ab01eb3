"""Dump files: finding, naming, opening and cutting them into lines. Local paths or any fsspec URL."""

from __future__ import annotations

import glob
import posixpath
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

from filters.errors import InputError
from pipelines.store.root import filesystem

BLOCK_BYTES = 1 << 22  # some 10,000 to 40,000 records: enough for vector work, small beside any machine's memory
MAX_LINE_BYTES = 1 << 26
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def chosen_files(metadata: str | Sequence[str], patterns: Sequence[str], option: str = "metadata") -> list[str]:
    """The dump files that `metadata` names: a file, a folder (those in it that match `patterns`), a glob, or a list.

    InputError for what names no file, ConfigError for a kind of URL that is not known; both name the `option`.
    """
    if not isinstance(metadata, str):
        return [file for each in metadata for file in chosen_files(each, patterns, option)]
    fs, path = filesystem(metadata, option)
    if fs.isfile(path):
        return [metadata]
    if not glob.has_magic(path) or fs.isdir(path):
        return find_files(metadata, patterns, option)
    files = [name for name in fs.glob(path) if fs.isfile(name)]
    if not files:
        raise InputError(
            f"{metadata}: no file has a name like this; check --{option}, and keep it in quotes on a command line"
        )
    return _addresses(fs, files, metadata)


def find_files(folder: Path | str, patterns: Sequence[str], option: str = "metadata") -> list[str]:
    """Files under `folder` that match one of the glob `patterns`, sorted; InputError when there are none."""
    fs, root = filesystem(str(folder), option)
    found = {name for pattern in patterns for name in fs.glob(f"{glob.escape(root.rstrip('/'))}/{pattern}")}
    if not found and not fs.exists(root):
        raise InputError(f"{folder}: no such file or folder; check --{option}")
    if not found:
        raise InputError(f"{folder}: no file for --{option} here; expected one of {', '.join(patterns)}")
    return _addresses(fs, found, str(folder))


def _addresses(fs: Any, names: Iterable[str], given: str) -> list[str]:
    """Names in a file system as paths or URLs, with the archive that `given` names: zip://*.json::redcaps.zip."""
    inner, _, archive = given.partition("::")
    suffix = f"::{archive}" if archive and "://" in inner else ""
    return sorted(fs.unstrip_protocol(name).removeprefix("file://") + suffix for name in names)


def plain_name(file: str) -> str:
    """`file` without the archive that it lies in and, where it is a URL, without its query."""
    inner, _, outer = file.partition("::")
    inner = inner if "://" in inner or not outer else outer
    return inner.partition("?")[0] if "://" in inner else inner


def named_files(files: Sequence[Path | str]) -> list[tuple[str, str]]:
    """(name, file) pairs sorted by file; the name is the path below the folder that all the files share."""
    paths = sorted({str(file) for file in files})
    if not paths:
        raise InputError("no metadata files were given")
    names = [plain_name(path) for path in paths]
    if len(set(names)) < len(names):  # a row of a file of the same name would be taken for another
        names = paths
    shared = posixpath.commonpath([posixpath.dirname(name) for name in names])
    return [(posixpath.relpath(name, shared or "."), path) for name, path in zip(names, paths, strict=True)]


@contextmanager
def open_dump(file: str) -> Iterator[IO[bytes]]:
    """A binary stream over `file`, decompressed when its name ends in .gz, .bz2 or .zst.

    What goes wrong while the stream is open and used becomes an InputError that names the file.
    """
    codec = CODECS.get(posixpath.splitext(plain_name(file))[1])
    with wraps_errors(file), fsspec.open(file, "rb") as stream:
        yield pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec) if codec else stream


@contextmanager
def wraps_errors(file: str) -> Iterator[None]:
    """Errors of reading `file` become InputErrors that name it."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {_first_line(error)}; check the file or fetch it again") from error


def line_blocks(file: str) -> Iterator[bytes]:
    """`file` as blocks of whole lines, about `BLOCK_BYTES` each, without a UTF-8 byte order mark.

    Only the newline character ends a line: it is the only one that no field of a tab separated dump can hold.
    """
    with open_dump(file) as stream:
        rest = stream.read(3)
        rest = b"" if rest == b"\xef\xbb\xbf" else rest
        while chunk := stream.read(BLOCK_BYTES):
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            elif len(rest) > MAX_LINE_BYTES:
                raise InputError(f"{file}: no line ends within {MAX_LINE_BYTES >> 20} MiB; is this a text file?")
            else:
                rest += chunk
    if rest:
        yield rest


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
