"""Mixtures against a second way to draw them, in plain Python, over weights, shortages, repeats and seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from filters.sampling import salt, sample_order
from pipelines import manifest
from pipelines.draw import build_mix, draw, survey
from pipelines.mixture import MixConfig, shares
from pipelines.rules import find_rules
from tests.pipelines.test_expression import fill
from tests.pipelines.test_mixture import LEFT, SOUND, catalog

SOURCES = ("yfcc", "laion", "wit")
CON = catalog()
WEIGHTS = st.lists(st.decimals("0.1", "9.9", places=1).map(float), min_size=1, max_size=3)
Row = tuple[str, int]


def config(total: int, weights: list[float], repeats: int | None, seed: int, on_shortage: str) -> MixConfig:
    sources = [
        {"source": source, "weight": weight, "max_repeats": repeats}
        for source, weight in zip(SOURCES, weights, strict=False)
    ]
    return MixConfig.model_validate(
        {"name": "m", "total": total, "seed": seed, "on_shortage": on_shortage, "sources": sources}
    )


def rows(table: pa.Table) -> list[Row]:
    return list(zip(table["uid"].to_pylist(), table["repeat"].to_pylist(), strict=True))


def order(number: int, purpose: str, seed: int) -> int:
    return int(sample_order(np.array([number % 2**64], np.uint64), salt(purpose, seed))[0])


def by_hand(mix: MixConfig, most: int | None) -> list[Row]:
    """What each source has that is sound, in the order of its keys, pass after pass; then all in the mixture's."""
    found: list[Row] = []
    for source, asked in zip(mix.sources, shares(mix), strict=True):
        held = CON.execute(
            "SELECT uid, caption FROM samples WHERE source = ? AND status = 'success'", [source.source]
        ).fetchall()
        uids = [uid for uid, caption in held if int(caption.split()[1]) in SOUND]
        uids.sort(key=lambda uid: (order(int(uid[16:], 16), "mix", mix.seed), uid))
        there = asked if most is None else min(asked, most * len(uids))
        found += [(uids[i % len(uids)], i // len(uids)) for i in range(there)]
    found.sort(key=lambda row: (order(int(row[0][16:], 16) + row[1], "mix-order", mix.seed), *row))
    return found


@hypothesis_settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.integers(1, LEFT), st.integers(0, 2**32))
def test_without_shortage(weights: list[float], total: int, seed: int) -> None:
    mix = config(total, weights, 1, seed, "error")
    assert rows(build_mix(CON, mix)) == by_hand(mix, 1)


@hypothesis_settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.integers(1, 5 * LEFT), st.integers(0, 2**32))
def test_cut_short(weights: list[float], total: int, seed: int) -> None:
    mix = config(total, weights, 3, seed, "truncate")
    found = rows(build_mix(CON, mix))
    assert found == by_hand(mix, 1)
    assert len(found) == sum(min(asked, LEFT) for asked in shares(mix))


@hypothesis_settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.integers(1, 6 * LEFT), st.integers(0, 2**32))
def test_repeated(weights: list[float], total: int, seed: int) -> None:
    mix = config(total, weights, None, seed, "repeat")
    found = rows(build_mix(CON, mix))
    assert found == by_hand(mix, None)
    assert len(found) == total
    uses = Counter(uid for uid, _ in found)
    assert all(found.count((uid, repeat)) == 1 for uid, n in list(uses.items())[:5] for repeat in range(n))


@hypothesis_settings(max_examples=25, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32), st.sets(st.integers(1, 4 * LEFT), min_size=2, max_size=4))
def test_subsets_are_nested_for_any_weights(weights: list[float], seed: int, totals: set[int]) -> None:
    drawn = [set(rows(build_mix(CON, config(total, weights, None, seed, "repeat")))) for total in sorted(totals)]
    assert all(small <= large for small, large in itertools.pairwise(drawn))


def test_bytes_are_the_same_with_any_number_of_threads_and_any_order_of_rows() -> None:
    """Three row groups, three sources, repeats; the digest is a golden value."""
    found = set()
    for threads, backwards in itertools.product((1, 2, 8), (False, True)):
        con = duckdb.connect(config={"threads": threads})
        found.add(written(con, backwards))
        con.close()
    ((digest, _),) = found
    assert digest == "bde80458099ee30a7653ad77a451fdf763e3edb3574978b1020c14f4e5676161"


def written(con: duckdb.DuckDBPyConnection, backwards: bool) -> tuple[str, str]:
    fill(con)
    con.execute(f"""DELETE FROM samples; INSERT INTO samples
        SELECT md5(i::VARCHAR), ('0x' || md5(i::VARCHAR)[17:])::UBIGINT, ['ant', 'bee', 'cat'][1 + i % 3], '00000', i,
            1, 'success', 'caption ' || i, NULL, i / 1e6, 'en', [1], NULL, NULL, NULL
        FROM range(90000) t(i) ORDER BY i {"DESC" if backwards else ""}""")
    sources: list[dict[str, Any]] = [
        {"source": source, "weight": weight, "max_repeats": None}
        for source, weight in (("ant", 1), ("bee", 2), ("cat", 0.5))
    ]
    mix = MixConfig.model_validate(
        {"name": "m", "total": 105_000, "where": '"offset" < 80000', "on_shortage": "repeat", "sources": sources}
    )
    content, sha256 = manifest.write(draw(con, survey(con, find_rules(con, mix))), None, {})
    assert content.counts == {"ant": 30_000, "bee": 60_000, "cat": 15_000}
    return content.digest, sha256
