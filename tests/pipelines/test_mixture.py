"""Mixtures: exact counts, hash order, nesting, repeats, shortages, rules, and the lock file."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from filters.errors import ConfigError, InputError
from filters.sampling import salt, sample_order, sample_order_sql
from pipelines.draw import build_mix, survey
from pipelines.ingest import uid_of
from pipelines.manifest import content_digest, uid_pairs
from pipelines.mixture import MixConfig, MixSource, shares
from pipelines.rules import find_rules
from pipelines.store.presets import macros
from pipelines.store.schema import MANIFEST

SOURCES = ("yfcc", "laion", "wit")
THERE = 100


def catalog(order: int = 1) -> duckdb.DuckDBPyConnection:
    """100 successes a source with scores 0 to 0.99, every tenth a duplicate, every twentieth in an evaluation set."""
    rows = []
    for source, i in itertools.product(SOURCES, range(THERE)):
        uid = uid_of(source, str(i), "", [])
        rows.append({
            "uid": uid, "uid_lo": int(uid[16:], 16), "source": source, "shard": "00000", "offset": i, "size": 1,
            "status": "success", "caption": f"{source} {i}", "clip_score": i / 100,
            "duplicate_of": "x" if i % 10 == 0 else None, "eval_set": "e" if i % 20 == 1 else None,
            "kind": "near" if i % 10 == 0 else None,
        })  # fmt: skip
        rows.append({**rows[-1], "uid": uid[::-1], "status": "failed_to_download", "clip_score": None})
    con = duckdb.connect()
    con.execute(sample_order_sql())
    con.register("given", pa.Table.from_pylist(rows[::order], _SAMPLES))
    con.execute("CREATE TABLE samples AS FROM given")
    return con


_SAMPLES = pa.schema([
    ("uid", pa.string()), ("uid_lo", pa.uint64()), ("source", pa.string()), ("shard", pa.string()),
    ("offset", pa.int64()), ("size", pa.int64()), ("status", pa.string()), ("caption", pa.string()),
    ("clip_score", pa.float32()), ("duplicate_of", pa.string()), ("eval_set", pa.string()),
    ("kind", pa.string()),
])  # fmt: skip
SOUND = [n for n in range(THERE) if n % 10 != 0 and n % 20 != 1]
LEFT = THERE - 10 - 5  # successes without duplicates and evaluation overlap


def mix(total: int, *weights: float, **fields: object) -> MixConfig:
    sources = [MixSource(source=s, weight=w) for s, w in zip(SOURCES, weights or (1, 1, 1), strict=False)]
    return MixConfig.model_validate({"name": "m", "total": total, "sources": sources, **fields})


def attrition(con: duckdb.DuckDBPyConnection, config: MixConfig) -> list[dict[str, Any]]:
    return survey(con, find_rules(con, config)).attrition


def counts(manifest: pa.Table) -> dict[str, int]:
    return dict(Counter(manifest["source"].to_pylist()))


def test_golden_order_in_numpy_and_sql() -> None:
    """The order may never change: a mixture is rebuilt from its seed."""
    assert salt("mix", 7) == 14672823534071088304
    numbers = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    golden = [15099622472908293767, 10527228803409254367, 4220426520356244508, 12214978288069465202]
    assert sample_order(numbers, salt("mix", 7)).tolist() == golden
    with duckdb.connect() as con:
        con.execute(sample_order_sql())
        query = f"SELECT sample_order(unnest(?::UBIGINT[]), {salt('mix', 7)}::UBIGINT)"
        assert [row[0] for row in con.execute(query, [numbers.tolist()]).fetchall()] == golden


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=3), st.integers(1, 10_000))
def test_shares_meet_weights_within_one_sample(weights: list[float], total: int) -> None:
    asked = shares(mix(total, *weights))
    exact = np.array(weights) / sum(weights) * total
    assert sum(asked) == total
    assert np.abs(np.array(asked) - exact).max() < 1


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 3 * LEFT), st.integers(3, 3 * LEFT))
def test_a_smaller_total_is_a_subset(seed: int, first: int, second: int) -> None:
    con = catalog()
    # Multiples of three: with equal weights each source's count then grows with the total.
    small, large = (build_mix(con, mix(n - n % 3, seed=seed)) for n in sorted((first, second)))
    assert set(small["uid"].to_pylist()) <= set(large["uid"].to_pylist())


def test_counts_are_exact_and_rules_hold() -> None:
    manifest = build_mix(catalog(), mix(120, 3, 2, 1))
    assert counts(manifest) == {"yfcc": 60, "laion": 40, "wit": 20}
    assert manifest.schema.equals(MANIFEST.arrow)
    numbers = [int(caption.split()[1]) for caption in manifest["caption"].to_pylist()]
    assert not [n for n in numbers if n % 10 == 0 or n % 20 == 1]
    assert len(set(manifest["uid"].to_pylist())) == 120


def test_exclusions_can_be_switched_off() -> None:
    manifest = build_mix(catalog(), mix(300, exclude_duplicates=False, exclude_eval_overlap=False))
    assert manifest.num_rows == 300


def test_threads_and_insertion_order_change_nothing() -> None:
    digests = set()
    for threads, order in itertools.product((1, 2, 8), (1, -1)):
        con = catalog(order)
        con.execute(f"SET threads = {threads}")
        digests.add(content_digest(build_mix(con, mix(200))))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("total", "fields", "digest"),
    [
        (200, {}, "32169ad887d4d297beaa17020faff0186c9e70f1b5b9b9ca2139696dfd822607"),
        (90, {"seed": 7}, "8f692d4bd1a74df3ac89c9a4318cc6d5049acebc2270d1c5ebb267dff8505381"),
        (300, {"on_shortage": "truncate"}, "a73b1098193d6d2658a9bc514ea1c70c4529675e4f0b089c0af7c79cfd506b41"),
        (
            180,
            {"on_shortage": "repeat", "sources": [{"source": "yfcc", "max_repeats": 3}]},
            "2220609f658c48e089f48379dba02fbcddcd55e6ca64df3a99085d62b1bb07c2",
        ),
        (
            60,
            {"on_shortage": "truncate", "top_fraction": 0.3, "top_scope": "global"},
            "f20ededd4d05e2e8d2bc9d8320616ddb454f7f48ac28fa272cf971ac1603697c",
        ),
    ],
)
def test_golden_digests(total: int, fields: dict[str, Any], digest: str) -> None:
    """A seed's samples, their order and the digest over them may never change: results hang on them."""
    assert content_digest(build_mix(catalog(), mix(total, **fields))) == digest


def test_seeds_differ_and_no_source_stands_in_a_block() -> None:
    con = catalog()
    first, second = (build_mix(con, mix(90, seed=seed)) for seed in (0, 1))
    assert first["uid"].to_pylist() != second["uid"].to_pylist()
    assert len(set(first["source"].to_pylist()[:20])) == 3


def test_shortage_names_every_source() -> None:
    with pytest.raises(InputError) as caught:
        build_mix(catalog(), mix(600, 2, 2, 0.2))
    assert f"yfcc: 286 asked, {LEFT} there; laion: 286 asked, {LEFT} there" in str(caught.value)
    assert "wit:" not in str(caught.value)


def test_truncate_takes_what_is_there() -> None:
    assert counts(build_mix(catalog(), mix(600, on_shortage="truncate"))) == dict.fromkeys(SOURCES, LEFT)


def test_repeat_spreads_uses_evenly_and_stops_at_max_repeats() -> None:
    sources = [MixSource(source="yfcc", max_repeats=3)]
    config = mix(2 * LEFT + 10, sources=sources, on_shortage="repeat")
    manifest = build_mix(catalog(), config)
    uses = Counter(manifest["uid"].to_pylist())
    assert Counter(uses.values()) == {3: 10, 2: LEFT - 10}
    assert Counter(manifest["repeat"].to_pylist()) == {0: LEFT, 1: LEFT, 2: 10}
    with pytest.raises(InputError, match="not enough samples"):
        build_mix(catalog(), config.model_copy(update={"total": 3 * LEFT + 1}))


def test_top_fraction_follows_datacomps_rule() -> None:
    """The threshold is the score at int(n × f) from the top, and it stays: n × f + 1 rows without ties."""
    sources = [MixSource(source="yfcc", top_fraction=0.3)]
    manifest = build_mix(catalog(), mix(100, sources=sources, on_shortage="truncate"))
    assert manifest.num_rows == int(LEFT * 0.3) + 1
    found = {int(caption.split()[1]) for caption in manifest["caption"].to_pylist()}
    assert found == set(SOUND[-manifest.num_rows :])


def test_samples_without_a_score_do_not_move_the_threshold() -> None:
    con = catalog()
    con.execute("UPDATE samples SET clip_score = NULL WHERE clip_score < 0.6")
    scored = [n for n in range(60, THERE) if n % 10 != 0 and n % 20 != 1]
    sources = [MixSource(source="yfcc", top_fraction=0.75)]
    manifest = build_mix(con, mix(100, sources=sources, on_shortage="truncate"))
    assert manifest.num_rows == int(len(scored) * 0.75) + 1


def kept(con: duckdb.DuckDBPyConnection, config: MixConfig) -> dict[str, set[int]]:
    """Numbers of the samples that a mixture takes, by source."""
    found: dict[str, set[int]] = {}
    for caption in build_mix(con, config)["caption"].to_pylist():
        found.setdefault(caption.split()[0], set()).add(int(caption.split()[1]))
    return found


def test_the_mixtures_top_fraction_is_for_sources_without_their_own() -> None:
    sources = [MixSource(source="yfcc"), MixSource(source="laion", top_fraction=0.1)]
    found = kept(catalog(), mix(300, sources=sources, top_fraction=0.5, on_shortage="truncate"))
    assert found == {"yfcc": set(SOUND[-int(LEFT * 0.5) - 1 :]), "laion": set(SOUND[-int(LEFT * 0.1) - 1 :])}


def test_a_global_threshold_is_that_of_all_sources_together() -> None:
    con = catalog()
    con.execute("UPDATE samples SET clip_score = clip_score / 2 WHERE source = 'wit'")
    config = mix(300, top_fraction=0.3, top_scope="global", on_shortage="truncate", where="clip_score > 0.1")
    scores = {s: [n / (200 if s == "wit" else 100) for n in SOUND] for s in SOURCES}
    pool = np.sort([np.float32(x) for some in scores.values() for x in some if np.float32(x) > 0.1])[::-1]
    cut = find_rules(con, config).cuts["wit"]
    threshold = pool[int(len(pool) * 0.3)]
    assert (cut.scored, cut.threshold) == (len(pool), threshold)
    expected = {
        s: {n for n, x in zip(SOUND, some, strict=True) if np.float32(x) >= threshold} for s, some in scores.items()
    }
    assert kept(con, config) == {s: numbers for s, numbers in expected.items() if numbers}
    rows = attrition(con, config)
    assert [row["steps"][-1] for row in rows] == [["top_global", len(expected[s])] for s in SOURCES]


def test_top_fraction_goes_by_any_score_column() -> None:
    con = catalog()
    con.execute("ALTER TABLE samples ADD COLUMN other DOUBLE; UPDATE samples SET other = -clip_score")
    config = mix(100, sources=[MixSource(source="yfcc")], top_fraction=0.1, top_score="other", on_shortage="truncate")
    assert kept(con, config) == {"yfcc": set(SOUND[: int(LEFT * 0.1) + 1])}
    (row,) = attrition(con, config)
    assert row["steps"][-1] == ["top_in_source", int(LEFT * 0.1) + 1]
    for wrong, says in (("nope", "'nope' is no column"), ("caption", "'caption' is VARCHAR")):
        with pytest.raises(ConfigError, match=says):
            build_mix(con, config.model_copy(update={"top_score": wrong}))


def test_ties_at_the_threshold_stay() -> None:
    con = catalog()
    con.execute("UPDATE samples SET clip_score = 0.5 WHERE clip_score >= 0.5")
    for scope in ("source", "global"):
        found = kept(con, mix(300, top_fraction=0.1, top_scope=scope, on_shortage="truncate"))
        assert found == {source: {n for n in SOUND if n >= 50} for source in SOURCES}


def test_without_any_score_nothing_is_among_the_best() -> None:
    con = catalog()
    con.execute("UPDATE samples SET clip_score = NULL")
    for scope in ("source", "global"):
        with pytest.raises(InputError, match="no source has a single sample"):
            build_mix(con, mix(3, top_fraction=0.5, top_scope=scope, on_shortage="truncate"))


def test_a_global_threshold_needs_one_fraction() -> None:
    with pytest.raises(ValueError, match="a global threshold needs the mixture's `top_fraction`"):
        mix(3, top_scope="global")
    with pytest.raises(ValueError, match="there is one `top_fraction`, the mixture's"):
        mix(3, top_scope="global", top_fraction=0.5, sources=[MixSource(source="wit", top_fraction=0.5)])


def test_presets_in_conditions_are_the_same_with_any_number_of_threads() -> None:
    sources = [
        MixSource(source="yfcc", where="clip_top(samples, 0.5, score := 'clip_score')"),
        MixSource(source="laion", where="clip_top_in_source(samples, 0.4, 'clip_score') OR keep(uid_lo, 1, 0.3)"),
    ]
    config = mix(60, sources=sources, where="keep(uid_lo, 7, 0.9)", on_shortage="truncate")
    digests = set()
    for threads, order in itertools.product((1, 2, 8), (1, -1)):
        con = catalog(order)
        con.execute("CREATE TABLE entries (entry INTEGER, text VARCHAR, matches BIGINT)")
        for statement in macros([], ["clip_score"]):
            con.execute(statement)
        con.execute(f"SET threads = {threads}")
        manifest = build_mix(con, config)
        digests.add(content_digest(manifest))
        assert [row["got"] for row in attrition(con, config)] == [30, counts(manifest)["laion"]]
    assert len(digests) == 1
    with pytest.raises(
        ConfigError, match=r"mixture m: `where`: datacomp_basic needs the columns language.*headwater signals"
    ):
        build_mix(con, mix(3, where="datacomp_basic(samples)"))


def test_a_caption_column_may_have_any_name() -> None:
    con = catalog()
    con.execute("""ALTER TABLE samples RENAME caption TO "a ""b"" c" """)
    manifest = build_mix(con, mix(3, sources=[MixSource(source="yfcc", caption='a "b" c')]))
    assert all(caption.startswith("yfcc") for caption in manifest["caption"].to_pylist())
    with pytest.raises(ConfigError, match="nope"):
        build_mix(con, mix(3, sources=[MixSource(source="yfcc", caption="nope")]))


def test_fewer_samples_than_sources_and_tiny_weights() -> None:
    assert counts(build_mix(catalog(), mix(1))) == {"yfcc": 1}
    assert counts(build_mix(catalog(), mix(10, 1e-300, 1, 1))) == {"laion": 5, "wit": 5}


def test_an_unknown_source_and_an_empty_mixture_are_said() -> None:
    with pytest.raises(InputError, match="source 'flickr' is not in the catalog; there is laion, wit, yfcc"):
        build_mix(catalog(), mix(3, sources=[MixSource(source="flickr")]))
    with pytest.raises(InputError, match="no source has a single sample"):
        build_mix(catalog(), mix(3, where="false", on_shortage="truncate"))


def test_attrition_counts_each_rule() -> None:
    con = catalog()
    config = mix(30, where="clip_score >= 0.5", sources=[MixSource(source="yfcc", where="clip_score < 0.9")])
    (row,) = attrition(con, config)
    assert (row["source"], row["asked"], row["got"]) == ("yfcc", 30, 30)
    assert row["steps"] == [
        ["records", 200], ["success", 100], ["has_caption", 100], ["not_duplicate", 90],
        ["not_in_evaluation", LEFT], ["where", 43], ["source_where", 34],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("clip_scor > 0.3", "clip_scor"),
        ("clip_score >", "not one SQL condition"),
        ("1; SELECT 2", "not one SQL condition"),
        ("read_text('/etc/passwd') IS NOT NULL", "read_text"),
        ("nosuchfunction(uid)", "nosuchfunction"),
    ],
)
def test_conditions_that_are_none(where: str, says: str) -> None:
    with pytest.raises((ConfigError, ValueError), match="(?s)" + says):
        build_mix(catalog(), mix(30, where=where))


def test_uid_pairs_are_datacomps() -> None:
    uids = ["0" * 15 + "2" + "f" * 16, "0" * 15 + "1" + "0" * 15 + "7", "0" * 15 + "1" + "0" * 15 + "7"]
    pairs = uid_pairs(pa.chunked_array([uids]))
    assert pairs.dtype == np.dtype("u8,u8")
    assert pairs.tolist() == [(1, 7), (1, 7), (2, 2**64 - 1)]


def test_manifest_files_are_the_same_in_two_roots(tmp_path: Path) -> None:
    from pipelines.store.root import Root

    found = []
    for name in ("a", "b"):
        root = Root(str(tmp_path / name))
        root.write_table(build_mix(catalog(), mix(60)), "mixes", "m", "manifest.parquet")
        found.append(root.read_bytes("mixes", "m", "manifest.parquet"))
    assert found[0] == found[1]
