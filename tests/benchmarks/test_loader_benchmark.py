"""The comparison of loaders: what it makes, what each side delivers, how ratios are taken."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import loader
from benchmarks.loader import GOALS, Results, Run, report, runs_of
from benchmarks.loader_data import Corpus, make
from benchmarks.loader_profile import shares
from benchmarks.loader_sides import BATCH, BYTES, DECODED, Rate, measure

# The other libraries warn as they please.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(Corpus(tmp_path_factory.mktemp("corpus"), 64, "jpg", 1400, 3))


def test_all_sides_get_the_same_pairs(corpus: Corpus) -> None:
    table = pq.read_table(corpus.manifest(part=False))
    assert len(table) == len(set(table["caption"].to_pylist())) == 1400
    assert len(corpus.chosen()) == 140
    row = table.to_pylist()[700]
    with tarfile.open(corpus.shards_root / row["source"] / f"{row['shard']}.tar") as tar:
        members = {name: tar.extractfile(f"{row['key']}.{name}") for name in ("jpg", "txt")}
        data = {name: member.read() for name, member in members.items() if member is not None}
        member = tar.getmember(f"{row['key']}.jpg")
    assert (member.offset_data, member.size) == (row["offset"], row["size"])
    assert data["txt"].decode() == row["caption"]
    files = list(corpus.files.glob("*/*.jpg"))
    assert len(files) == 1400
    assert next(file for file in files if file.stem == row["key"]).read_bytes() == data["jpg"]


@pytest.mark.parametrize("name", DECODED)
def test_sides_decode(corpus: Corpus, name: str) -> None:
    assert next(DECODED[name](corpus, False, 0)) == (256 if name == "decoder" else BATCH)


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("part", [True, False])
def test_sides_give_bytes(corpus: Corpus, name: str, part: bool) -> None:
    rate = measure(BYTES[name](corpus, part, 0), 0.01)
    assert rate.samples > 0
    assert rate.seconds >= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "webdataset", "ImageFolder"])
def test_sides_select_a_tenth(corpus: Corpus, name: str) -> None:
    assert next(DECODED[name](corpus, True, 0)) == BATCH


@pytest.mark.slow
def test_profile_is_complete(corpus: Corpus) -> None:
    found = shares(corpus, 1, 0.01, 0)
    assert set(found) >= {"read", "decode", "resize", "tokenise", "floats", "hand-over"}


def test_ratios_are_medians_of_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(Corpus(tmp_path, 256, "jpg", 10, 1))
    for run in runs_of(results.corpus):
        speeds = (400, 900, 300) if run.side == "ours" else (100, 300, 300)
        results.rates[run] = [Rate(speed, 1.0, 2.0) for speed in speeds]
    figures = report(results)
    assert figures["256 jpg open_clip"] == 3.0
    assert figures["256 jpg ours samples/s"] == 400
    assert set(GOALS) - set(figures) == {name for name in GOALS if name.startswith("512")}
    assert "decoding alone would give" in capsys.readouterr().out
    assert results.ratio("webdataset", ("tenth",), of_cpu=True) == 3.0


def test_the_last_line_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loader, "make", lambda corpus: corpus)
    monkeypatch.setattr(Run, "once", lambda run, *_: Rate(300 if run.side == "ours" else 100, 1.0, 1.0))
    assert loader.main(["--quick", "--formats", "jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    last = json.loads(lines[-1])
    assert last["benchmark"] == "loader"
    assert last["met"] == {name: None if "512" in name else goal <= 3 for name, goal in GOALS.items()}
    assert sum(line.startswith("missed: 256 jpg webdataset tenth") for line in lines) == 2
