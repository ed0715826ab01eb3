"""What the presets would keep of the demo's pictures: each is counted, or named with what it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from demo.compare_presets import SCORE, call_of, presets
from evaluation.report_data import Check
from pipelines.store.presets import PRESETS, macros

_COLUMNS = {
    "status": "VARCHAR", "source": "VARCHAR", "uid_lo": "UBIGINT", "language": "VARCHAR", "caption": "VARCHAR",
    "caption_words": "INTEGER", "caption_chars": "INTEGER", "original_width": "INTEGER", "original_height": "INTEGER",
    "original_bytes": "BIGINT", "text_based": "BOOLEAN", "image_based": "BOOLEAN", "entropy": "FLOAT",
    "contrast": "FLOAT", "frames": "INTEGER", "entries": "INTEGER[]", SCORE: "FLOAT",
    "clip_b32_similarity_score": "FLOAT",
}  # fmt: skip
PRESENT = set(_COLUMNS) - {"clip_b32_similarity_score"}


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """Four pictures, of scores 0.4 to 0.1 and sides 400 to 100, and one row that is no picture."""
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE samples ({', '.join(f'{n} {t}' for n, t in _COLUMNS.items())})")
        for n in range(4):
            con.execute(
                "INSERT INTO samples VALUES ('success', 'a', ?, 'en', 'a dog there', 3, 11, ?, ?, 9000, ?, ?, 5, 1, "
                "1, [0], ?, NULL)", [n, 400 - 100 * n, 400 - 100 * n, n == 0, n < 2, 0.4 - 0.1 * n],
            )  # fmt: skip
        con.execute("INSERT INTO samples (status, source, uid_lo) VALUES ('failed_to_download', 'a', 9)")
        con.execute("CREATE TABLE entries (entry INTEGER, matches BIGINT)")
        con.execute("INSERT INTO entries VALUES (0, 4)")
        yield con


def counted(con: duckdb.DuckDBPyConnection, present: set[str]) -> dict[str, Check]:
    for statement in macros(present, [SCORE]):
        con.execute(statement)
    found = presets(con)
    assert len(found) == len(PRESETS)
    assert all(check.met is None for check in found)
    return {check.check: check for check in found}


def test_each_preset_is_counted_or_says_what_it_lacks(con: duckdb.DuckDBPyConnection) -> None:
    found = counted(con, PRESENT)
    kept = {name.removeprefix("preset ").partition(": keeps")[0]: check.found for name, check in found.items()}
    assert kept == {
        "laion400m: not counted, the demo has no clip_b32_similarity_score": None,
        "laion2b: not counted, the demo has no clip_b32_similarity_score": None,
        "datacomp_basic(samples)": 3,
        "text_based(samples)": 1,
        "image_based(samples)": 2,
        "clip_top(samples, 0.3, score := 'clip_score')": 2,
        "clip_top_in_source(samples, 0.3, score := 'clip_score')": 2,
        "image_and_clip(samples, score := 'clip_score')": 2,
        "large_enough(samples)": 3,
        "not_elongated(samples)": 4,
        "not_blank(samples)": 4,
        "not_low_entropy(samples)": 4,
        "not_animated(samples)": 4,
        "keep(uid_lo, 0, metaclip_probability(entries, 20))": 4,
        "keep(uid_lo, 0, 0.5)": kept["keep(uid_lo, 0, 0.5)"],
    }
    assert found["preset datacomp_basic(samples): keeps of 4 pictures"].rate == 0.75


def test_a_preset_whose_column_holds_nothing_is_named_and_stops_no_other(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("UPDATE samples SET image_based = NULL, entropy = NULL")
    con.execute("ALTER TABLE samples DROP COLUMN text_based")
    found = counted(con, PRESENT - {"image_based", "entropy", "text_based"})
    lacking = {name.partition(":")[0] for name, check in found.items() if check.found is None}
    assert lacking == {f"preset {name}" for name in (
        "laion400m", "laion2b", "text_based", "image_based", "image_and_clip", "not_blank", "not_low_entropy",
    )}  # fmt: skip
    assert found["preset large_enough(samples): keeps of 4 pictures"].found == 3


def test_every_preset_has_all_its_arguments() -> None:
    assert {name: call_of(preset) for preset in PRESETS if (name := preset.name).startswith(("clip", "not_b"))} == {
        "clip_top": "clip_top(samples, 0.3, score := 'clip_score')",
        "clip_top_in_source": "clip_top_in_source(samples, 0.3, score := 'clip_score')",
        "not_blank": "not_blank(samples)",
    }
