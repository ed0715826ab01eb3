"""A data root on S3: the same files and answers as a local one, whoever reads or writes it at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import build_mix, dedupe, download, index, ingest, verify_mix
from pipelines.store.catalog import connect
from pipelines.store.root import Root
from pipelines.web.config import FetchConfig, HostLimit
from tests.pipelines.chain import cc12m_dump, picture, picture_server
from tests.pipelines.s3 import BUCKET, Server, s3_server

pytest.importorskip("moto")
ROWS = 10
# Views as SQL answers them; what says when or where is left out.
VIEWS = (
    "SELECT * FROM samples ORDER BY ALL", "SELECT * FROM attempts ORDER BY ALL", "FROM sources", "FROM shards",
    "SELECT * FROM mixture_samples ORDER BY ALL", "FROM mixtures", "FROM columns", "FROM presets",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


def fill(root: str, folder: Path) -> None:
    """Shards of pictures over HTTP, and verdicts, with an evaluation set of one of them."""
    Root(root).write_bytes(picture(3), "eval", "held", "3.png")
    metadata = str(cc12m_dump(folder, ROWS))
    ingest.run(ingest.IngestConfig(root=root, source="cc12m", metadata=metadata, samples_per_shard=4))
    with picture_server({"/1.png": [(404, {}, b"")]}) as web:
        fetch = FetchConfig(resolve=web.resolve, limit=HostLimit(rate=None))
        download.run(download.DownloadConfig(root=root, local=True, encode_format="png", fetch=fetch))
    dedupe.run(dedupe.DedupeConfig(root=root, local=True, tasks="eval"))


def mix(root: str) -> dict[str, Any]:
    index.run(index.IndexConfig(root=root))
    page = {"root": root, "name": "m", "total": 6, "sources": [{"source": "cc12m"}]}
    done = build_mix.run(build_mix.MixJobConfig.model_validate(page))
    index.run(index.IndexConfig(root=root))
    return done


def answers(root: Root) -> list[Any]:
    with connect(root) as con:
        return [con.execute(query).fetchall() for query in VIEWS]


@pytest.fixture(scope="module")
def roots(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Root]:
    """The same chain on a local root and on one in a bucket, up to a mixture."""
    found = []
    for name in ("local", "elsewhere"):
        folder = tmp_path_factory.mktemp(name)
        url = str(folder) if name == "local" else f"s3://{BUCKET}/data"
        fill(url, folder)
        mix(url)
        found.append(Root(url))
    return found[0], found[1]


def test_the_chain_gives_the_same_files_and_answers_as_on_a_local_root(roots: tuple[Root, Root]) -> None:
    local, elsewhere = roots
    for folder in (("metadata", "cc12m"), ("shards", "cc12m"), ("mixes", "m")):
        names = [name for name in local.names(*folder) if not name.endswith("_stats.json")]
        assert names
        assert names == [name for name in elsewhere.names(*folder) if not name.endswith("_stats.json")]
        for name in names:
            if name != "mix.lock.json":
                assert local.read_bytes(*folder, name) == elsewhere.read_bytes(*folder, name), name
    locks = [root.read_json("mixes", "m", "mix.lock.json") for root in roots]
    assert locks[0]["digest"] == locks[1]["digest"]
    assert answers(local) == answers(elsewhere)
    assert verify_mix.verify(elsewhere, "m")["verified"]
