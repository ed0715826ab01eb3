"""The order of ingested rows: repeatable, fair, and in little memory."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from filters.errors import HeadwaterError
from filters.sampling import sample_order
from pipelines.identity import identified, uid_of
from pipelines.ingest import IngestConfig, run
from pipelines.shuffle import Shuffle
from pipelines.store.root import Root
from pipelines.store.schema import RAW
from tests.pipelines.chain import cc12m_dump
from tests.pipelines.source_dumps import annotation, raw, redcaps_dump


def shuffled(records: list[tuple[str, str]], limit: int) -> list[dict[str, Any]]:
    """RAW records of (address, caption) through the shuffle, one table a record."""
    with Shuffle("s", 5, limit=limit) as shuffle:
        for line, (url, caption) in enumerate(records):
            row = raw(url=url, caption_raw=[("caption", caption)], line=line)
            shuffle.add(identified(pa.Table.from_pylist([row], RAW.arrow), "s"))
        tables = list(shuffle.tables())
    rows: list[dict[str, Any]] = [row for table in tables for row in table.to_pylist()]
    return rows


def expected(records: list[tuple[str, str]]) -> list[tuple[int, str, str | None]]:
    """(line, uid, uid of the first) of every record in order, the slow way."""
    seen: set[str] = set()
    found = []
    for line, (url, caption) in enumerate(records):
        uid = uid_of("s", "", url, [caption])
        is_repeated = uid in seen
        seen.add(uid)
        found.append((line, uid_of("s", "f.tsv", str(line), ()), uid) if is_repeated else (line, uid, None))
    lows = np.array([int(uid[16:], 16) for _, uid, _ in found], np.uint64)
    return [found[place] for place in np.argsort(sample_order(lows, 5))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y\x1f"])), max_size=25),
    st.sampled_from([0, 3000, 1 << 20]),
)
def test_the_shuffle_gives_every_record_once_in_order_whatever_it_may_hold(
    records: list[tuple[str, str]], limit: int
) -> None:
    rows = shuffled(records, limit)
    halves = [(row["line"], row["uid_hi"] << 64 | row["uid_lo"], row["first_lo"] is not None) for row in rows]
    assert halves == [(line, int(uid, 16), first is not None) for line, uid, first in expected(records)]
    firsts = [row["first_hi"] << 64 | row["first_lo"] for row in rows if row["first_lo"] is not None]
    assert firsts == [int(first, 16) for _, _, first in expected(records) if first is not None]


def big_dump(folder: Path, rows: int) -> Path:
    """A CC12M dump with one record in ten repeated from anywhere before it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    with (folder / "cc12m.tsv").open("w") as file:
        for number in range(rows):
            which = rng.randrange(number) if number and number % 10 == 0 else number
            text = f"caption {which} " + "word " * (which % 17)
            file.write(f"http://host{which % 301}.test/pictures/{which * 2654435761 % 2**32:x}.jpg\t{text}\n")
    return folder


def test_the_same_bytes_whatever_is_held_in_memory(tmp_path: Path) -> None:
    dump = big_dump(tmp_path / "dump", 20_000)
    found = []
    for memory in (1, 512):
        config = IngestConfig(root=str(tmp_path / str(memory)), source="cc12m", metadata=str(dump), memory=memory)
        assert run(config)["counts"]["duplicate_row"] > 1700
        root = Root(config.root)
        found.append([root.read_bytes("metadata", "cc12m", name) for name in root.names("metadata", "cc12m")])
    assert len(found[0]) == 20
    assert found[0] == found[1]


PEAK = """
import resource, sys
import pyarrow
pyarrow.set_cpu_count(1)
from pipelines.ingest import IngestConfig, run
run(IngestConfig(root=sys.argv[1], source="cc12m", metadata=sys.argv[2], memory=16, samples_per_shard=5000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    peaks = []
    for rows in (20_000, 400_000):
        dump = big_dump(tmp_path / str(rows), rows)
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"root{rows}"), str(dump)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    size = (tmp_path / "400000" / "cc12m.tsv").stat().st_size
    assert size > 38_000_000
    # What the index of pieces and the allocator's leftovers take; all rows together need about 200 MB.
    assert peaks[1] - peaks[0] < 50_000_000


def test_the_temporary_file_has_no_name_and_its_folder_may_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    config = IngestConfig(
        root=str(tmp_path / "root"), source="cc12m", metadata=str(cc12m_dump(tmp_path, 9)),
        scratch=str(tmp_path / "scratch"),
    )  # fmt: skip
    run(config)
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(FileNotFoundError, match="none"):
        run(config.model_copy(update={"scratch": str(tmp_path / "none"), "seed": 1}))

    def full(**_: object) -> Any:
        return Path("/dev/full").open("r+b", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(HeadwaterError, match="temporary file: No space left on device; name a larger folder"):
        run(config.model_copy(update={"seed": 2}))


def test_a_prefix_of_the_shards_is_a_fair_sample_of_the_source(tmp_path: Path) -> None:
    """RedCaps' files are sorted by subreddit; its shards must not be: chi-square of subreddit by part."""
    sizes = {f"subreddit{n}": 60 + 45 * n for n in range(16)}
    dump = tmp_path / "annotations"
    dump.mkdir()
    number = 0
    for name, size in sizes.items():
        records = [{**annotation(number + n), "subreddit": name} for n in range(size)]
        redcaps_dump(dump, records, f"{name}_2016.json")
        number += size
    config = IngestConfig(root=str(tmp_path / "root"), source="redcaps", metadata=str(dump), samples_per_shard=200)
    shards = run(config)["shards_done"]
    root = Root(config.root)
    shard_counts = []
    for shard in range(shards):
        table = root.read_table("metadata", "redcaps", f"{shard:05d}.parquet", columns=["caption_raw"])
        shard_counts.append(Counter(dict(fields)["subreddit"] for fields in table["caption_raw"].to_pylist()))
    table = np.array([[counts[name] for name in sizes] for counts in shard_counts])
    for prefix in (3, shards // 4, shards // 2):
        parts = np.stack([table[:prefix].sum(axis=0), table[prefix:].sum(axis=0)])
        assert chi2_contingency(parts).pvalue > 0.01
    # all shards against each other, and the order of the files, which the test must be able to tell from a fair one
    assert chi2_contingency(table).pvalue > 0.01
    by_file = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    in_order = np.stack([np.bincount(part, minlength=len(sizes)) for part in np.array_split(by_file, shards)])
    assert chi2_contingency(in_order).pvalue < 1e-100
