"""The pictures of an evaluation set by name, one after another, whatever form the set has on disk.

A set is a folder: either the webdataset layout of `evaluation.tasks`, or other tars in webdataset form, or just
pictures in folders. Nothing is decoded here, and no more than one picture is held.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from filters.errors import InputError

# One name a line, the line number is the label.
CLASSNAMES = "classnames.txt"
# Suffixes of what `filters.pixels.decode` reads.
SUFFIXES = ("webp", "png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "avif")


def eval_sets(folder: str | Path) -> list[str]:
    """Names of the evaluation sets in `folder`, one a folder in it, sorted.

    InputError where there is no such folder, no set in it, or where it is a set itself.
    """
    folder = Path(folder)
    names = sorted(p.name for p in folder.iterdir() if _is_set(p)) if folder.is_dir() else []
    if not names:
        raise InputError(f"{folder}: no evaluation sets here; each is a folder in it, of tars or of pictures")
    if (folder / "test" / "nshards.txt").is_file():
        raise InputError(f"{folder} is an evaluation set itself; name the folder that it is in")
    if loose := [p.name for p in sorted(folder.iterdir()) if p.suffix == ".tar" or _is_picture(p)]:
        raise InputError(f"{folder}: {loose[0]} lies beside the sets, not in one; each set is a folder")
    return names


def eval_pictures(folder: str | Path) -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of each picture of the evaluation set in `folder`, in one stated order.

    Sets in the layout of `evaluation.tasks` give `key (class)`, in the order of their tars; other tars `tar/key`,
    where `tar` is the path in the set; folders of pictures the path of each file in the set, in order of these paths.
    InputError for a set without pictures, for a tar that is missing, cut or holds a sample without a picture, and for
    files that cannot be read.
    """
    folder = Path(folder)
    tars = _tars(folder)
    found = False
    for name, data in _from_tars(folder, tars) if tars else _from_files(folder):
        found = True
        yield name, data
    if not found:
        raise InputError(f"{folder} holds no pictures; expected tars, or files that end in {', '.join(SUFFIXES)}")


def eval_files(folder: str | Path) -> list[Path]:
    """The files that `eval_pictures` reads the pictures of a set from, in its order; classes not among them."""
    folder = Path(folder)
    return _tars(folder) or _files(folder)


def one_line(error: Exception) -> str:
    """What an error says in its first line: tarfile goes on with what each way of reading made of the file."""
    return str(error).partition("\n")[0].rstrip(":")


def _is_set(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in SUFFIXES and path.is_file()


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files below `folder`, in order of their paths, none that is hidden or in a hidden folder."""
    found = (p for p in folder.rglob(pattern) if not any(x.startswith(".") for x in p.relative_to(folder).parts))
    return sorted((p for p in found if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())


def _files(folder: Path) -> list[Path]:
    return [path for path in _visible(folder, "*") if _is_picture(path)]


def _tars(folder: Path) -> list[Path]:
    """The tars of a set: those that `nshards.txt` promises, else all there are."""
    promise = folder / "test" / "nshards.txt"
    if not promise.is_file():
        return _visible(folder, "*.tar")
    count = promise.read_text(encoding="utf-8", errors="replace").strip()
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"{promise} says {count!r}; expected the number of tars")
    tars = [folder / "test" / f"{number}.tar" for number in range(int(count))]
    if absent := [tar for tar in tars if not tar.is_file()]:
        raise InputError(f"{absent[0]} is missing; {promise.name} promises {count} tars")
    return tars


def _from_tars(folder: Path, tars: list[Path]) -> Iterator[tuple[str, bytes]]:
    classes = _classes(folder) if (folder / "test" / "nshards.txt").is_file() else None
    for tar in tars:
        try:
            with tarfile.open(tar) as archive:
                for key, parts in _samples(archive).items():
                    data = _picture(archive, parts, f"{tar}: member {key}")
                    if classes is None:
                        yield f"{tar.relative_to(folder).with_suffix('').as_posix()}/{key}", data
                    else:
                        yield f"{key} ({_class(archive, parts, classes, f'{tar}: member {key}')})", data
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{tar} is not a whole tar: {one_line(error)}") from error


def _samples(archive: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of each sample by suffix; only headers are read."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        if member.isfile():
            # As webdataset has it: the suffix begins at the first dot of the file's own name.
            directory, slash, file = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = file.partition(".")
            samples.setdefault(directory + slash + stem, {})[suffix.lower()] = member
    return samples


def _picture(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> bytes:
    member = next((parts[suffix] for suffix in SUFFIXES if suffix in parts), None)
    if member is None:
        raise InputError(f"{where} has {', '.join(sorted(parts))}; expected a picture ({', '.join(SUFFIXES)})")
    return _read(archive, member)


def _class(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], classes: list[str], where: str) -> str:
    label = _read(archive, parts["cls"]).decode("ascii", "replace").strip() if "cls" in parts else "no .cls"
    if not label.isdecimal() or int(label) >= len(classes):
        raise InputError(f"{where} has label {label!r}; expected 0 to {len(classes) - 1}, the lines of {CLASSNAMES}")
    return classes[int(label)]


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    data = b"" if stream is None else stream.read()
    if len(data) != member.size:
        raise EOFError(f"{member.name} is cut short")
    return data


def _classes(folder: Path) -> list[str] | None:
    """The class names of a set in the layout of `evaluation.tasks`; None where it has no classes (retrieval)."""
    path = folder / CLASSNAMES
    if not path.is_file():
        return None
    return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")]


def _from_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in _files(folder):
        try:
            yield path.relative_to(folder).as_posix(), path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
