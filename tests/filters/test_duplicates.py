"""Verdicts on drawn pictures: kinds, survivors, evaluation sets, order, nulls and empty tables."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from filters.duplicates import NearParams, Pictures, verdicts
from filters.pixels import RGB
from pipelines.store.schema import VERDICTS
from tests.filters.drawings import FAMILIES, as_evaluation, clock, flag, jpeg, near_copy, pictures, row, smiley

Rows = list[tuple[dict[str, object], RGB]]
PRIORITY = ["photos", "web"]


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def pool() -> Rows:
    """All drawings once, with exact and near copies of three of them under known uids."""
    rows = [row(f"{family}{n}", "web", jpeg(draw(n))) for family, draw in FAMILIES.items() for n in range(4)]
    rows += [
        row("a-same-bytes", "web", jpeg(clock(2))),
        row("b-same-bytes", "photos", jpeg(clock(2))),
        row("same-pixels", "web", png(Image.open(io.BytesIO(jpeg(clock(2)))))),
        row("half", "photos", near_copy(smiley(1), 0.5, 0, 85)),
        row("double", "web", near_copy(flag(3), 2, 0, 80)),
        row("cropped", "web", near_copy(flag(3), 1, 0.05, 80)),
    ]
    return rows


def by_uid(table: pa.Table) -> dict[str, dict[str, object]]:
    return {r["uid"]: r for r in table.to_pylist()}


def test_kinds_and_survivors(pool: Rows) -> None:
    found = by_uid(verdicts(pictures(pool), priority=PRIORITY))
    group = {uid: r["duplicate_of"] for uid, r in found.items() if r["group"] is not None}
    assert group == {
        "clock2": "b-same-bytes",
        "a-same-bytes": "b-same-bytes",
        "same-pixels": "b-same-bytes",
        "b-same-bytes": None,
        "smiley1": None,
        "half": "smiley1",
        "double": None,
        "flag3": "double",
        "cropped": "double",
    }
    kinds = {uid: r["kind"] for uid, r in found.items() if r["kind"]}
    assert kinds == {
        "clock2": "exact_bytes",
        "a-same-bytes": "exact_bytes",
        "same-pixels": "exact_pixels",
        "half": "near",
        "flag3": "near",
        "cropped": "near",
    }
    for uid, kind in kinds.items():
        distance = found[uid]["distance"]
        assert isinstance(distance, float)
        assert distance == 0 if kind != "near" else 0 < distance <= NearParams().max_distance
    assert all(r["distance"] is None for uid, r in found.items() if uid not in kinds)
    assert found["double"]["group"] == found["flag3"]["group"] == "double"


def test_dropping_exact_kinds_alone_keeps_one_of_each() -> None:
    data = near_copy(smiley(2), 0.7, 0, 80)
    rows = [row("large", "web", jpeg(smiley(2))), row("small1", "web", data), row("small2", "web", data)]
    found = by_uid(verdicts(pictures(rows), priority=PRIORITY))
    assert [found[u]["kind"] for u in ("large", "small1", "small2")] == [None, "near", "exact_bytes"]
    assert {r["group"] for r in found.values()} == {"large"}


def test_schema_is_that_of_the_store(pool: Rows) -> None:
    table = verdicts(pictures(pool), priority=PRIORITY)
    assert VERDICTS.conform(table).equals(table)
    assert table["uid"].to_pylist() == [values["uid"] for values, _ in pool]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_rows_changes_nothing(pool: Rows, seed: int) -> None:
    evaluation = as_evaluation(pictures(pool[:6]), "held-out")
    straight = verdicts(pictures(pool), priority=PRIORITY, evaluation=evaluation)
    mixed = [pool[i] for i in np.random.default_rng(seed).permutation(len(pool))]
    shuffled = verdicts(pictures(mixed), priority=PRIORITY, evaluation=evaluation)
    assert shuffled.sort_by("uid").equals(straight.sort_by("uid"))


def test_evaluation_sets(pool: Rows) -> None:
    held_out = [
        row("item-bytes", "", jpeg(clock(2))),
        row("item-pixels", "", png(Image.open(io.BytesIO(jpeg(smiley(3)))))),
        row("item-near", "", near_copy(flag(1), 0.8, 0, 90)),
        row("item-other", "", jpeg(clock(5))),
    ]
    evaluation = as_evaluation(pictures(held_out), "held-out")
    found = by_uid(verdicts(pictures(pool), priority=PRIORITY, evaluation=evaluation))
    leaks = {uid: (r["eval_kind"], r["eval_item"]) for uid, r in found.items() if r["eval_set"] == "held-out"}
    assert leaks == {
        "clock2": ("exact_bytes", "item-bytes"),
        "a-same-bytes": ("exact_bytes", "item-bytes"),
        "b-same-bytes": ("exact_bytes", "item-bytes"),
        "same-pixels": ("exact_pixels", "item-bytes"),
        "smiley3": ("exact_pixels", "item-pixels"),
        "flag1": ("near", "item-near"),
    }
    without = verdicts(pictures(pool), priority=PRIORITY)
    assert without["eval_set"].null_count == len(pool)


def test_null_hashes_equal_nothing() -> None:
    rows = [row(f"{family}{n}", "web", jpeg(draw(n))) for family, draw in FAMILIES.items() for n in range(2)]
    for values, _ in rows:
        values.update(sha256=None, pixel_hash=None, phash=None, original_width=None, original_height=None)
    assert verdicts(pictures(rows), priority=[])["kind"].null_count == len(rows)
    # Thumbnails alone still find a copy, whatever its size.
    copy, thumb = row("copy", "web", near_copy(clock(1), 0.8, 0, 90))
    copy.update(phash=None, sha256=None, pixel_hash=None)
    found = by_uid(verdicts(pictures([*rows, (copy, thumb)]), priority=[]))
    assert found["clock1"]["duplicate_of"] == "copy"


def test_empty_table() -> None:
    table = verdicts(pictures([]), priority=PRIORITY, evaluation=as_evaluation(pictures([]), "none"))
    assert table.num_rows == 0
    assert VERDICTS.conform(table).equals(table)


def test_empty_evaluation_set(pool: Rows) -> None:
    evaluation = as_evaluation(pictures([]), "none")
    found = verdicts(pictures(pool[:3]), priority=PRIORITY, evaluation=evaluation)
    assert found["eval_set"].null_count == 3


def test_a_chain_does_not_join_unlike_pictures() -> None:
    """Pictures that drift step by step: each is near the next, the ends are not near each other."""
    steps = []
    for step in range(9):
        rgb = np.full((100, 100, 3), 255, np.uint8)
        rgb[30:70, 30:70] = 255 - 9 * step
        steps.append(row(f"step{step}", "web", png(Image.fromarray(rgb))))
    limit = NearParams(max_distance=0.09)
    found = by_uid(verdicts(pictures(steps), priority=[], params=limit))
    groups = {str(r["group"]) for r in found.values()}
    assert len(groups) > 1
    for uid, values in found.items():
        if values["duplicate_of"]:
            assert abs(int(uid[-1]) - int(str(values["duplicate_of"])[-1])) * 9 / 255 <= 0.1


def test_thumbnails_are_asked_for_in_blocks(pool: Rows) -> None:
    given = pictures(pool)
    asked: list[int] = []

    def thumbs(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> RGB:
        asked.append(len(rows))
        return given.thumbs(rows)

    assert verdicts(Pictures(given.table, thumbs), priority=PRIORITY).equals(verdicts(given, priority=PRIORITY))
    assert max(asked) <= 4096


def test_bytes_of_many_urls_are_placeholders_and_none_survives(pool: Rows) -> None:
    """`clock(2)` was got under three uids; its re-encoded twin is a duplicate of one of them as before."""
    given = pictures(pool)
    table = given.table.append_column("url", pa.array([f"http://a.test/{i}" for i in range(len(pool))]))
    same_url = table.set_column(table.num_columns - 1, "url", pa.array(["http://a.test/"] * len(pool)))
    before = verdicts(given, priority=PRIORITY)
    for urls, most in ((table, 3), (same_url, 1)):
        assert verdicts(Pictures(urls, given.thumbs), priority=PRIORITY, placeholder_urls=most).equals(before)
    found = by_uid(verdicts(Pictures(table, given.thumbs), priority=PRIORITY, placeholder_urls=2))
    called = {uid for uid, r in found.items() if r["kind"] == "placeholder"}
    assert called == {"clock2", "a-same-bytes", "b-same-bytes"}
    assert all((found[u]["duplicate_of"], found[u]["group"]) == (None, "a-same-bytes") for u in called)
    others = {uid: r for uid, r in by_uid(before).items() if uid not in called}
    assert {uid: found[uid] for uid in others} == others


def test_unknown_hashes_are_no_placeholders() -> None:
    rows = [row(str(n), "web", jpeg(clock(n))) for n in range(3)]
    for values, _ in rows:
        values["sha256"] = None
    given = pictures(rows)
    table = given.table.append_column("url", pa.array(["a", "b", "c"]))
    found = verdicts(Pictures(table, given.thumbs), priority=[], placeholder_urls=1)
    assert "placeholder" not in found["kind"].to_pylist()
