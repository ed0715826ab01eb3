"""The page about the schema says what the schema says."""

from __future__ import annotations

from pathlib import Path

from pipelines.store.describe import page

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"


def test_the_committed_page_is_the_one_that_the_schema_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page() + "\n", "write it again: python -m pipelines.store.describe"
