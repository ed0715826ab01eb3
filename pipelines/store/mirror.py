"""The catalog's files in a local folder: DuckDB opens no others. Those of a local root lie there; those of a root
elsewhere are kept in a cache folder of this machine.

    <cache>/<root>/catalog-<version>.duckdb    versions of the store's catalog.duckdb
    <cache>/<root>/catalog/<name>.duckdb       its segments, lists and mixtures, which never change
    <cache>/<root>/inputs/<version>/           a folder of the store's, such as the evaluation sets
    <cache>/<root>/schedule/, .curate.lock     what this machine alone needs: see `own_folder`

<cache> is $HEADWATER_CACHE, or headwater/ in $XDG_CACHE_HOME or ~/.cache. A writer uploads the new files first and
catalog.duckdb last, in one PUT, so that a reader finds the catalog of before or the new one, whole either way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filters.errors import HeadwaterError
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root

FILE = "catalog.duckdb"
FOLDER = "catalog"
# Seconds for which files that no catalog names any more stay, for readers that have the one before open.
KEEP = 3600.0
_AT_ONCE = 8  # downloads


class OvertakenError(HeadwaterError):
    """Another process published a catalog since this one looked."""


class Shelf:
    """The files of a local root, where they lie; nothing is fetched."""

    def __init__(self, root: Root) -> None:
        self.folder = root.local(FOLDER)
        self.address = str(self.folder.resolve())
        self._file = root.local(FILE)

    def catalog(self) -> Path:
        """The newest catalog; a path where nothing is, if there is none."""
        return self._file

    def fetch(self, names: Iterable[str]) -> None:
        """See that the files of a catalog are in `folder`; those that the root lacks are left out."""

    def add(self, path: Path) -> None:
        """Publish a new file under its own name, out of a folder beside `folder`."""
        path.replace(self.folder / path.name)

    def swap(self, path: Path, before: Path | None) -> None:
        """Publish the catalog at `path`, which was made from the one at `before`; a root elsewhere may raise
        OvertakenError, since another stands there by now."""
        path.replace(self._file)

    def sweep(self, named: Collection[str] | None, keep: float = KEEP) -> None:
        """Take away files older than `keep` seconds that are not `named`; all stay where None says that it cannot be
        told what the newest catalog names."""
        if named is not None:
            _sweep(self.folder, {f"{name}.duckdb" for name in named}, keep)


class Mirror(Shelf):
    """The files of a root elsewhere, as far as this machine has needed them."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.address = root.address(FOLDER)
        self._cache = cache_of(root)
        self.folder = self._cache / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)

    def catalog(self) -> Path:
        """The newest catalog, fetched if it is not here yet; a path where nothing is, if there is none."""
        while True:
            try:
                version = self._root.version(FILE)
                path = self._cache / f"catalog-{fingerprint(version)}.duckdb"
                if path.exists():
                    return path
                temporary = self._fetch(FILE)
                # What was fetched is of this version only if it still is the newest: a download that broke off may
                # have gone on with the next.
                if self._root.version(FILE) == version:
                    temporary.replace(path)
                    _sweep(self._cache, {path.name})
                    return path
                temporary.unlink()
            except FileNotFoundError:
                return self._cache / FILE

    def fetch(self, names: Iterable[str]) -> None:
        """Download what is not here yet."""
        missing = [name for name in names if not (self.folder / f"{name}.duckdb").exists()]
        if missing:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self._fetch_one, missing))

    def add(self, path: Path) -> None:
        """Upload a new file, and keep it."""
        self._root.upload(path, FOLDER, path.name)
        super().add(path)

    def swap(self, path: Path, before: Path | None) -> None:
        """Upload the catalog, which the store takes only if none has come since `before`, where it can tell."""
        version = None
        if before is not None and before.exists():
            version = self._root.version(FILE)
            if before.name != f"catalog-{fingerprint(version)}.duckdb":
                raise OvertakenError(f"{self._root.url}: another catalog was published meanwhile; run it again")
        if not self._root.replace(path.read_bytes(), version, FILE):
            raise OvertakenError(f"{self._root.url}: another catalog was published meanwhile; run it again")

    def sweep(self, named: Collection[str] | None, keep: float = KEEP) -> None:
        """The same in the cache and in the store. A reader that misses a file there looks for a newer catalog."""
        super().sweep(named, keep)
        if named is None:
            return
        for name, (_, written) in self._root.files(FOLDER).items():
            if (not keep or 0 < written < time.time() - keep) and name.removesuffix(".duckdb") not in named:
                self._root.remove(FOLDER, name)

    def _fetch(self, *parts: str) -> Path:
        temporary = self._cache / f"{uuid.uuid4().hex}.duckdb"
        try:
            self._root.download(temporary, *parts)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _fetch_one(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fetch(FOLDER, f"{name}.duckdb").replace(self.folder / f"{name}.duckdb")


def shelf(root: Root) -> Shelf:
    """Where the catalog's files of a root are opened."""
    return Shelf(root) if root.is_local else Mirror(root)


def inputs(root: Root, folder: str, *parts: str) -> Path:
    """What lies at `parts` in a folder that must be local: of a local root in it; of a root elsewhere a copy of the
    whole folder as it is now, or, where it has none of that name, the folder of this machine."""
    if root.is_local:
        return root.local(folder, *parts)
    files = root.files(folder)
    if not files:
        return Path(folder, *parts)
    place = cache_of(root) / "inputs" / fingerprint(folder, sorted(files.items()))
    if not place.exists():
        temporary = place.with_name(uuid.uuid4().hex)

        def fetch(name: str) -> None:
            path, written = temporary / name, files[name][1]
            path.parent.mkdir(parents=True, exist_ok=True)
            root.download(path, folder, name)
            # Evaluation sets are known by their files' times, which are to be the same on all machines.
            os.utime(path, (written, written))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, files))
        try:
            temporary.rename(place)
        except OSError:  # another process has made it meanwhile
            shutil.rmtree(temporary)
    return place.joinpath(*parts)


def own_folder(root: Root, *parts: str) -> Path:
    """Where locks and logs of this machine lie: in a local root itself, else in the root's cache."""
    return root.local(*parts) if root.is_local else cache_of(root).joinpath(*parts)


def cache_of(root: Root) -> Path:
    """The folder of a root elsewhere in $HEADWATER_CACHE, or in `headwater` in the user's folder of caches."""
    own, user = os.environ.get("HEADWATER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    caches = Path(own) if own else (Path(user) if user else Path.home() / ".cache") / "headwater"
    return caches / fingerprint(root.address())


def _sweep(folder: Path, named: Collection[str], keep: float = KEEP) -> None:
    old = time.time() - keep
    for path in folder.glob("*.duckdb"):
        if path.name not in named:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < old:
                    path.unlink()
