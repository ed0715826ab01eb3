"""What the webdataset layout of CLIP_benchmark is made of: files of lines, numbered tars, samples in these."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from evaluation.pictures import one_line
from filters.errors import InputError
from trainer.images import decode_rgb

DATASET_TYPE = "dataset_type.txt"
IMAGES = ("webp", "png", "jpg", "jpeg")
RETRIEVAL = "retrieval"
CLASSIFICATION = "classification"


def dataset_type(folder: Path) -> str:
    """What kind of set lies in `folder`, by its `dataset_type.txt`; `classification` without one."""
    path = folder / DATASET_TYPE
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return " ".join(text.split()) or CLASSIFICATION


def read_lines(path: Path, hint: str = "") -> list[str]:
    """The lines of a text file, without space at their ends; `hint` says what it is for if it is not there.

    InputError for a file that is missing, empty, no UTF-8, or has an empty line before its last.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing{hint}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise InputError(f"{path} is empty or has an empty line; write one entry a line")
    return lines


def read_samples(folder: Path, split: str, hint: str = "") -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Tar and key for messages, key, and members by suffix, of each sample of a split, in the tars' order.

    InputError for a tar that `nshards.txt` promises and is not there, or is not whole.
    """
    for tar in _tars(folder / split, hint):
        parts: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(tar) as archive:
                for member in archive:
                    if (stream := archive.extractfile(member)) is not None:
                        # as webdataset has it: the suffix begins at the first dot of the file's own name
                        directory, slash, file = member.name.removeprefix("./").rpartition("/")
                        stem, _, suffix = file.partition(".")
                        parts.setdefault(directory + slash + stem, {})[suffix.lower()] = stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{tar} is not a whole tar: {one_line(error)}") from error
        for key, part in parts.items():
            yield f"{tar}: member {key}", key, part


def sample_picture(where: str, part: Mapping[str, bytes], other: str) -> bytes:
    """The encoded picture of a sample; InputError if it is missing, cannot be decoded, or has no member `other`."""
    suffix = next((s for s in IMAGES if s in part), None)
    if suffix is None or other not in part:
        raise InputError(
            f"{where} has {', '.join(sorted(part))}; expected a picture ({', '.join(IMAGES)}) and a .{other}"
        )
    try:
        decode_rgb(part[suffix])
    except InputError as error:
        raise InputError(f"{where}.{suffix}: {error}") from error
    return part[suffix]


def _tars(folder: Path, hint: str) -> list[Path]:
    count = read_lines(folder / "nshards.txt", hint)[0]
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{folder / 'nshards.txt'} says {count!r}; expected the number of tars")
    tars = [folder / f"{number}.tar" for number in range(int(count))]
    if absent := [tar for tar in tars if not tar.is_file()]:
        raise InputError(f"{absent[0]} is missing; nshards.txt promises {count} tars")
    return tars
