"""Verdicts on drawn pictures: kinds, survivors, evaluation sets, order, nulls and empty tables."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from filters import near_pairs
from filters.caption_groups import caption_signatures
from filters.clusters import Search
from filters.duplicates import NearParams, Pictures, SemanticParams, decide, distances, verdicts
from filters.groups import Floats, Indices
from filters.near_pairs import cross_candidates, pixel_probes, self_candidates
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
        "smiley1": "half",  # smaller, but of a better source
        "half": None,
        "double": None,
        "flag3": "double",
        "cropped": "double",
    }
    kinds = {uid: r["kind"] for uid, r in found.items() if r["kind"]}
    assert kinds == {
        "clock2": "exact_bytes",
        "a-same-bytes": "exact_bytes",
        "same-pixels": "exact_pixels",
        "smiley1": "near",
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


@pytest.mark.parametrize("all_of_them", [False, True])
def test_pictures_without_a_thumbnail_have_their_exact_kinds_alone(pool: Rows, all_of_them: bool) -> None:
    lost = {values["uid"] for values, _ in pool} if all_of_them else {"b-same-bytes", "half", "flag1"}

    def found(rows: Rows) -> dict[str, dict[str, object]]:
        given = pictures(rows)
        readable = pa.array([uid not in lost for uid in given.table["uid"].to_pylist()])
        table = given.table.append_column("readable", readable)
        evaluation = as_evaluation(pictures([row("item", "", near_copy(flag(1), 0.8, 0, 90)), pool[0]]), "held-out")
        return by_uid(verdicts(Pictures(table, given.thumbs), priority=PRIORITY, evaluation=evaluation))

    first = found(pool)
    kinds = {uid: (r["kind"], r["duplicate_of"]) for uid, r in first.items() if r["kind"]}
    survivor = "b-same-bytes" if all_of_them else "a-same-bytes"
    exact = {uid: ("exact_bytes", survivor) for uid in ("clock2", "a-same-bytes", "b-same-bytes") if uid != survivor}
    near = {} if all_of_them else dict.fromkeys(("flag3", "cropped"), ("near", "double"))
    assert kinds == {**exact, "same-pixels": ("exact_pixels", survivor), **near}
    hits = {uid: r["eval_kind"] for uid, r in first.items() if r["eval_set"]}
    assert hits == {"clock0": "exact_bytes"}
    assert found(pool[::-1]) == first


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
    assert all((found[u]["duplicate_of"], found[u]["distance"]) == (None, 0) for u in called)
    assert {r["group"] for uid, r in found.items() if uid in called | {"same-pixels"}} == {"b-same-bytes"}
    others = {uid: r for uid, r in by_uid(before).items() if uid not in called}
    assert {uid: found[uid] for uid in others} == others


def test_a_uid_that_is_there_twice_is_no_duplicate_of_itself() -> None:
    """The catalog shows one row of each uid, whichever: none of them may be called a duplicate of the other."""
    copy = near_copy(clock(1), 0.5, 0, 85)
    rows = [
        row("u", "photos", jpeg(clock(1))), row("u", "web", jpeg(clock(1))), row("u", "web", copy),
        row("other", "web", jpeg(clock(1))), row("same", "web", copy), row("alone", "web", jpeg(flag(1))),
        row("alone", "zoo", jpeg(flag(1))),
    ]  # fmt: skip
    captions = caption_signatures(pa.chunked_array([["one caption of all"] * len(rows)]))
    found = decide(pictures(rows), priority=PRIORITY, captions=captions).table()
    assert found["duplicate_of"].to_pylist() == [None, None, None, "u", "u", None, None]
    assert found["kind"].to_pylist() == [None, None, None, "exact_bytes", "near", None, None]
    assert found["distance"].null_count == 5
    assert found["group"].to_pylist() == ["u"] * 5 + [None, None]
    assert found["caption_of"].to_pylist() == [None, None, None, "u", "u", "u", "u"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"source": "photos"}, {"source": "web", "size": 900, "score": 0.9}),
        ({"source": "web"}, {"source": "zoo", "size": 900, "score": 0.9}),
        ({"source": "zoo", "size": 150}, {"source": "else", "score": 0.9}),
        ({"score": 0.3}, {"score": 0.2}),
        ({"score": -0.5}, {"score": None}),
        ({"score": 0.3, "uid": "a"}, {"score": 0.3}),
        ({"uid": "a"}, {}),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_each_tie_of_survivors_goes_to_the_next_rule(
    better: dict[str, object], worse: dict[str, object], swapped: bool, scale: float
) -> None:
    """Source as listed, larger original, higher score (unknown last), smaller uid; of equal and of near pictures."""
    first, second = {"uid": "z", **better}, {"uid": "b", **worse}
    data = [jpeg(clock(1)), jpeg(clock(1)) if scale == 1 else near_copy(clock(1), scale, 0, 90)]
    rows = []
    for own, picture in zip((first, second), data, strict=True):
        values, thumb = row(str(own["uid"]), str(own.get("source", "web")), picture)
        side = own.get("size", 120)
        rows.append(({**values, "original_width": side, "original_height": side}, thumb, own.get("score")))
    rows = rows[::-1] if swapped else rows
    given = pictures([(values, thumb) for values, thumb, _ in rows])
    table = given.table.append_column("score", pa.array([score for _, _, score in rows], pa.float32()))
    found = by_uid(verdicts(Pictures(table, given.thumbs), priority=PRIORITY))
    assert (found["b"]["duplicate_of"], found["b"]["kind"]) == (first["uid"], "exact_bytes" if scale == 1 else "near")


def test_unknown_hashes_are_no_placeholders() -> None:
    rows = [row(str(n), "web", jpeg(clock(n))) for n in range(3)]
    for values, _ in rows:
        values["sha256"] = None
    given = pictures(rows)
    table = given.table.append_column("url", pa.array(["a", "b", "c"]))
    found = verdicts(Pictures(table, given.thumbs), priority=[], placeholder_urls=1)
    assert "placeholder" not in found["kind"].to_pylist()


def test_each_evaluation_set_has_its_column(pool: Rows) -> None:
    held_out = [
        *[(row("bytes", "", jpeg(clock(2))), "first"), (row("near", "", near_copy(clock(2), 0.8, 0, 90)), "second")],
        *[(row("later", "", jpeg(clock(2))), "third"), (row("other", "", jpeg(clock(5))), "third")],
    ]
    given = pictures([picture for picture, _ in held_out])
    table = given.table.append_column("eval_set", pa.array([name for _, name in held_out]))
    evaluation = Pictures(table.append_column("eval_item", table["uid"]), given.thumbs)
    columns = {"first": "in_1", "second": "in_2", "third": "in_3", "fourth": "in_4"}
    found = verdicts(pictures(pool), priority=PRIORITY, evaluation=evaluation, eval_columns=columns)
    assert found.column_names == [*VERDICTS.names, *columns.values()]
    values = by_uid(found)["a-same-bytes"]
    assert [values[c] for c in columns.values()] == ["exact_bytes", "near", "exact_bytes", None]
    assert (values["eval_set"], values["eval_item"], values["eval_distance"]) == ("first", "bytes", 0)
    values = by_uid(found)["same-pixels"]
    assert [values[c] for c in columns.values()] == ["exact_pixels", "near", "exact_pixels", None]
    assert all(found[column].null_count >= len(pool) - 4 for column in columns.values())
    assert found.slice(3, 5).equals(
        decide(pictures(pool), priority=PRIORITY, evaluation=evaluation).table(3, 8, eval_columns=columns)
    )


def embedded(rows: Rows, vectors: dict[str, list[float]]) -> Pictures:
    """`rows` as pictures with embeddings of length 1, all others at right angles to these and to each other."""
    given = pictures(rows)
    matrix = np.zeros((len(rows), 8 + len(rows)), np.float32)
    for number, (values, _) in enumerate(rows):
        own = vectors.get(str(values["uid"]))
        matrix[number, 8 + number] = 1 if own is None else 0
        matrix[number, : len(own or [])] = own or []
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return Pictures(given.table, given.thumbs, matrix.astype(np.float16))


def test_semantic_duplicates_take_their_near_group_with_them() -> None:
    rows = [
        row("best", "photos", jpeg(clock(1))),
        row("like", "web", jpeg(smiley(1))),
        row("near-like", "web", near_copy(smiley(1), 0.5, 0, 85)),
        row("far", "web", jpeg(flag(1))),
        row("near-far", "web", near_copy(flag(1), 0.5, 0, 85)),
        row("same-as-far", "web", jpeg(flag(1))),
        row("alone", "web", jpeg(flag(3))),
    ]
    vectors = {
        "best": [1.0, 0.0],
        "like": [1.0, 0.1],
        "near-like": [1.0, 0.15],
        "far": [1.0, -0.1],
        "near-far": [0.0, 1.0],  # its near twin is like the best, this one is not
        "same-as-far": [1.0, -0.1],
    }
    given = embedded(rows, vectors)
    found = by_uid(decide(given, priority=PRIORITY, semantic=SemanticParams(0.05)).table())
    assert {uid: (r["kind"], r["duplicate_of"]) for uid, r in found.items() if r["kind"]} == {
        "like": ("semantic", "best"),
        "near-like": ("near", "best"),
        "near-far": ("near", "far"),
        "same-as-far": ("exact_bytes", "far"),
    }
    assert found["like"]["distance"] == pytest.approx(1 - 1 / np.hypot(1, 0.1), abs=1e-3)
    assert {uid for uid, r in found.items() if r["group"] == "best"} == {"best", "like", "near-like"}
    without = by_uid(decide(given, priority=PRIORITY).table())
    assert without["near-like"]["duplicate_of"] == "like"


def test_equal_embeddings_and_chains_of_embeddings() -> None:
    rows = [row(f"row{n}", "web", jpeg(clock(n))) for n in range(9)]
    angles = [0, 0, 0, 8, 16, 24, 32, 40, 48]
    vectors = {f"row{n}": [np.cos(np.radians(a)), np.sin(np.radians(a))] for n, a in enumerate(angles)}
    limit = SemanticParams(1 - float(np.cos(np.radians(10))))
    found = by_uid(decide(embedded(rows, vectors), priority=[], semantic=limit).table())
    of = {uid: r["duplicate_of"] for uid, r in found.items()}
    assert of == {
        "row0": None, "row1": "row0", "row2": "row0", "row3": "row0", "row4": None, "row5": "row4", "row6": None,
        "row7": "row6", "row8": None,
    }  # fmt: skip


def test_evaluation_pictures_by_embedding(pool: Rows) -> None:
    given = embedded(pool, {"clock3": [1.0, 0.0], "clock1": [0.0, 1.0]})
    held_out = as_evaluation(pictures([row("a", "", jpeg(smiley(1))), row("b", "", jpeg(flag(2)))]), "held-out")
    vectors = np.zeros((1, given.vectors.shape[1] if given.vectors is not None else 0), np.float16)
    vectors[0, :2] = [1.0, 0.02]
    evaluation = Pictures(held_out.table, held_out.thumbs, vectors, np.array([1]))
    decided = decide(given, priority=[], evaluation=evaluation, eval_semantic=SemanticParams(0.01))
    assert decided.semantic is None and decided.hits.search == Search(1, 1, 1.0)
    found = by_uid(decided.table())
    values = found["clock3"]
    assert (values["eval_kind"], values["eval_item"]) == ("semantic", "b")
    assert values["eval_distance"] == pytest.approx(0.0002, abs=1e-3)
    assert found["clock1"]["eval_kind"] is None
    assert found["flag2"]["eval_kind"] == "exact_bytes"


def test_captions_change_no_verdict(pool: Rows) -> None:
    captions = caption_signatures(pa.chunked_array([["one and the same caption"] * len(pool)]))
    found = decide(pictures(pool), priority=PRIORITY, captions=captions).table()
    plain = verdicts(pictures(pool), priority=PRIORITY)
    columns = ["caption_of", "caption_similarity"]
    assert found.drop_columns(columns).equals(plain.drop_columns(columns))
    # Of the best source, the largest: all are equal there, so the smallest uid.
    assert set(found["caption_of"].to_pylist()) == {None, "b-same-bytes"}
    assert set(found["caption_similarity"].to_pylist()) == {None, 1.0}


@pytest.mark.parametrize("size", [40, 100])
def test_a_hash_that_many_share_does_not_pair_all_with_all(size: int) -> None:
    """40 pictures of one hash are all compared; 100 only with the first, and with the first of a hash nearby."""
    hashes = [7] * size + [6] * size + [2**60 - 1]
    table = pa.table(
        {
            "phash": pa.array(hashes, pa.uint64()),
            "original_width": pa.nulls(len(hashes), pa.int32()),
            "original_height": pa.nulls(len(hashes), pa.int32()),
        }
    )
    thumbs = np.random.default_rng(0).integers(0, 255, (len(hashes), 64, 64, 3), dtype=np.uint8)
    thumbs[:, :32] = np.random.default_rng(0).integers(0, 255, (len(hashes), 1, 1, 3), dtype=np.uint8)
    given = Pictures(table, thumbs.__getitem__)
    params = NearParams(hamming_radius=1, tangent_radius=0)
    rows = np.arange(len(hashes))
    found = set(map(tuple, self_candidates(given, rows, params).tolist()))
    few = {(0, n) for n in range(1, size)} | {(size, n) for n in range(size + 1, 2 * size)}
    few |= {(n, size) for n in range(size)} | {(0, n) for n in range(size, 2 * size)}
    every = {(a, b) for a in range(2 * size) for b in range(a + 1, 2 * size)}
    assert found == (every if size == 40 else few)
    crossed = set(map(tuple, cross_candidates(given, rows[:size], given, rows[size:], params).tolist()))
    assert crossed == {(a, b) for a in range(size) for b in range(size) if size == 40 or 0 in (a, b)}


def test_a_crowd_is_searched_by_pixels_in_its_nearest_clusters_only(
    pool: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, rows = pictures(pool), np.arange(len(pool))
    by_pixels = NearParams(hamming_radius=0)
    every = set(map(tuple, self_candidates(given, rows, by_pixels).tolist()))
    assert pixel_probes(len(rows), len(rows), by_pixels) is None
    monkeypatch.setattr(near_pairs, "_COMPLETE", 100)
    assert pixel_probes(len(rows), len(rows), by_pixels) == 16
    assert set(map(tuple, self_candidates(given, rows, by_pixels).tolist())) == every
    one = dataclasses.replace(by_pixels, tangent_probes=1)
    some = set(map(tuple, self_candidates(given, rows, one).tolist()))
    crossed = cross_candidates(given, rows[:9], given, rows[9:], one)
    assert some < every
    assert len(crossed)
    complete = dataclasses.replace(by_pixels, tangent_probes=None)
    assert pixel_probes(10**6, 10**6, complete) is None
    assert set(map(tuple, self_candidates(given, rows, complete).tolist())) == every
    off = NearParams(hamming_radius=64, tangent_radius=0)
    assert pixel_probes(10**6, 10**6, off) is None
    monkeypatch.setattr(near_pairs, "near_tangent_pairs", lambda *_, **__: pytest.fail("switched off"))
    assert len(self_candidates(given, rows, off))


def test_many_of_one_hash_are_compared_with_one_of_their_own_proportions() -> None:
    """100 blank squares and 100 blank strips: a strip is no candidate for a square, but for the first strip."""
    values, thumb = row("blank", "web", jpeg(flag(0)))
    sizes = [(100, 100), (200, 100)] * 100 + [(None, None)]
    rows: Rows = []
    for n, (width, height) in enumerate(sizes):
        own = {"uid": f"{n:03d}", "sha256": f"{n}", "pixel_hash": f"{n}"}
        rows.append(({**values, **own, "original_width": width, "original_height": height}, thumb))
    given = pictures(rows)
    found = verdicts(given, priority=[])
    assert sorted(set(found["group"].to_pylist())) == ["000", "001"]
    assert found["kind"].null_count == 2
    held_out = as_evaluation(pictures(rows[:2]), "held-out")
    table = held_out.table.set_column(held_out.table.column_names.index("sha256"), "sha256", pa.array(["a", "b"]))
    table = table.set_column(table.column_names.index("pixel_hash"), "pixel_hash", pa.array(["a", "b"]))
    leaks = verdicts(given, priority=[], evaluation=Pictures(table, held_out.thumbs))
    assert set(leaks["eval_kind"].to_pylist()) == {"near"}


@pytest.mark.parametrize("seed", [1, 2])
def test_order_of_rows_changes_nothing_where_many_share_a_hash(seed: int) -> None:
    """100 different pictures of one hash and 50 held-out ones: only with the first of each all are compared."""
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 255, 150)
    rows: Rows = []
    for n, shade in enumerate(shades):
        values, _ = row(f"{n:03d}", "web", jpeg(flag(0)))
        values.update(sha256=f"{n}", pixel_hash=f"{n}")
        rows.append((values, np.full((64, 64, 3), shade, np.uint8)))
    params = NearParams(tangent_radius=0)
    evaluation = as_evaluation(pictures(rows[100:]), "held-out")
    straight = verdicts(pictures(rows[:100]), priority=[], evaluation=evaluation, params=params)
    mixed = [rows[i] for i in np.random.default_rng(seed).permutation(100)]
    found = verdicts(pictures(mixed), priority=[], evaluation=evaluation, params=params)
    assert 0 < found["eval_set"].null_count < 100
    assert found.sort_by("uid").equals(straight.sort_by("uid"))


def test_many_equal_thumbnails_are_compared_with_the_first_only() -> None:
    """300 pictures that look alike and differ in their bytes: one comparison each, not 44,850."""
    values, thumb = row("blank", "web", jpeg(flag(0)))
    rows = [({**values, "uid": f"{n:03d}", "sha256": f"{n}", "pixel_hash": f"{n}"}, thumb) for n in range(300)]
    given = pictures(rows)
    compared: list[int] = []

    def verify(one: Pictures, first: Indices, other: Pictures, second: Indices) -> Floats:
        compared.append(len(first))
        return distances(one, first, other, second)

    found = decide(given, priority=[], verify=verify).table()
    assert found["duplicate_of"].to_pylist() == [None, *["000"] * 299]
    assert sum(compared) == 299
