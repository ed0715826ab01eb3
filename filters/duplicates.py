"""Duplicate verdicts: which pictures are the same, which of them stays, and which stand in an evaluation set.

A verdict is a fact about a row; nothing is deleted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.caption_groups import Signatures, caption_groups
from filters.clusters import Search, similar_pairs
from filters.decisions import Decisions
from filters.groups import (
    Floats,
    Indices,
    components,
    heads_of,
    is_repeat,
    keys_of,
    stars,
    survivor_order,
)
from filters.held_out import KINDS, Hits, SemanticParams, find_hits, no_hits
from filters.near_pairs import (
    NearParams,
    Pictures,
    Vectors,
    Verify,
    alike_in_shape,
    distances,
    embedded,
    readable,
    self_candidates,
)
from filters.products import distinct

__all__ = ["Decisions", "NearParams", "Pictures", "SemanticParams", "decide", "distances", "verdicts"]

Kinds = npt.NDArray[np.int8]

_EXACT_BYTES, _EXACT_PIXELS, _NEAR, _SEMANTIC = range(len(KINDS))
_CHUNK = 1 << 16


def verdicts(
    pictures: Pictures,
    *,
    priority: Sequence[str],
    evaluation: Pictures | None = None,
    eval_columns: Mapping[str, str] | None = None,
    params: NearParams | None = None,
    placeholder_urls: int | None = None,
) -> pa.Table:
    """What `decide` decides on `pictures` as a table, one row each in the same order.

    Columns `uid, kind, duplicate_of, distance, group, caption_of, caption_similarity, eval_set, eval_kind, eval_item,
    eval_distance`, and those that `eval_columns` names for evaluation sets: how the set holds the picture, or null.
    """
    found = decide(
        pictures, priority=priority, evaluation=evaluation, params=params, placeholder_urls=placeholder_urls
    )
    return found.table(eval_columns=eval_columns)


def decide(
    pictures: Pictures,
    *,
    priority: Sequence[str],
    evaluation: Pictures | None = None,
    params: NearParams | None = None,
    semantic: SemanticParams | None = None,
    eval_semantic: SemanticParams | None = None,
    placeholder_urls: int | None = None,
    captions: Signatures | None = None,
    caption_similarity: float = 0.8,
    verify: Verify = distances,
) -> Decisions:
    """Decisions on `pictures`, one for each row.

    `pictures.table` also has `uid` and `source`, and `score` where that may decide; `evaluation.table` has `eval_set`
    and `eval_item`. The survivor of a group is its first row in `survivor_order`: readable, source as in `priority`,
    larger original, higher score, smaller uid. `kind` is the closest relation of a row to any better row of its
    group: `exact_bytes`, `exact_pixels`, `near` or `semantic`; so dropping the exact kinds alone keeps one row of
    each set of equal pictures, and dropping all but semantic ones keeps one of each set of near ones. `distance` is
    that of this relation. A near picture was verified against the survivor of its near group, and the embeddings of
    all pictures of a semantic group were compared with that of its survivor: likeness does not pass along a chain.

    Bytes that more than `placeholder_urls` different URLs (column `url`, any type) gave are no picture of anything,
    but what servers send in place of one: all their rows, the first too, have the kind `placeholder`, and none
    survives. Another picture whose survivor they would be, such as the page in another format, remains its duplicate.
    Rows of one uid (nested pools as sources, a retry) are one sample, and no duplicates of each other.

    `semantic` (among pictures) and `eval_semantic` (with evaluation pictures) need `pictures.vectors` of all rows,
    and the second `evaluation.vectors`; either is had without the other. Rows whose `captions` (of
    `caption_signatures`) are alike name the first of them; this changes no verdict.

    The result does not depend on the order of the rows, nor on the number of threads as long as there are few enough
    embeddings to compare all with all (a k-means, see `filters.clusters`, may round differently).
    """
    params = params or NearParams()
    table = pictures.table
    order = survivor_order(table, priority)
    bytes_key, pixels_key = keys_of(table["sha256"]), keys_of(table["pixel_hash"])
    head = heads_of(order, bytes_key, pixels_key)
    survivor, distance, kind, group, search = _groups(pictures, order, head, bytes_key, params, semantic, verify)
    if placeholder_urls is not None:
        _mark_placeholders(table, bytes_key, placeholder_urls, survivor, distance, kind)
    caption_of, similarity = _caption_columns(captions, table["uid"], order, caption_similarity)
    hits: Hits = no_hits()
    if evaluation is not None and len(evaluation.table) and len(table):
        hits = find_hits(pictures, order, head, evaluation, params, eval_semantic, verify)
    items = None if evaluation is None else evaluation.table["eval_item"]
    return Decisions(table["uid"], kind, survivor, distance, group, caption_of, similarity, hits, items, search)


def _groups(
    pictures: Pictures,
    order: Indices,
    head: Indices,
    bytes_key: Indices,
    params: NearParams,
    semantic: SemanticParams | None,
    verify: Verify,
) -> tuple[Indices, Floats, Kinds, Indices, Search | None]:
    """Survivor, distance, kind and group of each row, and how embeddings were searched, as in `Decisions`."""
    heads = order[head[order] == order]
    seen = readable(pictures, heads)
    near, near_distance = _near_groups(pictures, seen, params, verify)
    survivor, distance, kind = _of_heads(seen, near, near_distance, len(order))
    search = None
    if semantic is not None and pictures.vectors is not None:
        search = _add_semantic(pictures.vectors, heads, survivor, distance, kind, semantic)
    survivor, distance, kind = survivor[head], distance[head], kind[head]
    exact = head != np.arange(len(head))
    distance[exact] = 0
    kind[exact] = _EXACT_PIXELS
    kind[is_repeat(bytes_key, order)] = _EXACT_BYTES
    again = _of_own_uid(pictures.table["uid"], survivor)
    distance[again], kind[again] = np.nan, -1
    grouped = np.zeros(len(head), np.bool_)
    grouped[survivor[kind >= 0]] = True
    group = np.where(grouped[survivor], survivor, -1)
    survivor[again] = again
    return survivor, distance, kind, group, search


def _of_own_uid(uid: pa.ChunkedArray, of: Indices) -> Indices:
    """The rows for which `of` (a row, or −1) names another row of the same uid."""
    rows = np.flatnonzero((of >= 0) & (of != np.arange(len(of))))
    same = pc.equal(uid.take(pa.array(rows)), uid.take(pa.array(of[rows])))
    return rows[np.array(same, np.bool_)]


def _near_groups(pictures: Pictures, heads: Indices, params: NearParams, verify: Verify) -> tuple[Indices, Floats]:
    """For each of `heads` (rows, the best first) the place of its near group's survivor, and the distance to it."""
    pairs = self_candidates(pictures, heads, params)
    distance = verify(pictures, heads[pairs[:, 0]], pictures, heads[pairs[:, 1]])
    # Members of a chain may not have been candidates of its first picture; they are verified against it all the same.
    of = components(len(heads), pairs[distance <= params.max_distance])
    _, first = np.unique(of, return_index=True)
    late = np.stack([first[of], np.arange(len(heads))], axis=1)
    late = late[(late[:, 0] != late[:, 1]) & ~np.isin(late @ [len(heads), 1], pairs @ [len(heads), 1])]
    late = late[alike_in_shape(pictures, heads[late[:, 0]], pictures, heads[late[:, 1]], params)]
    distance = np.concatenate([distance, verify(pictures, heads[late[:, 0]], pictures, heads[late[:, 1]])])
    pairs = np.concatenate([pairs, late])
    near = distance <= params.max_distance
    survivor = stars(len(heads), pairs[near])
    return survivor, _distance_to(survivor, pairs[near], distance[near])


def _distance_to(survivor: Indices, pairs: Indices, distance: Floats) -> Floats:
    """The distance of each node to its survivor, float32 [size], from those of `pairs`; NaN for a survivor."""
    to = np.full(len(survivor), np.nan, np.float32)
    chosen = survivor[pairs[:, 1]] == pairs[:, 0]
    to[pairs[chosen, 1]] = distance[chosen]
    return to


def _of_heads(heads: Indices, near: Indices, distance: Floats, size: int) -> tuple[Indices, Floats, Kinds]:
    """Survivor, distance and kind of all `size` rows, those of `heads` filled in."""
    survivor, distances_, kind = np.arange(size), np.full(size, np.nan, np.float32), np.full(size, -1, np.int8)
    survivor[heads], distances_[heads] = heads[near], distance
    kind[survivor != np.arange(size)] = _NEAR
    return survivor, distances_, kind


def _add_semantic(
    vectors: Vectors,
    heads: Indices,
    survivor: Indices,
    distance: Floats,
    kind: Kinds,
    params: SemanticParams,
) -> Search:
    """Let survivors of near groups survive no longer where the embedding of a better one is close; in place.

    Returns how embeddings were searched.
    """
    rows = embedded(vectors, heads[survivor[heads] == heads])
    chosen, to, search = _semantic_stars(vectors[rows], params)
    taken = np.flatnonzero(chosen != np.arange(len(rows)))
    new = survivor.copy()
    new[rows[taken]] = rows[chosen[taken]]
    # A near group goes over whole or not at all: each of its pictures is compared with the new survivor.
    members = heads[(survivor[heads] != heads) & (new[survivor[heads]] != survivor[heads])]
    far = _cosine_distance(vectors, members, new[survivor[members]]) > params.max_distance
    stay = survivor[members[far]]
    new[stay] = stay
    moved = rows[taken][new[rows[taken]] != rows[taken]]
    distance[moved] = to[taken][new[rows[taken]] != rows[taken]]
    kind[moved] = _SEMANTIC
    survivor[heads] = new[survivor[heads]]
    return search


def _semantic_stars(vectors: Vectors, params: SemanticParams) -> tuple[Indices, Floats, Search]:
    """For each of `vectors` (the best first) its survivor by cosine, the distance to it, and the search."""
    # Equal vectors are one node, as many as there may be.
    nodes, first_of = distinct(vectors)
    if len(nodes) < len(vectors):
        vectors = vectors[nodes]
    pairs, cosine, search = similar_pairs(
        vectors, 1 - params.max_distance, clusters=params.clusters, probes=params.probes, seed=params.seed
    )
    star = stars(len(nodes), pairs)
    to = _distance_to(star, pairs, np.clip(1 - cosine, 0, 1).astype(np.float32))
    node = np.searchsorted(nodes, first_of)
    return nodes[star[node]], np.nan_to_num(to[node]), search


def _cosine_distance(vectors: Vectors, a: Indices, b: Indices) -> Floats:
    """1 − cosine of rows `a` and rows `b`, pair by pair: float32 [P]."""
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(a), _CHUNK):
        left, right = (vectors[x[start : start + _CHUNK]].astype(np.float32) for x in (a, b))
        parts.append(np.clip(1 - np.einsum("nd,nd->n", left, right), 0, 1))
    return np.concatenate(parts)


def _mark_placeholders(
    table: pa.Table,
    bytes_key: Indices,
    most: int,
    survivor: Indices,
    distance: Floats,
    kind: Kinds,
) -> None:
    """Verdicts of placeholders, in place: none has a survivor; they stay in their group."""
    known = bytes_key >= 0
    often = np.flatnonzero(known & (np.bincount(bytes_key[known], minlength=1)[bytes_key] > most))
    rows = pa.table({"key": bytes_key[often], "url": table["url"].take(pa.array(often))})
    urls = rows.group_by("key").aggregate([("url", "count_distinct")])
    many = urls.filter(pc.greater(urls["url_count_distinct"], most))["key"]
    row = often[np.isin(bytes_key[often], np.array(many, np.int64))]
    kind[row], distance[row], survivor[row] = len(KINDS), 0, row


def _caption_columns(
    signatures: Signatures | None, uid: pa.ChunkedArray, order: Indices, threshold: float
) -> tuple[Indices, Floats]:
    if signatures is None:
        return np.full(len(order), -1, np.int64), np.full(len(order), np.nan, np.float32)
    caption_of, similarity = caption_groups(signatures, order, threshold)
    again = _of_own_uid(uid, caption_of)
    caption_of[again], similarity[again] = -1, np.nan
    return caption_of, similarity
