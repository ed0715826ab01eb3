"""Samples of a tar as they lie in it: keys, pictures with their place, captions and records; read once, in order.

A damaged tar gives what can be read: after bytes that are no member, reading goes on at the next header.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from filters.errors import ShardError

PICTURES = ("jpg", "png", "jpeg", "webp")  # in the order in which open_clip looks for a sample's picture
_READ = frozenset({*PICTURES, "json", "txt"})
_LARGEST = 256 * 1024**2  # bytes of one member; a longer one is something else under a picture's name
_BUFFER = 1024**2
_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# webdataset's rules: the key ends at the first dot of the file's name; names like `__meta__` are not samples.
_KEY = re.compile(r"(?:\./)*((?:.*/|)[^.]+)\.([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")
_MAGIC, _MAGIC_AT = b"ustar", 257
# What tarfile is known to raise on damaged headers.
_BROKEN = (tarfile.TarError, ValueError, OverflowError, IndexError, EOFError)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a tar: its bytes `data` begin at byte `offset` of the tar."""

    key: str
    extension: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TarSample:
    """The files of one key: the picture if there is one, the text of its `txt`, the fields of its `json`."""

    key: str
    picture: Member | None = None
    text: str | None = None
    record: dict[str, Any] = field(default_factory=dict)


def samples(path: Path, damage: list[str]) -> Iterator[TarSample]:
    """The samples of a tar in its order; what cannot be read is added to `damage`, a line each.

    Files of one key that stand side by side are one sample; a repeated extension begins another, as in open_clip.
    Raises ShardError for a compressed tar and for a file that is no tar.
    """
    files: dict[str, Member] = {}
    for member in members(path, damage):
        if files and (member.extension in files or member.key != next(iter(files.values())).key):
            yield _sample(files, damage)
            files = {}
        files[member.extension] = member
    if files:
        yield _sample(files, damage)


def members(path: Path, damage: list[str]) -> Iterator[Member]:
    """The pictures, texts and records of a tar (USTAR, GNU or PAX headers) with their bytes, in order."""
    size = path.stat().st_size
    with path.open("rb", buffering=_BUFFER) as file:
        _refuse_compressed(path, file.read(8))
        start: int | None = 0
        end = 0
        while start is not None:
            end = yield from _run(file, start, size, damage)
            start = _next_header(file, end + _BLOCK)
            if start is not None:
                damage.append(f"bytes {end} to {start} hold no member that can be read")
        file.seek(end)
        rest = file.read(_BLOCK)
        if end == 0 and rest.strip(b"\0"):
            raise ShardError(f"{path}: is no tar; move it away, or name the tars by a glob")
        if not rest or rest.strip(b"\0"):
            damage.append(f"cut short or damaged at byte {min(end, size)}: the end marker is missing")


def _run(file: BinaryIO, start: int, size: int, damage: list[str]) -> Generator[Member, None, int]:
    """The members from the header at `start` on; returns the byte after the last one."""
    file.seek(start)
    try:
        tar = tarfile.open(fileobj=file, mode="r:", errors="backslashreplace")  # noqa: SIM115 (the file is ours)
    except _BROKEN:
        return start
    while True:
        try:
            info = tar.next()
        except _BROKEN:
            return max(start, tar.offset)
        # A hostile header can name a negative size, which would lead back to itself for ever.
        if info is None or tar.offset < info.offset_data:
            return max(start, tar.offset)
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        named = _KEY.fullmatch(info.name)
        if not info.isreg() or named is None or named[2].lower() not in _READ or _META.match(info.name):
            continue
        if info.size > _LARGEST or info.issparse():
            damage.append(f"{info.name}: of {info.size} bytes, is too large or sparse")
        elif info.offset_data + info.size <= size:
            file.seek(info.offset_data)
            yield Member(named[1], named[2].lower(), info.offset_data, file.read(info.size))


def _next_header(file: BinaryIO, start: int) -> int | None:
    """Where the first whole header at or after byte `start`, a multiple of the block size, is; None without one."""
    file.seek(start)
    while chunk := file.read(_BUFFER):
        at = chunk.find(_MAGIC)
        while at >= 0:
            block = at - _MAGIC_AT
            if block >= 0 and block % _BLOCK == 0 and _is_header(chunk[block : block + _BLOCK]):
                return start + block
            at = chunk.find(_MAGIC, at + 1)
        start += len(chunk)
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except _BROKEN:
        return False
    return True


def _refuse_compressed(path: Path, head: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ShardError(f"{path}: is compressed with {name}, so its pictures have no place; decompress it first")


def _sample(files: dict[str, Member], damage: list[str]) -> TarSample:
    key = next(iter(files.values())).key
    picture = next((files[extension] for extension in PICTURES if extension in files), None)
    text = files["txt"].data.decode("utf-8", "backslashreplace") if "txt" in files else None
    record: Any = {}
    if "json" in files:
        try:
            record = json.loads(files["json"].data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            damage.append(f"{key}.json: is no JSON object")
            record = {}
    return TarSample(key, picture, text, record)
