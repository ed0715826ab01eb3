"""Error pages that a server sends as pictures are known by their many URLs, and no mixture takes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from filters.errors import InputError
from pipelines import build_mix, dedupe, download, index
from pipelines.sql import explain
from pipelines.store.catalog import connect
from tests.pipelines.chain import picture, picture_server
from tests.pipelines.test_download import prepare, settings

ROWS, GONE = 12, (1, 4, 6, 9)


def test_no_mixture_takes_a_placeholder_and_explain_says_why(tmp_path: Path) -> None:
    root = prepare(tmp_path, rows=ROWS)
    with picture_server({f"/{n}.png": [(200, {}, picture(99))] for n in GONE}) as server:
        download.run(settings(root, server))
    counts = dedupe.run(dedupe.DedupeConfig(root=root.url, placeholder_urls=len(GONE) - 1))["counts"]
    assert counts == {"placeholder": len(GONE), "unique": ROWS - len(GONE)}
    index.run(index.IndexConfig(root=root.url))
    mix = {"root": root.url, "name": "m", "sources": [{"source": "cc12m"}]}
    with pytest.raises(InputError, match="8 there"):
        build_mix.run(build_mix.MixJobConfig.model_validate({**mix, "total": ROWS}))
    build_mix.run(build_mix.MixJobConfig.model_validate({**mix, "total": ROWS - len(GONE)}))
    index.run(index.IndexConfig(root=root.url))
    with connect(root) as con:
        uids = [uid for (uid,) in con.execute("SELECT uid FROM samples WHERE kind = 'placeholder'").fetchall()]
        locks = {"m": root.read_json("mixes", "m", "mix.lock.json")}
        assert {explain(con, uid, locks)["mixtures"]["m"] for uid in uids} == {
            "out: placeholder, many other URLs gave the same bytes"
        }
        assert con.execute(
            "SELECT count(*) FROM mixture_samples JOIN samples USING (uid) WHERE url SIMILAR TO '.*/(1|4|6|9).png'"
        ).fetchone() == (0,)
