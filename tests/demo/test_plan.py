"""The plan keeps what it promises, for two seeds."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo.captions import fold
from demo.corpus import EVAL_STYLES
from demo.plan import make_plan, to_records, write_ground_truth
from demo.web_faults import COPIES, CROPS, KINDS, MIN_ROWS, QUALITIES, SCALES
from demo.web_placeholders import FEW_URLS, PLACEHOLDER
from demo.web_record import PLAN_SCHEMA, SOURCES, STYLE_OF, Record, to_table
from demo.web_vocabulary import load_vocabulary
from filters.errors import InputError
from pipelines.store.reasons import REASONS

SEEDS = (0, 20231)
ROWS = 6000


@functools.cache
def planned(seed: int) -> tuple[Record, ...]:
    return tuple(to_records(make_plan(seed, ROWS)))


def test_same_seed_same_plan_other_seed_other_plan() -> None:
    first = make_plan(3, 600)
    assert first.equals(make_plan(3, 600))
    assert first.schema.equals(PLAN_SCHEMA)
    assert not first.equals(make_plan(4, 600))
    assert to_table(to_records(first)).equals(first)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [MIN_ROWS, 600, ROWS])
def test_every_kind_is_planted_at_least_twice(seed: int, rows: int) -> None:
    plan = make_plan(seed, rows)
    assert plan.num_rows == rows
    kinds = Counter(plan["plant"].to_pylist())
    assert set(kinds) == {"clean", PLACEHOLDER, *KINDS}
    assert min(kinds.values()) >= 2
    sizes = Counter(plan["source"].to_pylist())
    assert set(sizes) == set(SOURCES)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for row in plan.select(["plant", "source"]).to_pylist():
        assert row["plant"] in ("clean", PLACEHOLDER) or row["source"] in KINDS[row["plant"]].sources


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match=str(MIN_ROWS)):
        make_plan(0, MIN_ROWS - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_most_rows_of_each_source_can_be_trained_on(seed: int) -> None:
    for source in SOURCES:
        records = [r for r in planned(seed) if r.source == source]
        good = [
            r
            for r in records
            if r.expected_status == "success" and not r.caption_swapped and r.caption_language == "en"
            and r.plant != PLACEHOLDER
        ]  # fmt: skip
        assert len(good) >= 0.8 * len(records)
        own = [c for r in good if r.style == STYLE_OF[source] for c in r.concepts]
        assert len(set(own)) >= 0.85 * len(load_vocabulary().drawn_in[STYLE_OF[source]])


@pytest.mark.parametrize("seed", SEEDS)
def test_expectations_are_in_the_schema(seed: int) -> None:
    for record in planned(seed):
        assert record.expected_reason in REASONS
        assert record.expected_status == REASONS[record.expected_reason][0].value
        assert record.times <= 3 if record.plant == "redirect" else record.times <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_records_are_numbered_and_addresses_are_unique(seed: int) -> None:
    lines: dict[tuple[str, str], list[int]] = {}
    for record in planned(seed):
        lines.setdefault((record.source, record.file), []).append(record.line)
    assert all(numbers == list(range(len(numbers))) for numbers in lines.values())
    first: dict[str, Record] = {}
    for record in planned(seed):
        if record.plant == "duplicate_row":
            # The repeated record stands after its original in the same file, and says the same to the letter.
            original = first[record.url]
            assert original.plant == "clean"
            assert (original.source, original.file) == (record.source, record.file)
            assert (original.native_id, original.caption_fields) == (record.native_id, record.caption_fields)
        else:
            assert record.url not in first
            first[record.url] = record


@pytest.mark.parametrize("seed", SEEDS)
def test_duplicates_copy_pictures_that_will_be_there(seed: int) -> None:
    originals = {(r.source, r.url): r for r in planned(seed) if r.plant == "clean"}
    copies = [r for r in planned(seed) if r.duplicate_kind is not None]
    assert {r.plant for r in copies} == {"exact_duplicate", "near_duplicate"}
    for record in copies:
        assert record.duplicate_of_source is not None
        assert record.duplicate_of_url is not None
        original = originals[record.duplicate_of_source, record.duplicate_of_url]
        assert original.expected_status == record.expected_status == "success"
        assert original.url != record.url
        assert original.picture_seed == record.picture_seed
        assert (record.duplicate_kind == "near") == (record.near_transform is not None)
    assert {r.duplicate_of_source == r.source for r in copies} == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [MIN_ROWS, 600, ROWS])
def test_placeholders_take_clean_records_and_change_no_other(
    seed: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = to_records(make_plan(seed, rows))
    planted = [r for r in records if r.plant == PLACEHOLDER]
    assert Counter(r.source for r in planted) == dict.fromkeys(SOURCES, 2)
    assert len({r.url for r in planted}) == 12 > FEW_URLS
    assert {(r.expected_status, r.expected_reason) for r in planted} == {("success", "ok")}
    addresses = {r.url for r in planted}
    assert addresses.isdisjoint(r.duplicate_of_url for r in records)
    assert addresses.isdisjoint(r.url for r in records if r.plant != PLACEHOLDER)
    monkeypatch.setattr("demo.plan.plant_placeholders", lambda *_: None)
    without = to_records(make_plan(seed, rows))
    assert [replace(r, plant="clean") if r.plant == PLACEHOLDER else r for r in records] == without


@pytest.mark.parametrize("seed", SEEDS)
def test_strengths_of_near_duplicates_are_the_stated_ones(seed: int) -> None:
    near = [r for r in planned(seed) if r.near_transform is not None]
    for record in near:
        parts = set((record.near_transform or "").split("+"))
        given = {"scale": record.near_scale, "crop": record.near_crop, "jpeg": record.near_quality}
        assert parts == {name for name, value in given.items() if value is not None}
        assert record.near_scale is None or record.near_scale in SCALES
        assert record.near_crop is None or record.near_crop in CROPS
        assert record.near_quality is None or record.near_quality in QUALITIES
        assert 64 <= max(record.width, record.height) * (record.near_scale or 1) <= 1200
    assert min(SCALES) >= 0.5
    assert max(SCALES) <= 2
    assert max(CROPS) <= 0.05
    assert min(QUALITIES) >= 60


@pytest.mark.parametrize("seed", SEEDS)
def test_leaks_are_different_evaluation_pictures(seed: int) -> None:
    leaks = [r for r in planned(seed) if r.leak_kind is not None]
    assert len({(r.leak_style, r.leak_concept) for r in leaks}) == len(leaks)
    assert {r.leak_style for r in leaks} <= set(EVAL_STYLES)
    for record in leaks:
        assert record.leak_kind == ("exact" if record.near_transform is None else "near")
        assert record.leak_concept in load_vocabulary().drawn_in[record.leak_style or ""]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_true_caption_names_what_is_in_the_picture(seed: int) -> None:
    names = load_vocabulary().name
    for record in planned(seed):
        if record.plant == "null_caption":
            assert record.caption is None
            continue
        caption = (record.caption or "").lower()
        assert caption
        if record.caption_language != "en":
            continue
        named = [names[c] for c in record.caption_concepts]
        named = [fold(n) for n in named] if record.source == "redcaps" else named
        assert all(name in caption for name in named), record
        if record.caption_swapped:
            assert not set(record.caption_concepts) & set(record.concepts)
        else:
            assert record.caption_concepts == record.concepts
        assert record.true_name == names[record.concepts[0]]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_icon_stands_alone_once_a_style(seed: int) -> None:
    """Two plain pictures of one icon would be near duplicates that nobody planted."""
    stored = [r for r in planned(seed) if r.expected_status == "success" and r.plant not in COPIES]
    alone = [(r.style, r.concepts[0]) for r in stored if r.layout == "single"]
    assert len(set(alone)) == len(alone)


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_have_variety(seed: int) -> None:
    """Without the names, at least ten ways of putting it a source."""
    names = load_vocabulary().name
    for source in SOURCES:
        clean = [r for r in planned(seed) if r.source == source and r.plant == "clean" and len(r.concepts) == 1]
        frames = Counter((r.caption or "").lower().replace(names[r.concepts[0]], "@")[:12] for r in clean)
        assert len(frames) >= 10


def test_ground_truth_reads_back(tmp_path: Path) -> None:
    plan = make_plan(1, MIN_ROWS)
    path = tmp_path / "raw" / "ground_truth.parquet"
    write_ground_truth(plan, path)
    assert pq.read_table(path).equals(plan)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
