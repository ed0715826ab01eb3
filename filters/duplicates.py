"""Duplicate verdicts: which pictures are the same, which of them stays, and which stand in an evaluation set.

A verdict is a fact about a row; nothing is deleted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.candidates import Pairs, Thumbs, hamming_pairs, tangent_pairs
from filters.groups import components, equal_classes, is_repeat, keys_of, stars, survivor_order
from filters.near import THUMB, Floats, picture_distance

Indices = npt.NDArray[np.int64]

_VERDICTS = pa.schema(
    [
        ("uid", pa.string()),
        ("kind", pa.string()),
        ("duplicate_of", pa.string()),
        ("distance", pa.float32()),
        ("group", pa.string()),
        ("eval_set", pa.string()),
        ("eval_kind", pa.string()),
        ("eval_item", pa.string()),
    ]
)
_VERIFY_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class NearParams:
    """What counts as nearly the same picture.

    `hamming_radius` (bits of 64) and `tangent_radius` (0 to 1) bound the candidates, `max_distance` (0 to 1) the
    verified `picture_distance`; `max_aspect` bounds the difference of the logarithms of width/height, which a crop
    of 5 % on each side changes by 0.1.
    """

    hamming_radius: int = 8
    tangent_radius: float = 0.05
    max_distance: float = 0.09
    max_aspect: float = 0.15


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as columns: hashes and sizes, and a function from row numbers to thumbnails uint8 [n, 64, 64, 3].

    `table` has `sha256, pixel_hash` (string), `phash` (uint64), `original_width, original_height` (integers), any
    of them null where unknown: an unknown hash equals nothing. For placeholders it also has `url`.
    """

    table: pa.Table
    thumbs: Thumbs


def verdicts(
    pictures: Pictures,
    *,
    priority: Sequence[str],
    evaluation: Pictures | None = None,
    params: NearParams | None = None,
    placeholder_urls: int | None = None,
) -> pa.Table:
    """Verdicts on `pictures`, one row each in the same order: columns `uid, kind, duplicate_of, distance, group,
    eval_set, eval_kind, eval_item`.

    `pictures.table` also has `uid` and `source`, `evaluation.table` `eval_set` and `eval_item`. In a group the
    largest original survives, then the source that comes first in `priority`, then the smallest uid; `duplicate_of`
    and `group` name it. Every near member was verified against the survivor itself. `kind` is the closest relation
    of a row to any better row of its group: `exact_bytes`, `exact_pixels` or `near`; so dropping the exact kinds
    alone keeps one row of each set of equal pictures. `distance` is 0 for exact ones, else that to the survivor.
    Bytes that more than `placeholder_urls` different URLs gave are no picture of anything, but what servers send in
    place of one: all their rows, the first too, have the kind `placeholder`, and none survives.
    The result depends neither on the order of the rows nor on thread counts.
    """
    params = params or NearParams()
    table = pictures.table
    order = survivor_order(table, priority)
    bytes_key = keys_of(table["sha256"])
    classes = equal_classes(bytes_key, keys_of(table["pixel_hash"]))
    exact_bytes, exact = is_repeat(bytes_key, order), is_repeat(classes, order)
    heads = order[~exact[order]]
    head_of_class = np.empty(len(heads), np.int64)
    head_of_class[classes[heads]] = heads
    head = head_of_class[classes]
    survivor_of, distance_of = _near_members(pictures, heads, params)
    survivor = np.array([survivor_of.get(h, h) for h in head.tolist()], np.int64)
    dropped = survivor != np.arange(len(table))
    grouped = np.isin(survivor, survivor[dropped])
    kind = np.select([exact_bytes, exact], ["exact_bytes", "exact_pixels"], "near")
    distance = [0.0 if e else distance_of.get(row) for row, e in enumerate(exact.tolist())]
    uids = np.array(table["uid"].to_pylist(), dtype=object)
    columns = [
        table["uid"],
        pa.array(kind, mask=~dropped),
        pa.array(uids[survivor], pa.string(), mask=~dropped),
        pa.array(distance, pa.float32()),
        pa.array(uids[survivor], pa.string(), mask=~grouped),
        *_evaluation_columns(pictures, evaluation, heads, head, params),
    ]
    found = pa.table(columns, names=_VERDICTS.names).cast(_VERDICTS)
    return found if placeholder_urls is None else _with_placeholders(found, table, placeholder_urls)


def _with_placeholders(found: pa.Table, table: pa.Table, most: int) -> pa.Table:
    """The verdicts with those of placeholders in place: no survivor, and a group named by its smallest uid."""
    known = table.select(["sha256", "url", "uid"]).filter(pc.is_valid(table["sha256"]))
    groups = known.group_by("sha256").aggregate([("url", "count_distinct"), ("uid", "min")])
    groups = groups.filter(pc.greater(groups["url_count_distinct"], most))
    place = pc.index_in(table["sha256"], groups["sha256"])
    is_placeholder = pc.and_(pc.is_valid(place), pc.is_valid(table["sha256"]))
    texts = {
        "kind": pa.scalar("placeholder"),
        "duplicate_of": pa.scalar(None, pa.string()),
        "distance": pa.scalar(0.0, pa.float32()),
        "group": groups["uid_min"].take(place),
    }
    for name, value in texts.items():
        index = found.column_names.index(name)
        found = found.set_column(index, name, pc.if_else(is_placeholder, value, found[name]))
    return found.cast(_VERDICTS)


def _near_members(pictures: Pictures, heads: Indices, params: NearParams) -> tuple[dict[int, int], dict[int, float]]:
    """The survivor of each near member among the rows `heads` (best first), and its distance to that survivor."""
    candidates = _candidates(pictures, heads, pictures, heads, params)
    # One orientation for each pair, whatever the order of the rows: the distance is not quite symmetric.
    rank = np.empty(len(pictures.table), np.int64)
    rank[heads] = np.arange(len(heads))
    ranked = np.unique(np.sort(rank[candidates[candidates[:, 0] != candidates[:, 1]]], axis=1), axis=0)
    distance = _verify(pictures, heads[ranked[:, 0]], pictures, heads[ranked[:, 1]], params)
    # Members of a chain may not have been candidates of its first picture; they are verified against it all the same.
    of = components(len(heads), ranked[distance <= params.max_distance])
    _, first = np.unique(of, return_index=True)
    late = np.stack([first[of], np.arange(len(heads))], axis=1)
    late = late[(late[:, 0] != late[:, 1]) & ~np.isin(late @ [len(heads), 1], ranked @ [len(heads), 1])]
    distance = np.concatenate([distance, _verify(pictures, heads[late[:, 0]], pictures, heads[late[:, 1]], params)])
    ranked = np.concatenate([ranked, late])
    near, distance = ranked[distance <= params.max_distance], distance[distance <= params.max_distance]
    survivor_of = {int(heads[a]): int(heads[b]) for a, b in stars(len(heads), near).items()}
    rows = zip(heads[near].tolist(), distance.tolist(), strict=True)
    return survivor_of, {b: d for (a, b), d in rows if survivor_of.get(b) == a}


def _evaluation_columns(
    pictures: Pictures, evaluation: Pictures | None, heads: Indices, head: Indices, params: NearParams
) -> list[pa.Array]:
    """The columns `eval_set, eval_kind, eval_item`: the closest evaluation picture, by name among equals."""
    # The smallest (closeness, distance, set, item) wins, whatever the order of the evaluation pictures.
    best: list[tuple[int, float, str, str] | None] = [None] * len(pictures.table)
    if evaluation is not None:
        names = list(zip(*(evaluation.table[c].to_pylist() for c in ("eval_set", "eval_item")), strict=True))
        for closeness, column in enumerate(("sha256", "pixel_hash")):
            found = _first_names(evaluation.table[column].to_pylist(), names)
            for row, key in enumerate(pictures.table[column].to_pylist()):
                if key in found and best[row] is None:
                    best[row] = (closeness, 0.0, *found[key])
        near = _near_evaluation(pictures, heads, evaluation, names, params)
        best = [b or near.get(h) for b, h in zip(best, head.tolist(), strict=True)]
    kinds = ("exact_bytes", "exact_pixels", "near")
    return [
        pa.array([b and b[2] for b in best], pa.string()),
        pa.array([None if b is None else kinds[b[0]] for b in best], pa.string()),
        pa.array([b and b[3] for b in best], pa.string()),
    ]


def _first_names(keys: list[str | None], names: list[tuple[str, str]]) -> dict[str | None, tuple[str, str]]:
    found: dict[str | None, tuple[str, str]] = {}
    for key, name in zip(keys, names, strict=True):
        if key is not None:
            found[key] = min(name, found.get(key, name))
    return found


def _near_evaluation(
    pictures: Pictures, rows: Indices, evaluation: Pictures, names: list[tuple[str, str]], params: NearParams
) -> dict[int, tuple[int, float, str, str]]:
    """For each of `rows` that is near an evaluation picture: (2, distance, set, item) of the nearest."""
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    pairs = _candidates(pictures, rows, evaluation, by_name, params)
    distances = _verify(pictures, pairs[:, 0], evaluation, pairs[:, 1], params)
    best: dict[int, tuple[int, float, str, str]] = {}
    for (row, item), distance in zip(pairs.tolist(), distances.tolist(), strict=True):
        if distance <= params.max_distance:
            entry = (2, distance, *names[item])
            best[row] = min(entry, best.get(row, entry))
    return best


def _candidates(one: Pictures, rows: Indices, other: Pictures, others: Indices, params: NearParams) -> Pairs:
    """Pairs [P, 2] of row numbers (of `rows` and of `others`) worth verifying, of about the same proportions."""
    hashes = []
    for side, chosen in ((one, rows), (other, others)):
        column = side.table["phash"].take(pa.array(chosen))
        known = np.array(column.is_valid(), np.bool_)
        hashes.append((np.array(column.fill_null(0), np.uint64)[known], chosen[known]))
    (first, first_rows), (second, second_rows) = hashes
    by_hash = hamming_pairs(first, second, params.hamming_radius)
    by_pixels = tangent_pairs(
        lambda n: one.thumbs(rows[n]),
        len(rows),
        lambda n: other.thumbs(others[n]),
        len(others),
        params.tangent_radius,
    )
    found = np.concatenate(
        [
            np.stack([first_rows[by_hash[:, 0]], second_rows[by_hash[:, 1]]], axis=1),
            np.stack([rows[by_pixels[:, 0]], others[by_pixels[:, 1]]], axis=1),
        ]
    )
    found = np.unique(found, axis=0)
    aspects = (_log_aspect(one.table)[found[:, 0]], _log_aspect(other.table)[found[:, 1]])
    # An unknown size (NaN) excludes nothing.
    return np.asarray(found[~(np.abs(aspects[0] - aspects[1]) > params.max_aspect)], np.int64)


def _verify(one: Pictures, rows: Indices, other: Pictures, others: Indices, params: NearParams) -> Floats:
    """`picture_distance` float32 [P] of rows[p] of `one` and others[p] of `other`."""
    detail = np.minimum(_shorter_side(one.table)[rows], _shorter_side(other.table)[others])
    found = [np.empty(0, np.float32)]
    for start in range(0, len(rows), _VERIFY_BLOCK):
        block = slice(start, start + _VERIFY_BLOCK)
        found.append(picture_distance(one.thumbs(rows[block]), other.thumbs(others[block]), detail[block]))
    return np.concatenate(found)


def _sizes(table: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    width, height = (
        np.array(table[c].cast(pa.float64()).to_numpy(), np.float64) for c in ("original_width", "original_height")
    )
    return width, height


def _log_aspect(table: pa.Table) -> npt.NDArray[np.float64]:
    width, height = _sizes(table)
    return np.asarray(np.log(width / height), np.float64)


def _shorter_side(table: pa.Table) -> Indices:
    shorter = np.minimum(*_sizes(table))
    return np.where(np.isnan(shorter), THUMB, shorter).astype(np.int64)
