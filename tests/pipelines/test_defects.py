"""The ten defects known of the reference scripts (D1 to D10), each as a test that it is not here.

They lose whole shards to one bad row, merge rows at a lone quote, enlarge pictures, ask one host without pause, and
keep no account of any of it. `local=True` runs the jobs in this process, over real HTTP on loopback.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from filters.errors import ShardError
from filters.stored import Recipe, store
from pipelines import download, ingest
from pipelines.engine import map_shards
from pipelines.job import Account
from pipelines.sources import SOURCES, quoted
from pipelines.sources.files import find_files
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import cc12m_dump, picture, picture_server
from tests.pipelines.source_dumps import (
    WIT_HEADER,
    annotation,
    captions,
    laion_dump,
    redcaps_dump,
    rows,
)


def ingested(folder: Path, dump: Path, **settings: Any) -> Root:
    config = ingest.IngestConfig(root=str(folder / "root"), source="cc12m", metadata=str(dump), **settings)
    ingest.run(config)
    return Root(config.root)


def downloaded(root: Root, server: Any, **fetch: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary of a download and its rows, by their lines in the dump."""
    settings: dict[str, Any] = {"backoff": 0.01, "deadline": 2.0, "limit": HostLimit(rate=None), **fetch}
    config = download.DownloadConfig(
        root=root.url, local=True, max_failed_fraction=1.0, fetch=FetchConfig(resolve=server.resolve, **settings)
    )
    summary = download.run(config)
    tables = [root.read_table("shards", s.source, f"{s.number}.parquet") for s in root.shards("shards")]
    return summary, sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["line"])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# D1: an exception in one row lost the whole shard of 1,000 rows, and nobody was told.


def test_d1_a_bad_picture_costs_one_row_and_not_its_shard(tmp_path: Path) -> None:
    root = ingested(tmp_path, cc12m_dump(tmp_path, 20), samples_per_shard=20)
    broken: dict[str, bytes] = {"/3.png": b"no picture", "/4.png": picture(4)[:90]}
    with picture_server({path: [(200, {}, body)] for path, body in broken.items()}) as server:
        summary, found = downloaded(root, server)
    assert [row["reason"] for row in found if row["line"] in (3, 4)] == ["decode", "decode"]
    assert sum(row["reason"] == "ok" for row in found) == 18
    assert (summary["rows_in"], sum(summary["counts"].values())) == (20, 20)


def test_d1_a_failed_shard_is_reported_and_tried_again(tmp_path: Path) -> None:
    root = ingested(tmp_path, cc12m_dump(tmp_path, 20), samples_per_shard=10)
    whole = root.read_bytes("metadata", "cc12m", "00001.parquet")
    with picture_server() as server:
        root.write_bytes(b"broken", "metadata", "cc12m", "00001.parquet")
        summary, found = downloaded(root, server)
        assert list(summary["shards_failed"]) == ["cc12m/00001"]
        assert len(found) == 10
        root.write_bytes(whole, "metadata", "cc12m", "00001.parquet")
        summary, found = downloaded(root, server)
    assert (summary["shards_skipped"], summary["shards_done"], summary["shards_failed"]) == (1, 1, {})
    assert len(found) == 20


def test_d1_what_a_worker_raises_is_named_and_takes_no_other_shard_with_it() -> None:
    def work(item: int) -> dict[str, Any]:
        if item == 1:
            raise ShardError("cannot")
        return {"rows": item}

    results = dict(map_shards([0, 1, 2], lambda: work, local=True))
    assert results == {0: {"rows": 0}, 1: {"error": "ShardError: cannot"}, 2: {"rows": 2}}
    account = Account("job")
    account.shards_failed["1"] = results[1]["error"]
    assert account.summary()["shards_failed"] == {"1": "ShardError: cannot"}


# D2: a null caption raised TypeError (and then D1); the tar stayed as it was and was taken for complete.


def test_d2_null_and_empty_captions_are_rows_without_captions(tmp_path: Path) -> None:
    laion = laion_dump(
        tmp_path, URL=pa.array(["http://a/1"]), TEXT=pa.nulls(1, pa.string()), NSFW=pa.array(["UNLIKELY"])
    )
    assert captions("laion", laion) == [[]]
    assert captions("redcaps", redcaps_dump(tmp_path, [annotation(1, None), annotation(2, "  ")])) == [[], []]
    cc12m = tmp_path / "cc12m.tsv"
    cc12m.write_text("http://a/1\t\nhttp://a/2\t \u3000\n")
    assert captions("cc12m", cc12m) == [[], []]
    assert [row["reason"] for row in rows("cc12m", cc12m)] == ["ok", "ok"]


def test_d2_a_null_caption_is_a_counted_skip(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_text("http://pictures.test/1.png\t\nhttp://pictures.test/2.png\ttwo\n")
    root = ingested(tmp_path, tmp_path)
    with picture_server() as server:
        summary, found = downloaded(root, server)
    assert [row["reason"] for row in found] == ["no_caption", "ok"]
    assert summary["counts"] == {"skipped": 1, "success": 1}
    assert "/1.png" not in server.seen


def test_d2_a_file_that_was_not_finished_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(str(tmp_path))

    def stops(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", stops)
    with pytest.raises(OSError, match="disk full"):
        root.write_bytes(b"a whole tar", "shards", "cc12m", "00000.tar")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# D3: a caption with `ohcb01` in it, to be left out, raised ValueError (and then D1).


def test_d3_a_blocked_caption_is_a_counted_skip(tmp_path: Path) -> None:
    texts = ["an ohcb01 caption", "OhCb01", "next", "a.b", "axb", ""]
    (tmp_path / "cc12m.tsv").write_text("".join(f"http://a/{n}\t{text}\n" for n, text in enumerate(texts)))
    config = ingest.IngestConfig(
        root=str(tmp_path / "root"), source="cc12m", metadata=str(tmp_path), caption_blocklist=["ohcb01", "a.b"]
    )
    assert ingest.run(config)["counts"] == {"caption_blocked": 3, "no_caption": 1, "ok": 2}
    found = Root(config.root).read_table("metadata", "cc12m", "00000.parquet").to_pylist()
    blocked = {row["line"]: row["caption"] for row in found if row["reason"] == "caption_blocked"}
    assert blocked == {0: texts[0], 1: texts[1], 3: texts[3]}


def test_d3_without_a_blocklist_it_is_text_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "cc12m.tsv"
    file.write_text("http://a/1\tan ohcb01 caption\nhttp://a/2\tnext\n")
    assert captions("cc12m", file) == [["an ohcb01 caption"], ["next"]]


# D4: RGBA, palette and grey-with-alpha pictures could not be written as JPEG (and then D1).


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "1", "I;16", "CMYK"])
def test_d4_every_mode_becomes_rgb_on_white(mode: str) -> None:
    """The left half is black; the right half is transparent where the mode has that, else white."""
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (16, 0, 32, 32))
    opaque = Image.alpha_composite(Image.new("RGBA", (32, 32), "white"), picture)
    if mode == "P":
        data = encoded(picture.quantize(4))
    elif mode == "PA":
        data = encoded(picture.quantize(4), "GIF", transparency=picture.quantize(4).getpixel((31, 0)))
    elif mode == "I;16":
        values = np.asarray(opaque.convert("L")).astype(np.uint16) * 257
        data = encoded(Image.fromarray(values))
    elif mode in ("RGBA", "LA"):
        data = encoded(picture.convert(mode))
    else:
        data = encoded(opaque.convert("RGB").convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(store(data, Recipe()).image)) as stored:
        assert (stored.mode, stored.format, stored.size) == ("RGB", "JPEG", (32, 32))
        pixels = np.asarray(stored)
    assert pixels[16, 4].max() < 12
    assert pixels[16, 28].min() > 243


# D5: the shuffled copy that one script wrote could not be read by the other.


def test_d5_redcaps_reads_both_shapes(tmp_path: Path) -> None:
    records = [annotation(n) for n in range(5)]
    whole = rows("redcaps", redcaps_dump(tmp_path, records, "a.json"))
    bare = rows("redcaps", redcaps_dump(tmp_path, records, "b.json", bare=True))
    assert [{**row, "file": ""} for row in whole] == [{**row, "file": ""} for row in bare]
    assert len(bare) == 5


# D6: pictures were enlarged, 400×100 to 1000×250.


@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"])
def test_d6_nothing_is_enlarged(mode: Any) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (100, 400, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(grain))
    made = store(data, Recipe(image_size=1000, resize_mode=mode, encode_format="png"))
    with Image.open(io.BytesIO(made.image)) as stored:
        pixels = np.asarray(stored.convert("RGB"))
    if mode == "border":
        # the frame has the size that was asked for, the picture in it has its own
        pixels = pixels[(pixels != 255).any(axis=(1, 2))][:, (pixels != 255).any(axis=(0, 2))]
    np.testing.assert_array_equal(pixels, grain)


# D7: a lone quote joined the rows after it, and `NA` or `null` became nothing.


@pytest.mark.parametrize("source", ["cc12m", "shutterstock"])
def test_d7_lone_quotes_merge_nothing_and_na_stays_text(tmp_path: Path, source: str) -> None:
    texts = ['"quoted start', "plain", 'end of quote"', "NA", "null", "NaN", "None", 'an "even" one', '"whole"']
    file = tmp_path / "d.tsv"
    file.write_text("".join(f"http://a/{n}\t{text}\n" for n, text in enumerate(texts)))
    assert captions(source, file) == [[text] for text in texts]


def test_d7_lone_quotes_in_wit_and_csv_merge_nothing(tmp_path: Path) -> None:
    texts = ['"quoted start', "plain", 'end of quote"', "NA", "null"]
    lines = [["en", "p", f"http://u/{n}", "", "", "", text, *[""] * 10] for n, text in enumerate(texts)]
    wit = tmp_path / "wit.tsv"
    wit.write_text("\n".join("\t".join(line) for line in [WIT_HEADER, *lines]) + "\n")
    assert captions("wit", wit) == [[text] for text in texts]
    shutterstock = tmp_path / "s.csv"
    shutterstock.write_text(
        "".join(f"http://a/{n},{text}\n" for n, text in enumerate(['"start', "plain", "NA", "null", 'a "b"']))
    )
    assert captions("shutterstock", shutterstock) == [['"start'], ["plain"], ["NA"], ["null"], ['a "b"']]


def test_d7_an_unclosed_quote_in_a_long_file_swallows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quoted, "MAX_RECORD_CHARS", 500)
    texts = ['"never closed', *(f"plain {n}" for n in range(100)), '"open at the end']
    file = tmp_path / "s.csv"
    file.write_text("".join(f"http://a/{n},{text}\n" for n, text in enumerate(texts)))
    assert captions("shutterstock", file) == [[text] for text in texts]


def test_d7_a_table_keeps_quotes_and_na_too(tmp_path: Path) -> None:
    texts = ['"quoted start', "plain", 'end of quote"', "NA", "null", "NaN"]
    (tmp_path / "t.tsv").write_text("url\ttext\n" + "".join(f"http://a/{n}\t{t}\n" for n, t in enumerate(texts)))
    assert captions("table", tmp_path / "t.tsv") == [[text] for text in texts]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["url", "text"], *([f"http://a/{n}", text] for n, text in enumerate(texts))])
    assert captions("table", tmp_path / "t.csv") == [[text] for text in texts]
    lines = [json.dumps({"url": f"http://a/{n}", "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert captions("table", tmp_path / "t.jsonl") == [[text] for text in texts]


# D8: the shuffle had no seed, made one file too many, and its files were listed in any order.


def test_d8_order_is_by_name_whatever_order_files_are_given_in(tmp_path: Path) -> None:
    names = ["cooking_2010.json", "art_2011.json", "art_2010.json"]
    files = [redcaps_dump(tmp_path, [annotation(n), annotation(n + 10)], name) for n, name in enumerate(names)]
    expected = [(name, line) for name in sorted(names) for line in (0, 1)]
    for given_order in (files, files[::-1]):
        assert [(row["file"], row["line"]) for row in rows("redcaps", *given_order)] == expected
    assert find_files(tmp_path, SOURCES["redcaps"].patterns) == sorted(str(file) for file in files)


def test_d8_the_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 40)
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        root = ingested(tmp_path / name, dump, seed=seed)
        orders.append(root.read_table("metadata", "cc12m", "00000.parquet")["uid"].to_pylist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(("records", "shards"), [(1, 1), (9, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
def test_d8_as_many_shards_as_the_rows_fill(tmp_path: Path, records: int, shards: int) -> None:
    root = ingested(tmp_path, cc12m_dump(tmp_path, records), samples_per_shard=10)
    sizes = [root.read_table("metadata", "cc12m", f"{n:05d}.parquet").num_rows for n in range(shards)]
    assert (len(root.names("metadata", "cc12m")), sum(sizes)) == (shards, records)
    assert all(size == 10 for size in sizes[:-1])


class Clocked(list[str]):
    """The paths that a server was asked for, and the seconds at which it was."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, path: str) -> None:
        super().append(path)
        self.times.append(time.monotonic())


# D9: the pause for a busy host was computed and never made; files were named after URLs, in the current folder.


def test_d9_a_host_is_asked_no_faster_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = ingested(tmp_path, cc12m_dump(tmp_path, 12), samples_per_shard=6)
    rate = 20.0
    with picture_server() as server:
        server.seen = Clocked()
        summary, _ = downloaded(root, server, limit=HostLimit(rate=rate, concurrency=2), deadline=20.0)
        asked = server.seen.times
    assert summary["counts"] == {"success": 12}
    # by the server's own clock; a tenth is left for what delays the first request and not the last
    assert asked[-1] - asked[0] > 0.9 * (len(asked) - 1) / rate
    assert list((tmp_path / "here").iterdir()) == []


# D10: half a second for each picture and no second try kept the fast hosts only, and did not say so.


def test_d10_a_slow_host_is_waited_for_and_a_lost_one_is_named(tmp_path: Path) -> None:
    lines = [f"http://{host}.test/{n}.png\tpicture\n" for n in range(4) for host in ("slow", "gone")]
    (tmp_path / "cc12m.tsv").write_text("".join(lines))
    root = ingested(tmp_path, tmp_path)
    with picture_server() as server:
        server.delay = 0.7
        answers = {"slow.test": server.resolve["*.test"], "gone.test": "127.0.0.1:9"}
        server.resolve = answers
        summary, found = downloaded(root, server, deadline=10.0)
    assert {row["reason"] for row in found if "slow" in row["url"]} == {"ok"}
    assert summary["failures"]["connection"]["hosts"] == {"gone.test": 4}


def test_d10_what_failed_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    root = ingested(tmp_path, cc12m_dump(tmp_path, 2))
    with picture_server({"/1.png": [(503, {}, b""), (503, {}, b""), (200, {}, picture(1))]}) as server:
        _, found = downloaded(root, server)
    assert [row["reason"] for row in found] == ["ok", "ok"]
    assert server.seen.count("/1.png") == 3
