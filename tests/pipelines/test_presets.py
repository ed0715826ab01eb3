"""Presets: each one's truth table by hand, DataComp's rule for ties and quantiles, nulls, and what lacks signals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from filters.entries import entry_counts, keep_probability
from filters.sampling import salt, sample_order
from pipelines.store.presets import B32, L14, PRESETS, digest, macros, section

COLUMNS = pa.schema([
    ("uid", pa.string()), ("uid_lo", pa.uint64()), ("source", pa.string()), ("clip_score", pa.float32()),
    ("caption", pa.string()), (B32, pa.float32()), (L14, pa.float32()),
    ("caption_words", pa.int32()), ("caption_chars", pa.int32()),
    ("language", pa.string()), ("text_based", pa.bool_()), ("image_based", pa.bool_()),
    ("entries", pa.list_(pa.int32())), ("original_bytes", pa.int64()), ("original_width", pa.int32()),
    ("original_height", pa.int32()), ("frames", pa.int32()), ("entropy", pa.float32()), ("contrast", pa.float32()),
])  # fmt: skip
SCORES = ["clip_score", B32, L14]
# A pair that is good enough for every preset of a row alone.
GOOD = {
    B32: 0.35, "caption": "a dog and cats", "caption_words": 4,
    "caption_chars": 20, "language": "en", "text_based": True, "image_based": True,
    "original_bytes": 50_000, "original_width": 640, "original_height": 480, "frames": 1, "entropy": 6.0,
    "contrast": 0.2,
}  # fmt: skip


def catalog(rows: list[dict[str, Any]], counts: list[int] | None = None) -> duckdb.DuckDBPyConnection:
    """Samples with only the columns that presets read, entries with these counts, and all macros."""
    con = duckdb.connect()
    given = [{"uid": f"{i:032x}", "uid_lo": i, "source": "a", **row} for i, row in enumerate(rows)]
    con.from_arrow(pa.Table.from_pylist(given, COLUMNS)).create("samples")
    con.execute("CREATE TABLE entries (entry INTEGER, text VARCHAR, matches BIGINT)")
    if counts:
        con.executemany("INSERT INTO entries VALUES (?, 'e', ?)", list(enumerate(counts)))
    for statement in macros(COLUMNS.names, SCORES):
        con.execute(statement)
    return con


def answers(con: duckdb.DuckDBPyConnection, call: str) -> list[Any]:
    return [row[0] for row in con.execute(f"SELECT {call} FROM samples ORDER BY uid").fetchall()]


def kept(scores: Sequence[float | None], call: str, sources: str | None = None) -> list[float | None]:
    """The L/14 scores that a call keeps, of samples in `sources` (a letter each)."""
    con = catalog([{L14: score, "source": s} for score, s in zip(scores, sources or "a" * len(scores), strict=True)])
    return [score for score, answer in zip(scores, answers(con, call), strict=True) if answer]


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        ("laion400m", {}, True),
        ("laion400m", {B32: 0.3}, True),
        ("laion400m", {B32: 0.2999}, False),
        ("laion400m", {B32: None}, False),
        ("laion400m", {"caption_chars": 5}, True),
        ("laion400m", {"caption_chars": 4}, False),
        ("laion400m", {"caption_chars": None}, False),
        ("laion400m", {"original_bytes": 5000}, True),
        ("laion400m", {"original_bytes": 4999}, False),
        ("laion400m", {"original_bytes": None}, True),
        ("laion400m", {"language": "de"}, True),
        ("laion2b", {}, True),
        ("laion2b", {B32: 0.28}, True),
        ("laion2b", {B32: 0.2799}, False),
        ("laion2b", {B32: 0.27992}, True),  # 0.28003 as fp16
        ("laion2b", {B32: None}, False),
        ("laion2b", {"language": "de"}, False),
        ("laion2b", {"language": None}, False),
        ("laion2b", {"caption_words": 1, "caption_chars": 1, "original_width": 1}, True),
        ("datacomp_basic", {}, True),
        ("datacomp_basic", {"language": "fr"}, False),
        ("datacomp_basic", {"language": None}, False),
        ("datacomp_basic", {"caption_words": 3}, True),
        ("datacomp_basic", {"caption_words": 2}, False),
        ("datacomp_basic", {"caption_chars": 6}, True),
        ("datacomp_basic", {"caption_chars": 5}, False),
        ("datacomp_basic", {"original_width": 200, "original_height": 200}, True),
        ("datacomp_basic", {"original_width": 199, "original_height": 300}, False),
        ("datacomp_basic", {"original_width": 300, "original_height": 199}, False),
        ("datacomp_basic", {"original_width": 600, "original_height": 200}, True),
        ("datacomp_basic", {"original_width": 601, "original_height": 200}, False),
        ("datacomp_basic", {"original_width": 200, "original_height": 600}, True),
        ("datacomp_basic", {"original_width": 200, "original_height": 601}, False),
        ("datacomp_basic", {"original_width": None}, False),
        ("datacomp_basic", {"original_height": None}, False),
        ("datacomp_basic", {"original_width": 2**31 - 1, "original_height": 2**31 - 1}, True),
        ("datacomp_basic", {B32: None, "original_bytes": None}, True),
        ("text_based", {}, True),
        ("text_based", {"text_based": False}, False),
        ("text_based", {"text_based": None}, False),
        ("text_based", {"language": "de"}, False),
        ("text_based", {"caption_words": 1, "image_based": False}, True),
        ("image_based", {}, True),
        ("image_based", {"image_based": False}, False),
        ("image_based", {"image_based": None}, False),
        ("image_based", {"language": "de"}, False),
        ("image_based", {"caption": "red foxes"}, True),
        ("image_based", {"caption": " foxes\t\v\f\r\0"}, False),
        ("image_based", {"caption": "foxes\n"}, True),
        ("image_based", {"caption": "red\u00a0foxes"}, False),
        ("image_based", {"caption": "red\0foxes"}, True),
        ("image_based", {"caption": None}, False),
        ("image_based", {"caption_chars": 6}, True),
        ("image_based", {"caption_chars": 5}, False),
        ("image_based", {"original_width": 1, "text_based": False}, True),
        ("large_enough", {"original_width": 200, "original_height": 200}, True),
        ("large_enough", {"original_width": 199}, False),
        ("large_enough", {"original_height": 199}, False),
        ("large_enough", {"original_height": None}, False),
        ("not_elongated", {"original_width": 1440}, True),
        ("not_elongated", {"original_width": 1441}, False),
        ("not_elongated", {"original_width": 10, "original_height": 31}, False),
        ("not_elongated", {"original_width": None}, False),
        ("not_blank", {}, True),
        ("not_blank", {"entropy": 0.0, "contrast": 0.0}, False),
        ("not_blank", {"entropy": 1.5, "contrast": 0.0029}, True),
        ("not_blank", {"entropy": 1.49, "contrast": 0.0029}, False),
        ("not_blank", {"entropy": 0.0, "contrast": 0.003}, True),
        ("not_blank", {"entropy": None, "contrast": 0.2}, True),
        ("not_blank", {"entropy": None, "contrast": 0.0}, False),
        ("not_blank", {"entropy": None, "contrast": None}, False),
        ("not_low_entropy", {"entropy": 3.0}, True),
        ("not_low_entropy", {"entropy": 2.99}, False),
        ("not_low_entropy", {"entropy": None}, False),
        ("not_animated", {}, True),
        ("not_animated", {"frames": 2}, False),
        ("not_animated", {"frames": None}, True),
    ],
)
def test_truth_table(preset: str, changes: dict[str, Any], expected: bool) -> None:
    assert answers(catalog([{**GOOD, **changes}]), f"{preset}(samples)") == [expected]


@pytest.mark.parametrize(
    ("based", "score", "expected"),
    # Of ten samples the best 0.3 are those from position int(10 × 0.3) on: 0.9, 0.8, 0.7 and 0.6.
    [(True, 0.6, True), (True, 0.5, False), (False, 0.9, False), (None, 0.9, False), (True, None, False)],
)
def test_image_and_clip_takes_its_threshold_from_all_samples(
    based: bool | None, score: float | None, expected: bool
) -> None:
    others = [{**GOOD, "image_based": False, L14: i / 10} for i in range(10) if i / 10 != score]
    con = catalog([{**GOOD, "image_based": based, L14: score}, *others])
    assert answers(con, "image_and_clip(samples)") == [expected] + [False] * len(others)


# Written by hand: threshold = the scores from the best down, [int(n × fraction)]; everything at least as good stays.
@pytest.mark.parametrize(
    ("scores", "fraction", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "0.3", [0.7, 0.8, 0.9, 1.0]),
        ([i / 100 for i in range(23)], "0.3", [i / 100 for i in range(16, 23)]),
        ([i / 1000 for i in range(100)], "0.29", [i / 1000 for i in range(71, 100)]),
        ([0.5, 0.5, 0.5, 0.4, 0.3], "0.2", [0.5, 0.5, 0.5]),
        ([0.9, 0.5, 0.5, 0.5, 0.3], "0.2", [0.9, 0.5, 0.5, 0.5]),
        ([0.5, 0.5, 0.5, 0.5], "0.25", [0.5, 0.5, 0.5, 0.5]),
        ([0.2, 0.1, 0.3], "0", [0.3]),
        ([0.2, 0.1, 0.3], "1", [0.2, 0.1, 0.3]),
        ([0.2, None, 0.3, None], "0.5", [0.2, 0.3]),
        ([-0.2, -0.1, 0.0], "0.34", [-0.1, 0.0]),
        ([0.7], "0.3", [0.7]),
        ([None, None], "0.3", []),
        ([], "0.3", []),
    ],
)
def test_ties_and_quantiles_are_datacomps(
    scores: list[float | None], fraction: str, expected: list[float | None]
) -> None:
    assert kept(scores, f"clip_top(samples, {fraction})") == expected
    assert kept(scores, f"clip_top_in_source(samples, {fraction})") == expected


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), max_size=40))
def test_scores_are_rounded_as_numpy_rounds_to_fp16(scores: list[float]) -> None:
    expected = np.array(scores, np.float32).astype(np.float16).astype(np.float64)
    assert answers(catalog([{L14: score} for score in scores]), f"_half({L14})") == expected.tolist()


def test_a_global_threshold_changes_the_ratio_and_one_in_the_source_does_not() -> None:
    scores, sources = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1], "aaaabbbb"
    assert kept(scores, "clip_top(samples, 0.25)", sources) == [0.9, 0.8, 0.7]
    assert kept(scores, "clip_top_in_source(samples, 0.25)", sources) == [0.9, 0.8, 0.4, 0.3]


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1, 1, width=16)), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_top_fractions_agree_with_numpy(scores: list[float | None], fraction: float) -> None:
    there = np.array([score for score in scores if score is not None])
    call = f"clip_top(samples, '{fraction!r}'::DOUBLE)"
    if len(there) == 0:
        assert kept(scores, call) == []
        return
    threshold = -np.sort(-there)[min(int(len(there) * fraction), len(there) - 1)]
    assert kept(scores, call) == [score for score in scores if score is not None and score >= threshold]


def test_another_score_column_may_be_named() -> None:
    rows = [{L14: i / 10, "clip_score": 1 - i / 10} for i in range(5)]
    assert answers(catalog(rows), "clip_top(samples, 0.3, score := 'clip_score')") == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert answers(catalog(rows), "clip_top(samples, 0.3)") == [False, False, False, True, True]
    with pytest.raises(duckdb.Error, match=r"no score column caption: run `headwater score`.*clip_score"):
        answers(catalog(rows), "clip_top(samples, 0.3, score := 'caption')")


@pytest.mark.parametrize("fraction", ["-0.1", "1.5", "NULL", "'nan'::DOUBLE"])
def test_a_fraction_is_from_0_to_1(fraction: str) -> None:
    for name in ("clip_top", "clip_top_in_source"):
        with pytest.raises(duckdb.Error, match="fraction must be from 0 to 1"):
            answers(catalog([{L14: 0.5}]), f"{name}(samples, {fraction})")


ROW = st.fixed_dictionaries(
    {
        B32: st.one_of(st.none(), st.floats(-1, 1, width=32)),
        L14: st.one_of(st.none(), st.floats(-1, 1, width=32)),
        "caption": st.one_of(st.none(), st.text(" a\n\0é", max_size=6)),
        "caption_words": st.one_of(st.none(), st.integers(0, 5)),
        "caption_chars": st.one_of(st.none(), st.integers(0, 9)),
        "language": st.sampled_from([None, "en", "de", ""]),
        "text_based": st.sampled_from([None, True, False]),
        "image_based": st.sampled_from([None, True, False]),
        "original_bytes": st.one_of(st.none(), st.integers(0, 2**40)),
        "original_width": st.one_of(st.none(), st.integers(0, 2**31 - 1)),
        "original_height": st.one_of(st.none(), st.integers(0, 2**31 - 1)),
        "source": st.sampled_from(["a", "b"]),
        "frames": st.sampled_from([None, 1, 2]),
        "entropy": st.one_of(st.none(), st.floats(0, 8, width=32)),
        "contrast": st.one_of(st.none(), st.floats(0, 0.5, width=32)),
    }
)
CALLS = [
    "laion400m(samples)", "laion2b(samples)", "datacomp_basic(samples)", "text_based(samples)",
    "image_based(samples)", "clip_top(samples, 0.3)", "clip_top_in_source(samples, 0.3)", "image_and_clip(samples)",
    "large_enough(samples)", "not_elongated(samples)", "not_blank(samples)", "not_low_entropy(samples)",
    "not_animated(samples)", "keep(uid_lo, 1, 0.5)",
]  # fmt: skip


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(ROW, max_size=12))
def test_a_preset_is_true_or_false_for_each_row(rows: list[dict[str, Any]]) -> None:
    con = catalog(rows)
    for call in CALLS:
        found = answers(con, call)
        assert len(found) == len(rows)
        assert all(isinstance(answer, bool) for answer in found), call
    both = np.logical_and(answers(con, "image_based(samples)"), answers(con, "clip_top(samples, 0.3)"))
    assert answers(con, "image_and_clip(samples)") == both.tolist()


PROBABILITIES = ["metaclip_probability(entries, {t})", "metaclip_probability(entries, {t}, draws := 'best')"]
SIZE = 4
LISTS = st.lists(st.one_of(st.none(), st.lists(st.integers(0, SIZE - 1), max_size=SIZE, unique=True)), max_size=12)


@hypothesis_settings(max_examples=30, deadline=None)
@given(LISTS, st.floats(2**-10, 2**20), st.booleans())
def test_a_probability_is_from_0_to_1_for_each_row(lists: list[list[int] | None], t: float, listed: bool) -> None:
    """Without an entry it is 0, of several never less by all draws than by the best; also where no list is known."""
    counts = entry_counts(pa.array(lists, pa.list_(pa.int32())), SIZE).tolist()
    con = catalog([{"entries": found} for found in lists], counts if listed else None)
    each, best = (np.array(answers(con, call.format(t=f"'{t!r}'::DOUBLE")), np.float64) for call in PROBABILITIES)
    assert len(each) == len(best) == len(lists)
    assert ((best >= 0) & (best <= each + 1e-12) & (each <= 1)).all()
    some = np.array([bool(found) and listed for found in lists], np.bool_)
    assert ((best > 0) == some).all()


def test_every_preset_is_tried_above() -> None:
    tried = {call.split("(")[0] for call in [*CALLS, *PROBABILITIES]}
    assert tried == {preset.name for preset in PRESETS}


def test_a_table_under_another_name_and_in_aggregates() -> None:
    con = catalog([{**GOOD, L14: i / 10} for i in range(10)])
    for call, count in (("laion2b(x)", 10), ("clip_top(x, 0.3)", 4), ("clip_top_in_source(x, 0.3)", 4)):
        query = f"SELECT count(*) FILTER ({call}), count(*) FILTER (x.uid < 'f' AND {call}) FROM samples AS x"
        assert con.execute(query).fetchall() == [(count, count)]


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.needs], ids=lambda preset: preset.name)
def test_a_preset_without_its_signals_is_an_error_that_says_what_to_run(preset: Any) -> None:
    con = catalog([GOOD])
    for lacking in preset.needs:
        for statement in macros([name for name in COLUMNS.names if name != lacking], SCORES):
            con.execute(statement)
        says = rf"{preset.name} needs the column {lacking}: run `headwater (score|signals|download).*`, then `head"
        with pytest.raises(duckdb.Error, match=says):
            answers(con, preset.call.replace("entries, t", "entries, 1"))


def test_without_any_score_the_error_says_so() -> None:
    con = catalog([{}])
    for statement in macros([], []):
        con.execute(statement)
    with pytest.raises(duckdb.Error, match=f"no score column {L14}: run `headwater score` with its model, then"):
        answers(con, "clip_top(samples, 0.3)")


def test_keep_is_the_drawing_order() -> None:
    numbers = [0, 1, 2**63, 2**64 - 1, *range(10**18, 10**18 + 2000)]
    con = catalog([{"uid_lo": number} for number in numbers])
    rank = sample_order(np.array(numbers, dtype=np.uint64), salt("keep", 7)) >> np.uint64(11)
    for p in (0.0, 0.25, 0.5, 1.0):
        assert answers(con, f"keep(uid_lo, 7, {p})") == (rank < p * 2**53).tolist()
    shares = {p: sum(answers(con, f"keep(uid_lo, 7, {p})")) for p in ("0", "0.25", "0.5", "1")}
    assert (shares["0"], shares["1"]) == (0, len(numbers))
    assert abs(shares["0.25"] - 501) < 80
    smaller, larger, other = (
        answers(con, f"keep(uid_lo, {seed}, {p})") for seed, p in ((7, 0.25), (7, 0.5), (8, 0.5))
    )
    assert all(b for a, b in zip(smaller, larger, strict=True) if a)
    assert larger != other
    assert answers(con, "keep(uid_lo, 7, NULL)") == [False] * len(numbers)


MATCHES: list[list[int] | None] = [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2], [], None]


@pytest.mark.parametrize(("t", "draws"), list(itertools.product([1, 2.5, 100], ["best", "each"])))
def test_metaclip_probability_is_the_filters(t: float, draws: Any) -> None:
    matches = pa.array(MATCHES * 3, pa.list_(pa.int32()))
    counts = entry_counts(matches, 3)
    con = catalog([{"entries": found} for found in matches.to_pylist()], counts.tolist())
    expected = keep_probability(matches, counts, t, draws).fill_null(0.0)
    found = answers(con, f"metaclip_probability(entries, {t}, draws := '{draws}')")
    assert np.allclose(found, expected.to_numpy())


@pytest.mark.parametrize(
    ("entries", "t", "draws", "expected"),
    # Of these entries 10, 40 and 0 captions hold one.
    [
        ([0], 20, "each", 1.0), ([1], 20, "each", 0.5), ([0, 1], 20, "each", 1.0), ([0], 10, "each", 1.0),
        ([0], 5, "each", 0.5), ([1], 5, "each", 0.125), ([0, 1], 5, "each", 0.5625), ([0, 1], 5, "best", 0.5),
        ([2], 5, "each", 1.0), ([], 5, "each", 0.0), (None, 5, "each", 0.0), (None, 5, "best", 0.0),
        ([], 5, "best", 0.0),
    ],
)  # fmt: skip
def test_truth_table_of_metaclip_probability(entries: Any, t: float, draws: str, expected: float) -> None:
    con = catalog([{"entries": entries}], [10, 40, 0])
    assert answers(con, f"metaclip_probability(entries, {t}, draws := '{draws}')") == pytest.approx([expected])


def test_metaclip_probability_by_hand() -> None:
    con = catalog([{"entries": found} for found in ([0], [1], [0, 1], [], None)], [10, 40])
    assert answers(con, "metaclip_probability(entries, 20)") == [1, 0.5, 1, 0, 0]
    assert answers(con, "metaclip_probability(entries, 5, 'best')") == [0.5, 0.125, 0.5, 0, 0]
    found = answers(con, "metaclip_probability(entries, 5)")
    assert np.allclose(found, [0.5, 0.125, 1 - 0.5 * 0.875, 0, 0])
    assert len(answers(con, "keep(uid_lo, 0, metaclip_probability(entries, 5))")) == 5
    for wrong, says in (("0", "t must be more than 0"), ("1, 'all'", "draws is best or each")):
        with pytest.raises(duckdb.Error, match=says):
            answers(con, f"metaclip_probability(entries, {wrong})")


def test_comments_name_meaning_and_source() -> None:
    con = catalog([])
    comments = dict(
        con.execute("SELECT function_name, comment FROM duckdb_functions() WHERE function_type = 'macro'").fetchall()
    )
    for preset in PRESETS:
        assert comments[preset.name] == f"{preset.meaning}. Source: {preset.source}"


def test_the_committed_page_has_the_section_that_the_presets_make() -> None:
    page = Path(__file__).parents[2] / "docs" / "filters.md"
    assert section() in page.read_text(encoding="utf-8"), "write it again: python -m pipelines.store.presets"


def test_the_digest_is_of_the_definitions() -> None:
    assert digest() == digest()
    assert len(digest()) == 16
