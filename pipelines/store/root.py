"""The data root: where each stage's files lie, and how they are read and published whole.

    <root>/metadata/<source>/00000.parquet            ingest
    <root>/shards/<source>/00000.{tar,parquet}, 00000_stats.json   download, adopt
    <root>/retries/<source>/00012.parquet              download --retry: the rows to fetch once more
    <root>/adopted/<source>/00000.parquet              adopt: what each tar holds
    <root>/features/<fingerprint>/<source>/00000.parquet, model.json    score
    <root>/eval_features/<fingerprint>/<set>.parquet   score --tasks
    <root>/signals/<fingerprint>/<source>/00000.parquet, signals.json   signals
    <root>/centroids/<features>/k1000-seed0.npy        signals: clusters of a model's image embeddings
    <root>/looks/, pairs/, verdicts/<fingerprint>/<source>/00000.parquet   dedupe
    <root>/catalog.duckdb, catalog/<segment>.duckdb    index
    <root>/removals/*.parquet, applied.json            remove: see `pipelines.store.removals`
    <root>/mixes/<name>/manifest.parquet, mix.lock.json, uids.npy  mix
    <root>/mixes/<name>/{tars,by_source,hf,hf_by_source}/, accounts/    materialize
    <root>/models/<run>/, <root>/results/              train, evaluate
    <root>/advice/<name>.{yaml,prediction.json,sha256} advise
    <root>/attributions/<fingerprint>/<uid>.{png,json}  attribute
    <root>/study/                                      study: see `pipelines.study_folder`
    <root>/runs/<run>.json                             the ledger of jobs

A root is a local folder or any fsspec URL. Files are published under their final name in one step, so that a
file that exists is complete.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from filters.errors import ConfigError, InputError, ShardError
from filters.published import published
from pipelines.store import ranges

# S3's answers to a PUT whose condition does not hold.
_REFUSALS = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})
_ONE_PUT = 5 * 2**30  # bytes


@dataclass(frozen=True, slots=True, order=True)
class ShardId:
    """One shard of one source; `number` is zero padded, so that names sort as numbers do."""

    source: str
    number: str

    def __str__(self) -> str:
        return f"{self.source}/{self.number}"


class Root:
    """Reading and atomic writing under one data root; picklable, so that it travels to workers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._base = filesystem(url, "root")
        self.is_local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)
        self.is_s3 = "s3" in self._fs.protocol

    def __reduce__(self) -> tuple[type[Root], tuple[str]]:
        return Root, (self.url,)

    def path(self, *parts: str) -> str:
        """Full path of a file under the root, for the root's file system."""
        return "/".join([self._base.rstrip("/"), *parts])

    def address(self, *parts: str) -> str:
        """The same as other programs name it: a local path, or a URL."""
        path = self.path(*parts)
        return path if self.is_local else str(self._fs.unstrip_protocol(path))

    def lend(self, con: Any) -> None:
        """Let a DuckDB connection read this root by its addresses, where those are not local paths."""
        if not self.is_local:
            con.register_filesystem(self._fs)

    def local(self, *parts: str) -> Path:
        """The same as a local path; ConfigError where the root is not a local folder."""
        if not self.is_local:
            raise ConfigError(
                f"root {self.url}: this job needs a local folder; copy the files and pass --root FOLDER"
            )
        return Path(self.path(*parts))

    def exists(self, *parts: str) -> bool:
        """Whether the file is there (and therefore complete)."""
        return bool(self._fs.exists(self.path(*parts)))

    def names(self, *parts: str, suffix: str = "") -> list[str]:
        """Sorted names in a folder that end in `suffix`; empty where there is no such folder."""
        found = self._listing(parts, detail=False)
        return sorted(name for name in found if name.endswith(suffix) and not name.startswith("."))

    def _listing(self, parts: tuple[str, ...], *, detail: bool) -> dict[str, Any]:
        """What lies in a folder, by name: its paths, or its infos; empty where there is no such folder."""
        folder = self.path(*parts).rstrip("/")
        try:
            found = self._fs.ls(folder, detail=detail)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        paths = {str(info["name"] if detail else info).rstrip("/"): info for info in found}
        # Of a file the answer is the file itself.
        return {path.rsplit("/", 1)[-1]: info for path, info in paths.items() if path != folder}

    def shards(self, *stage: str) -> list[ShardId]:
        """All shards that a stage has published, in order of source and number."""
        return [
            ShardId(source, name.removesuffix(".parquet"))
            for source in self.names(*stage)
            for name in self.names(*stage, source, suffix=".parquet")
        ]

    def read_bytes(self, *parts: str) -> bytes:
        """The whole file."""
        return bytes(self._fs.cat_file(self.path(*parts)))

    def read_json(self, *parts: str) -> Any:
        """The file parsed as JSON; InputError naming the file when it cannot be."""
        try:
            return json.loads(self.read_bytes(*parts))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path(*parts)}: cannot be read ({error}); delete it and run its stage again"
            ) from error

    def read_table(self, *parts: str, columns: list[str] | None = None) -> pa.Table:
        """A parquet file; ShardError naming the file when it cannot be read or lacks one of `columns`."""
        path = self.path(*parts)
        try:
            with self._parquet(path) as file:
                table = pq.read_table(file, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{path}: cannot be read ({error}); delete it and run its stage again") from error
        missing = [name for name in columns or () if name not in table.column_names]
        if missing:
            raise ShardError(f"{path}: has no column {', '.join(missing)}; delete it and run its stage again")
        return table

    def read_groups(self, *parts: str) -> Iterator[pa.Table]:
        """The row groups of a parquet file, one at a time; ShardError naming the file when it cannot be read."""
        path = self.path(*parts)
        try:
            with self._parquet(path) as file:
                parquet = pq.ParquetFile(file)
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{path}: cannot be read ({error}); delete it and run its stage again") from error

    def parquet_metadata(self, *parts: str) -> dict[str, str]:
        """Key-value metadata of a parquet file; empty where the file is missing or broken."""
        return self.parquet_metadatas([parts])[0]

    def parquet_metadatas(self, places: Sequence[tuple[str, ...]]) -> list[dict[str, str]]:
        """`parquet_metadata` of many files: S3 is asked for hundreds of them at a time."""
        paths = [self.path(*parts) for parts in places]
        if not self.is_s3:
            return [_metadata(partial(self._parquet, path)) for path in paths]
        return [_metadata(opened) for opened in ranges.footers(self._fs, paths)]

    def stat(self, *parts: str) -> tuple[int, str, int]:
        """Size, time of the last change and inode (0 elsewhere than in a local folder) of a file that is there."""
        return _stat(self._fs.info(self.path(*parts)))

    def stats(self, *parts: str, suffix: str) -> dict[str, tuple[int, str, int]]:
        """`stat` of the files in a folder that end in `suffix`, by name: one listing, not a request to a store for
        each file."""
        found = self._listing(parts, detail=True)
        return {name: _stat(found[name]) for name in sorted(found) if name.endswith(suffix) and name[0] != "."}

    def version(self, *parts: str) -> str:
        """What tells a file elsewhere from others that were published under its name: its ETag, where there is one.

        FileNotFoundError where there is none.
        """
        return _version(self._fs.info(self.path(*parts)))

    def files(self, *parts: str) -> dict[str, tuple[str, float]]:
        """All files below a folder of a root elsewhere: version and time of writing (POSIX, 0 if not known), by their
        paths in it; empty where there is no such folder."""
        folder = self.path(*parts)
        found = self._fs.find(folder, detail=True) if self._fs.exists(folder) else {}
        prefix = len(folder) + 1
        return {str(path)[prefix:]: (_version(info), _written(info)) for path, info in sorted(found.items())}

    def footer(self, *parts: str) -> str:
        """Digest of a parquet file's size and footer: its schema, metadata, and every column's sizes and extremes.

        Of a file that is no parquet, of its last bytes.
        """
        size, _, _ = self.stat(*parts)
        with self._parquet(self.path(*parts)) as file:
            file.seek(max(0, size - 8))
            tail = file.read(8)
            length = min(size, int.from_bytes(tail[:4], "little") + 8) if tail[4:] == b"PAR1" else len(tail)
            file.seek(size - length)
            return hashlib.sha256(size.to_bytes(8, "little") + file.read(length)).hexdigest()[:32]

    def _parquet(self, path: str) -> Any:
        """The file, open for reading. A local one not through Python: a thread of Arrow's that still holds a Python
        buffer when the interpreter ends aborts the process."""
        return pa.OSFile(path, "rb") if self.is_local else self._fs.open(path, "rb")

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Publish a file in one step: written beside its place and renamed there."""
        path = self.path(*parts)
        if not self.is_local:
            self._fs.pipe_file(path, data)
            return
        with published(Path(path), beside(Path(path))) as temporary:
            temporary.write_bytes(data)

    def reading(self, *parts: str) -> Any:
        """The file, open for reading in pieces; InputError naming it where it cannot be."""
        path = self.path(*parts)
        try:
            return self._parquet(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error})") from error

    @contextlib.contextmanager
    def writing(self, *parts: str, scratch: tuple[str, ...] | None = None) -> Iterator[IO[bytes]]:
        """A file to be written in pieces; it is published in one step when the block ends without an error.

        Until then it lies beside its place, or under another name in the folder `scratch` of a local root, which may
        be far from it: some programs take every folder beside their files for data. For a root elsewhere it lies on
        this machine's disk.
        """
        path = self.path(*parts)
        if not self.is_local:
            with tempfile.NamedTemporaryFile() as file:
                yield file
                file.flush()
                self._fs.put_file(file.name, path)
            return
        folder = Path(self.path(*scratch)) if scratch else beside(Path(path))
        with published(Path(path), folder) as temporary, temporary.open("wb") as out:
            yield out

    def download(self, path: Path, *parts: str) -> None:
        """Copy a file to the local `path`; FileNotFoundError where there is none."""
        self._fs.get_file(self.path(*parts), str(path))

    def upload(self, path: Path, *parts: str) -> None:
        """Publish a copy of the local file `path` in one step."""
        self._fs.put_file(str(path), self.path(*parts))

    def replace(self, data: bytes, version: str | None, *parts: str) -> bool:
        """Publish a file elsewhere if the one there is still of this `version`, or none is there where that is None;
        whether it was. A store that does not know conditions takes it in any case.
        """
        path = self.path(*parts)
        if not self.is_s3:
            self._fs.pipe_file(path, data)
            return True
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            # In one piece: the parts of a larger upload would not know the condition.
            self._fs.pipe_file(path, data, chunksize=_ONE_PUT, **condition)
        except OSError as error:
            if _code(error) in _REFUSALS:
                return False
            raise
        return True

    def remove(self, *parts: str) -> None:
        """Take a file away; nothing happens where there is none."""
        if self.exists(*parts):
            self._fs.rm_file(self.path(*parts))

    def remove_all(self, *parts: str) -> None:
        """Take a file, or a folder and all that is in it, away; nothing happens where there is none."""
        if self.exists(*parts):
            self._fs.rm(self.path(*parts), recursive=True)

    def write_json(self, value: Any, *parts: str) -> None:
        """Publish `value` as JSON, keys sorted."""
        self.write_bytes((json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), *parts)

    def write_table(self, table: pa.Table, *parts: str, metadata: dict[str, str] | None = None) -> None:
        """Publish one table as parquet; `metadata` is added to the schema's own.

        One `pq.write_table` call from one table gives the same bytes at any number of threads.
        """
        merged = {**(table.schema.metadata or {}), **(metadata or {})}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(merged), buffer, compression="zstd", row_group_size=65536)
        self.write_bytes(buffer.getvalue(), *parts)

    def read_ranges(self, wanted: list[tuple[int, int]], *parts: str) -> list[bytes]:
        """Bytes at each (offset, size) of one file; ShardError when it is missing or shorter than that."""
        path = self.path(*parts)
        try:
            found = self._read_ranges(path, wanted)
        except OSError as error:
            raise ShardError(
                f"{path}: cannot be read ({error}); delete its parquet and run its stage again"
            ) from error
        if any(len(data) != size for data, (_, size) in zip(found, wanted, strict=True)):
            raise ShardError(f"{path}: is cut short; delete it and run its stage again")
        return found

    def _read_ranges(self, path: str, wanted: list[tuple[int, int]]) -> list[bytes]:
        if not self.is_local:
            return ranges.read(self._fs, path, wanted)
        handle = os.open(path, os.O_RDONLY)
        try:
            return [os.pread(handle, size, offset) for offset, size in wanted]
        finally:
            os.close(handle)


def _metadata(opened: Callable[[], Any]) -> dict[str, str]:
    try:
        with opened() as file:
            found = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return {key.decode(): value.decode() for key, value in found.items() if not key.startswith(b"ARROW:")}


def _stat(info: Mapping[str, Any]) -> tuple[int, str, int]:
    return int(info["size"]), str(info.get("mtime") or _version(info)), int(info.get("ino", 0))


def _version(info: Mapping[str, Any]) -> str:
    """What a store says of a file's contents: its ETag (S3, GCS, Azure), or else when it was written."""
    names = ("ETag", "etag", "LastModified", "last_modified", "created", "mtime")
    return str(next((info[name] for name in names if info.get(name)), None))


def _written(info: Mapping[str, Any]) -> float:
    found = next((info[name] for name in ("LastModified", "last_modified", "created") if info.get(name)), None)
    if not isinstance(found, datetime.datetime):
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def _code(error: OSError) -> str | None:
    """S3's own name for what went wrong."""
    answer: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    code: str | None = answer.get("Error", {}).get("Code")
    return code


def beside(path: Path) -> Path:
    """The folder for a local file of a root until it is published."""
    # Which stays small: to look for what is left beside 100,000 shards takes longer than to write one.
    return path.parent / ".writing"


def filesystem(url: str, what: str) -> tuple[Any, str]:
    """The file system of `url` and the path in it; ConfigError, saying `what` the URL is of, for one not known."""
    try:
        # What a folder holds is asked anew each time: other processes write there too.
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{what} {url}: {error}") from error
    return fs, str(path)
