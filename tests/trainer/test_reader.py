from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from filters.errors import ConfigError, ShardError
from tests.trainer.conftest import TinyMix, dataset_of
from trainer import reader as reader_module
from trainer.loader import Loader
from trainer.reader import LocalReader, RemoteReader, coalesce, open_reader
from trainer.rows import PLACE, Places, open_rows


def places_of(*places: tuple[int, int, int]) -> Places:
    """Records of PLACE from (file, offset, size)."""
    return np.array([(offset, size, file, 0) for file, offset, size in places], PLACE)


def ranges(*places: tuple[int, int, int], gap: int = 10, longest: int = 100) -> list[tuple[int, int, int, list[int]]]:
    return [(r.file, r.start, r.stop, r.members) for r in coalesce(places_of(*places), gap, longest)]


def test_places_that_are_near_are_one_range() -> None:
    assert ranges((0, 50, 5), (0, 30, 10), (0, 0, 20)) == [(0, 0, 55, [2, 1, 0])]
    assert ranges((0, 0, 20), (0, 31, 10)) == [(0, 0, 20, [0]), (0, 31, 41, [1])]  # a gap of 11
    assert ranges((0, 0, 20), (1, 20, 10)) == [(0, 0, 20, [0]), (1, 20, 30, [1])]
    assert ranges((0, 0, 20), (0, 5, 5), (0, 0, 20)) == [(0, 0, 20, [0, 2, 1])]  # wanted twice, and one inside
    assert ranges((0, 0, 60), (0, 60, 60), (0, 120, 200)) == [(0, 0, 60, [0]), (0, 60, 120, [1]), (0, 120, 320, [2])]
    assert ranges() == []


def open_below(folder: Path) -> int:
    """How many files under `folder` this process has open."""
    paths = [Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()]
    return sum(path.is_relative_to(folder) for path in paths)


def test_few_shards_stay_open_and_closing_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture over more shards than a process may open files is read all the same, and from several threads."""
    monkeypatch.setattr("trainer.reader._OPEN_SHARDS", 2)
    for number in range(30):
        (tmp_path / f"{number}.tar").write_bytes(b"%05d" % number)
    reader = LocalReader(str(tmp_path), [f"{number}.tar" for number in range(30)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(reader.read, [places_of((i, 1, 4), (29 - i, 0, 5)) for i in range(30)]))
    assert found == [[b"%04d" % i, b"%05d" % (29 - i)] for i in range(30)]
    assert 1 <= open_below(tmp_path) <= 2
    reader.close()
    assert open_below(tmp_path) == 0
    assert reader.read(places_of((29, 3, 2))) == [b"29"]
    reader.close()


def test_a_shard_that_is_gone_or_cut_is_named(mix: TinyMix, tmp_path: Path) -> None:
    rows = open_rows(mix.manifest, tmp_path)
    everything = rows.take(np.arange(48))
    with pytest.raises(ShardError, match=r"a/00000\.tar cannot be read: No such file or directory; download"):
        open_reader(tmp_path, rows.files).read(everything)
    shutil.copytree(mix.shards_root, tmp_path / "shards")
    tar = tmp_path / "shards" / "b" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    reader = open_reader(tmp_path / "shards", rows.files)
    assert reader.read(everything[:24]) == mix.images[:24]
    with pytest.raises(ShardError, match=r"b/00000\.tar ends before byte 6\d\d, which the manifest names"):
        reader.read(everything[24:])
    reader.close()


def test_a_url_of_no_known_kind_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="shards at nothing://x: "):
        open_reader("nothing://x", [])


@pytest.fixture
def in_memory(mix: TinyMix) -> Iterator[str]:
    """The shards in a file system that is not local."""
    system = fsspec.filesystem("memory")
    system.put(str(mix.shards_root), "/shards", recursive=True)
    yield "memory://shards"
    system.rm("/shards", recursive=True)


class Counting:
    """A file system that notes each range it is asked for, and fails as often as it is told to."""

    def __init__(self, failures: int = 0, error: Callable[[], Exception] = lambda: RuntimeError("busy")) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.failures, self.error = failures, error

    def cat_ranges(self, paths: list[str], starts: list[int], stops: list[int], on_error: str) -> list[object]:
        assert on_error == "return"
        self.asked += zip(paths, starts, stops, strict=True)
        if self.failures:
            self.failures -= 1
            return [self.error()]
        return list(fsspec.filesystem("memory").cat_ranges(paths, starts, stops))


def test_ranges_of_a_window_are_few(mix: TinyMix, in_memory: str, tmp_path: Path) -> None:
    rows, system = open_rows(mix.manifest, tmp_path), Counting()
    reader = RemoteReader(system, "/shards", rows.files)
    chosen = np.random.default_rng(0).permutation(48)
    assert reader.read(rows.take(chosen)) == [mix.images[row] for row in chosen]
    firsts, lasts = rows.take(np.array([0, 24])), rows.take(np.array([23, 47]))
    assert sorted(system.asked) == [
        (f"/shards/{name}/00000.tar", first["offset"], last["offset"] + last["size"])
        for name, first, last in zip("ab", firsts, lasts, strict=True)
    ]
    reader.close()
    assert reader.read(rows.take(np.array([3]))) == [mix.images[3]]


def test_a_range_that_fails_is_tried_four_times(
    mix: TinyMix, in_memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_WAITS", (0.0, 0.0, 0.0))
    rows = open_rows(mix.manifest, tmp_path)
    system = Counting(failures=3)
    assert RemoteReader(system, "/shards", rows.files).read(rows.take(np.array([3]))) == [mix.images[3]]
    assert len(system.asked) == 4
    with pytest.raises(
        ShardError, match=r"/shards/a/00000\.tar cannot be read, tried 4 times \(RuntimeError: busy\)"
    ):
        RemoteReader(Counting(failures=4), "/shards", rows.files).read(rows.take(np.array([3])))
    gone = Counting(failures=9, error=lambda: FileNotFoundError("00000.tar"))
    with pytest.raises(ShardError, match="tried 1 times"):
        RemoteReader(gone, "/shards", rows.files).read(rows.take(np.array([3])))
    assert len(gone.asked) == 1


def test_what_a_server_sends_is_counted(mix: TinyMix, in_memory: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/shards/a/00000.tar", system.cat("/shards/a/00000.tar")[:600])
    rows = open_rows(mix.manifest, tmp_path)
    with pytest.raises(ShardError, match=r"a/00000\.tar ends before byte 6\d\d, which the manifest names"):
        open_reader(in_memory, rows.files).read(rows.take(np.array([0])))


class Ranges(http.server.BaseHTTPRequestHandler):
    """Files of a folder, with or without ranges."""

    def __init__(self, *arguments: object, folder: Path, log: list[str], has_ranges: bool) -> None:
        self.folder, self.log, self.has_ranges = folder, log, has_ranges
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.log.append(self.path)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if self.has_ranges:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if self.has_ranges else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def served(mix: TinyMix, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of the shards on this machine, and what it was asked for."""
    log: list[str] = []
    handler = functools.partial(Ranges, folder=mix.shards_root, log=log, has_ranges=request.param)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", log
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("served", [True], indirect=True)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_server_are_those_from_the_disk(
    mix: TinyMix, served: tuple[str, list[str]], workers: int
) -> None:
    """Workers have connections of their own, and a window of 24 places in two shards is two requests."""
    address, log = served
    remote = TinyMix(mix.manifest, address, mix.images, mix.captions)  # type: ignore[arg-type]
    with Loader(dataset_of(mix), 24) as local, Loader(dataset_of(remote), 24, workers=workers) as loader:
        for _ in range(2):
            expected, batch = next(local), next(loader)
            assert np.array_equal(batch.images, expected.images)
    # Of a worker's window that was under way at the end only the first may have been asked for.
    assert abs(log.count("/a/00000.tar") - log.count("/b/00000.tar")) <= workers
    assert set(log) == {"/a/00000.tar", "/b/00000.tar"}
    assert len(log) == 4 if not workers else len(log) >= 4


@pytest.mark.parametrize("served", [False], indirect=True)
def test_a_server_without_ranges_is_named(mix: TinyMix, served: tuple[str, list[str]], tmp_path: Path) -> None:
    rows = open_rows(mix.manifest, tmp_path)
    reader = open_reader(served[0], rows.files)
    with pytest.raises(ShardError, match="sends more than the range that it is asked for"):
        reader.read(rows.take(np.array([0])))
    reader.close()
