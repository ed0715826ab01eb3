"""Made-up photographs with captions, as shards that every loader of the comparison reads, and as single files."""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from benchmarks.score import caption_lengths
from benchmarks.served import picture
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import Sample, key_of, write_shard

Format = Literal["jpg", "webp"]
SOURCE, ROWS, SHARE = "photos", 256, 0.1
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Corpus:
    """`count` pairs whose pictures have `side` pixels each way, below `folder`.

    Everything is a function of these numbers. `distinct` pictures take turns; every caption is another one.
    """

    folder: Path
    side: int
    format: Format
    count: int
    distinct: int

    @property
    def shards_root(self) -> Path:
        """Where the shards lie, a folder a source, as the mixture's manifests have it."""
        return self.folder / "shards"

    @property
    def tars(self) -> list[str]:
        """The shards' tars, in img2dataset's layout."""
        return sorted(map(str, (self.shards_root / SOURCE).glob("*.tar")))

    @property
    def files(self) -> Path:
        """The same pictures as files, in folders of classes."""
        return self.folder / "files"

    def manifest(self, part: bool) -> Path:
        """The mixture of all pairs, or of the tenth."""
        return self.folder / ("tenth.parquet" if part else "all.parquet")

    def chosen(self) -> set[str]:
        """Keys of the tenth."""
        return set(pq.read_table(self.manifest(part=True), columns=["key"])["key"].to_pylist())


def make(corpus: Corpus) -> Corpus:
    """Write everything of a corpus, once."""
    if not corpus.manifest(part=True).exists():
        root, pictures = Root(str(corpus.folder)), _pictures(corpus)
        for number in range(math.ceil(corpus.count / ROWS)):
            samples = list(_samples(corpus, pictures, number))
            write_shard(root, ShardId(SOURCE, f"{number:05d}"), samples, corpus.format, "loader", {})
            for index, sample in enumerate(samples):
                folder = corpus.files / f"{index % 10}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{sample.row['key']}.{corpus.format}").write_bytes(sample.image or b"")
        _write_manifests(corpus)
    return corpus


def encoded(side: int, format: Format, number: int) -> bytes:
    """Photograph `number`: 256 pixels take 20 KB, 512 some 70, 1,024 some 260."""
    image, out = Image.fromarray(picture(np.random.default_rng([side, number]), side, side)), io.BytesIO()
    image.save(out, "JPEG" if format == "jpg" else "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()


def _pictures(corpus: Corpus) -> list[bytes]:
    return [encoded(corpus.side, corpus.format, number) for number in range(corpus.distinct)]


@functools.cache
def _words() -> list[str]:
    """The 3,000 most frequent words of the tokenizer, each one token: so many are soon known to any of the sides."""
    encoder = SimpleTokenizer().encoder
    words = [word[:-4] for word in encoder if word.endswith("</w>") and word.isascii() and word[:-4].islower()]
    return [word for word in words if len(word) > 1][:3000]


def _samples(corpus: Corpus, pictures: list[bytes], shard: int) -> Iterator[Sample]:
    first = shard * ROWS
    count = min(ROWS, corpus.count - first)
    lengths, rng, words = caption_lengths(count, seed=shard), np.random.default_rng(shard), _words()
    for index, length in enumerate(lengths.tolist()):
        data = pictures[(first + index) % len(pictures)]
        # The frequent words are the first ones, and are drawn most often.
        drawn = (rng.random(length - 2) ** 3 * len(words)).astype(int)
        caption = " ".join([*(words[number] for number in drawn.tolist()), str(first + index)])
        uid = hashlib.sha256(caption.encode()).hexdigest()[:32]
        row = {
            "caption": caption,
            "url": f"https://example.org/{uid}.{corpus.format}",
            "key": key_of(ShardId(SOURCE, f"{shard:05d}"), index, ROWS),
            "width": corpus.side,
            "height": corpus.side,
            "original_width": corpus.side,
            "original_height": corpus.side,
            "exif": "{}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "uid": uid,
            "uid_lo": int(uid[16:], 16),
            "source": SOURCE,
            "reason": "ok",
            "attempt": 0,
        }
        yield Sample(row, data)


def _write_manifests(corpus: Corpus) -> None:
    parts = sorted((corpus.shards_root / SOURCE).glob("*.parquet"))
    names = ["uid", "source", "shard", "offset", "size", "caption", "key"]
    table = pa.concat_tables(pq.read_table(path, columns=names) for path in parts)
    table = table.append_column("repeat", pa.array(np.zeros(len(table), np.int32)))
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[: round(SHARE * len(table))])
    pq.write_table(table, corpus.manifest(part=False))
    pq.write_table(table.take(chosen), corpus.manifest(part=True))
