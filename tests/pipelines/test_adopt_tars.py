"""Reading tars as they come: header formats, webdataset's grouping, and what is left of damaged ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from filters.errors import ShardError
from pipelines.adopted.tars import TarSample, members, samples
from tests.pipelines.adoptable import as_json, image, write_tar

LONG = "a/very/deep/folder/" * 12


def read(path: Path) -> tuple[list[TarSample], list[str]]:
    damage: list[str] = []
    return list(samples(path, damage)), damage


def plain(count: int, prefix: str = "") -> list[tuple[str, bytes]]:
    files = []
    for number in range(count):
        files += [(f"{prefix}{number:05d}.jpg", image(number)), (f"{prefix}{number:05d}.txt", f"{number}".encode())]
    return files


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_places_are_tarfiles_in_every_header_format(tmp_path: Path, format: int) -> None:
    prefix = "" if format == tarfile.USTAR_FORMAT else LONG
    path = write_tar(tmp_path / "a.tar", plain(5, prefix), format)
    with tarfile.open(path) as tar:
        wanted = [(member.offset_data, member.size) for member in tar.getmembers()]
    found = list(members(path, []))
    assert [(member.offset, len(member.data)) for member in found] == wanted
    data = path.read_bytes()
    assert all(data[m.offset : m.offset + len(m.data)] == m.data for m in found)
    assert [m.key for m in found if m.extension == "jpg"] == [f"{prefix}{number:05d}" for number in range(5)]


ODD = [
    ("a.jpg", image(0)), ("a.txt", b"one"),
    ("folder.with.dots/b.PNG", image(1, "PNG")), ("folder.with.dots/b.json", as_json(caption="two")),
    ("folder.with.dots/b.seg.png", b"no picture of the pair"), ("folder.with.dots/b.npy", b"."),
    ("c.webp", image(2, "WEBP")), ("c.cls", b"7"), ("c.txt", b"three"),
    ("__meta__/x.jpg", b"not a sample"), ("README", b"no extension"),
    ("d.jpeg", image(3)), ("d.txt", b"four"),
]  # fmt: skip

WEBDATASET = """
import json, sys, warnings
warnings.simplefilter("ignore")
import webdataset
rows = []
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False):
    picture = next(sample[e] for e in ("jpg", "png", "jpeg", "webp") if e in sample)
    rows.append((sample["__key__"], len(picture), sample.get("txt", b"").decode()))
print(json.dumps(rows))
"""


def test_samples_are_webdatasets(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "odd.tar", ODD)
    done = subprocess.run([sys.executable, "-c", WEBDATASET, str(path)], capture_output=True, text=True, check=True)
    found, damage = read(path)
    rows = [[s.key, len(s.picture.data) if s.picture else 0, s.text or ""] for s in found]
    assert rows == json.loads(done.stdout)
    assert [s.picture.extension for s in found if s.picture] == ["jpg", "png", "webp", "jpeg"]
    assert found[1].record == {"caption": "two"}
    assert damage == []


def test_a_repeated_key_is_another_sample_and_names_lose_their_dot_slash(tmp_path: Path) -> None:
    files = [("./x.jpg", image(0)), ("./x.txt", b"one"), ("./x.jpg", image(1)), ("./x.txt", b"two")]
    found, _ = read(write_tar(tmp_path / "a.tar", files))
    assert [(s.key, s.text) for s in found] == [("x", "one"), ("x", "two")]
    assert [s.picture.data for s in found if s.picture] == [image(0), image(1)]


def test_a_broken_record_is_told_and_left_out(tmp_path: Path) -> None:
    files = [("a.jpg", image(0)), ("a.json", b"{"), ("b.jpg", image(1)), ("b.json", b"[1]")]
    found, damage = read(write_tar(tmp_path / "a.tar", files))
    assert [s.record for s in found] == [{}, {}]
    assert damage == ["a.json: is no JSON object", "b.json: is no JSON object"]


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_compressed_tars_are_refused_by_name(tmp_path: Path, pack: object, name: str) -> None:
    path = write_tar(tmp_path / "a.tar", plain(2))
    path.write_bytes(pack(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ShardError, match=rf"a\.tar: is compressed with {name}, .*decompress it"):
        read(path)


def test_what_is_no_tar_is_refused_and_an_empty_tar_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ShardError, match="is no tar"):
        read(tmp_path / "a.tar")
    assert read(write_tar(tmp_path / "b.tar", [])) == ([], [])
    (tmp_path / "c.tar").write_bytes(b"")
    assert read(tmp_path / "c.tar") == ([], ["cut short or damaged at byte 0: the end marker is missing"])


@pytest.mark.parametrize("share", [0.1, 0.33, 0.5, 0.77, 0.95])
def test_of_a_tar_cut_short_all_whole_members_are_read(tmp_path: Path, share: float) -> None:
    path = write_tar(tmp_path / "a.tar", plain(20))
    whole = list(members(path, []))
    size = int(share * whole[-1].offset)
    path.write_bytes(path.read_bytes()[:size])
    damage: list[str] = []
    assert list(members(path, damage)) == [m for m in whole if m.offset + len(m.data) <= size]
    assert len(damage) == 1 and "cut short or damaged at byte" in damage[0]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("filler", ["zeros", "noise"])
def test_reading_goes_on_after_a_hole(tmp_path: Path, format: int, filler: str) -> None:
    """A lost stretch from the middle of one picture into the next sample's headers."""
    path = write_tar(tmp_path / "a.tar", plain(12, "" if format == tarfile.USTAR_FORMAT else LONG), format)
    whole, data = list(members(path, [])), bytearray(path.read_bytes())
    start, end = whole[6].offset + 100, whole[8].offset + 50
    data[start:end] = b"\0" * (end - start) if filler == "zeros" else np.random.default_rng(1).bytes(end - start)
    path.write_bytes(data)
    damage: list[str] = []
    found = list(members(path, damage))
    lost = {(m.key, m.extension) for m in whole} - {(m.key, m.extension) for m in found}
    # The headers that lay in the hole are lost with their files; the picture before it is there, with wrong bytes.
    assert lost == {(m.key, m.extension) for m in whole[7:9]}
    assert len(damage) == 1 and "hold no member" in damage[0]


def test_any_damage_ends_in_members_and_never_in_an_error(tmp_path: Path) -> None:
    """300 seeded mutations of a tar with each kind of header."""
    draw = np.random.default_rng(5)
    path = tmp_path / "a.tar"
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        prefix = "" if format == tarfile.USTAR_FORMAT else LONG
        data = write_tar(path, [*plain(6, prefix), ("z.json", as_json(a=1))], format).read_bytes()
        second = list(members(path, []))[1].offset
        for _ in range(100):
            broken = bytearray(data)
            for place in draw.integers(second, len(broken), size=draw.integers(1, 40)):
                broken[place] = draw.integers(256)
            path.write_bytes(broken[: draw.integers(second, len(broken))] if draw.random() < 0.3 else broken)
            found = list(members(path, []))
            assert found[0].data == image(0)
            for member in found:
                assert broken[member.offset : member.offset + len(member.data)] == member.data


def test_a_header_with_a_negative_size_does_not_lead_back_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in (("a.txt", {}), ("b.txt", {"size": "-1536"}), ("c.txt", {})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 3, headers
            tar.addfile(info, io.BytesIO(b"abc"))
    damage: list[str] = []
    assert [m.key for m in members(path, damage)] == ["a", "b", "c"]
    assert len(damage) == 1 and "hold no member" in damage[0]


def test_only_one_picture_is_held_at_a_time(tmp_path: Path) -> None:
    """A tar much larger than what reading it takes: the members are made one by one."""
    path = tmp_path / "a.tar"
    block = np.random.default_rng(0).bytes(1 << 20)
    with tarfile.open(path, "w") as tar:
        for number in range(64):
            info = tarfile.TarInfo(f"{number:03d}.jpg")
            info.size = len(block)
            tar.addfile(info, io.BytesIO(block))
    tracemalloc.start()
    count = sum(1 for _ in samples(path, []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 64
    assert peak < 8 << 20
